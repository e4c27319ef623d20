"""The same mathematics, sooner: what equal prefixes share is computed once, and what is not a product is fused.

Everything clever about speed lives here, behind one function, :func:`~shoal.fast.engine.choose_scorer`. The models in
:mod:`shoal.models` stay as a student reads them; a test holds each path here to them.
"""
