"""What users bring to ``edgeres compile``, a row for each kind: files of it and the words of its command line."""

from benchmarks.input_rows import checkpoints, data, heads, inputs, onnx_files

ROWS = (*inputs.ROWS, *data.ROWS, *heads.ROWS, *checkpoints.ROWS, *onnx_files.ROWS)
"""Every row of the table, in its order."""
