"""ONNX Runtime: ONNX and ``.ort`` files."""
