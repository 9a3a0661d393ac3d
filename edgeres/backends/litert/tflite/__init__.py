"""LiteRT's ``.tflite`` files, written from ONNX graphs with their scales."""
