"""Task of translating sentences of one language to another."""
