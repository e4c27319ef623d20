"""Fast paths with the mathematics of the models: shared prefixes are computed once, elementwise operations fused.

All code for speed is here, behind one function, :func:`~shoal.fast.engine.choose_scorer`. The models in
:mod:`shoal.models` stay as a student reads them; a test compares each path here with them.
"""
