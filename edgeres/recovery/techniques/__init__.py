"""Quantization techniques, one ``Technique`` to a file; ``edgeres.recovery.registry`` finds them here."""
