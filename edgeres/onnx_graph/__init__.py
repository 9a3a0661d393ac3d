"""ONNX graphs: reading, writing, counting, folding and rewriting."""
