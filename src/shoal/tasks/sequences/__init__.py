"""Sequences of observations for hidden Markov models: letters, symbols or numbers from files, or drawn from a model."""
