"""Update rules, their settings, and schedules of the learning rate."""
