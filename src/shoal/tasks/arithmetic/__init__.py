"""Modular arithmetic: the task of the practical, and the algebraic tasks of the grokking literature."""
