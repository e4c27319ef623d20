"""A task, a model family, an update rule and a study of one's own for shoal."""
