"""Fused kernels for a GPU, in Triton."""
