"""What moves the parameters: update rules, their settings, and schedules of the learning rate."""
