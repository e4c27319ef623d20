"""The fused kernels for a GPU, in Triton."""
