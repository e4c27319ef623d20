"""Task of sorting numbers."""
