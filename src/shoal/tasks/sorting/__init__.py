"""Numbers in their order."""
