"""Stand-ins for what this host has not: a GPU with its driver, TensorRT's builder, and an engine on ONNX Runtime."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import onnxruntime

from edgeres.backends.bundle import build_engine, engine


class HostCuda(engine.Cuda):
    """The driver's calls on this host's memory."""

    def __init__(self):
        self.blocks = {}
        self.stream = ctypes.c_void_p(7)

    def facts(self):
        return {"gpu": "stand-in", "sm": "8.7", "driver": 12060}

    def allocate(self, size):
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def release(self, address):
        del self.blocks[address]

    def upload(self, address, array):
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array, address):
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self):
        pass


@dataclass
class HostEngine:
    """An engine and its context whose kernels are ONNX Runtime's."""

    session: onnxruntime.InferenceSession
    addresses: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    num_io_tensors: int = 2

    def get_tensor_name(self, index):
        return ("logits", "image")[index]

    def get_tensor_mode(self, name):
        return "in" if name == "image" else "out"

    def get_tensor_shape(self, name):
        if name == "image":
            return (-1, 3, 32, 32)
        return (self.shape[0], 10)

    def get_tensor_profile_shape(self, name, index):
        return [(batch, 3, 32, 32) for batch in (1, 1, 3)]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7
        self.batches.append(self.shape[0])
        count = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["image"])).reshape(
            self.shape
        )
        logits = self.session.run(None, {"image": images})[0]
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True

    def create_engine_inspector(self):
        layers = [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8"}]}]
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))


def stand_in(engines):
    """A TensorRT whose plan is the ONNX file itself."""

    def deserialize(plan):
        engines.append(HostEngine(onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])))
        return engines[-1]

    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=object,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialize),
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
    )


class Config:
    """A builder configuration that keeps timing caches as bytes."""

    def create_timing_cache(self, data):
        return data

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"timed after " + self.cache)


def install(monkeypatch):
    """Puts all of them in place; the list fills with the engines that ran."""
    engines = []
    trt = stand_in(engines)

    def build_plan(trt, model, build, log, tune, watch):
        watch("building", 0.5)
        tune(Config())
        return model

    monkeypatch.setattr(engine, "Cuda", HostCuda)
    monkeypatch.setattr(engine, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(build_engine, "build_plan", build_plan)
    return engines
