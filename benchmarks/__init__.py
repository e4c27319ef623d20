"""What the engine is compared with: the same runs, trained by other means."""
