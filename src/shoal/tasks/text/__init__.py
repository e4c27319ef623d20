"""Language modelling: where text comes from, and what its tokens are."""
