"""Benchmarks of the engine beside the same runs trained by other means."""
