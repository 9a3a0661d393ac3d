"""TensorRT and TensorRT-RTX: engines, and the bundle that builds one on a device."""
