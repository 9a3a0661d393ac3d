"""Kinds of image sources; each is one module with a ``SourceKind``, which ``registry`` lists."""
