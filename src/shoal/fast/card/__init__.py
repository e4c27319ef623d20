"""The fused kernels for a card, in Triton."""
