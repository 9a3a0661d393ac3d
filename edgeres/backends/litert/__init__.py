"""LiteRT: ``.tflite`` files."""
