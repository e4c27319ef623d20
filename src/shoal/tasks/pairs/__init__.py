"""Parts that tasks of a source and its target share: vocabularies, rows, batches, objective."""
