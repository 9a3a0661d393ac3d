"""TensorRT and TensorRT-RTX backends, and the bundle that builds an engine on a device."""
