"""Pretrained embeddings: readers of word vectors, coverage of a vocabulary, and tables that models begin with."""
