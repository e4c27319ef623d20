"""English words in Pig Latin, letter by letter."""
