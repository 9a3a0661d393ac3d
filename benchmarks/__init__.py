"""Speed, memory and accuracy, side by side with the peers; each module is one command that prints a table.

``python -m benchmarks.imagenette``: the main job on Imagenette, from which README's numbers come.
``python -m benchmarks.quantizers``: the same networks and images through every technique and every peer; see
docs/quantization.md.
``python -m benchmarks.calibration``: time and memory of calibration.

They need ``../shared`` beside the checkout; ``--json`` prints for machines. Exit codes: 0 measured, 1 something failed,
2 bad usage or ``../shared`` is absent.
"""
