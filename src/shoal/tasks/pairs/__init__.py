"""Pairs of a source and a target, such as a sentence and its translation."""
