"""Task of language modelling: text files, tokenizers, windows, scores."""
