"""The table of backends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeres.backends.registry import backends, find_backend
from edgeres.errors import TargetError
from edgeres.targets.target import targets


def test_every_target_names_a_backend_there_is():
    assert {target.backend for target in targets().values()} <= set(backends())


def test_a_backend_is_found_by_its_own_name():
    for name in backends():
        assert find_backend(name).name == name


def test_a_misspelt_backend_gets_the_nearest_name():
    with pytest.raises(TargetError, match="did you mean 'openvino'"):
        find_backend("openvno")


def test_the_table_loads_no_runtime():
    heavy = "('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'nncf', 'executorch')"
    script = f"import sys, edgeres.backends.registry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
