"""Every name the TensorRT adapter reads, held against the real bindings of each version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorrt_uses import OWNERS, uses

from edgeres.backends.bundle import build_engine, engine

FILES = (Path(engine.__file__), Path(build_engine.__file__))
RECORDED = json.loads((Path(__file__).parent / "tensorrt_names.json").read_text())
EVERYWHERE, SOMEWHERE = set(RECORDED["everywhere"]), RECORDED["somewhere"]
ASKED_ELSEWHERE = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",  # read only where the graph was made for strong typing
    "BuilderFlag.FP16",  # the names come from the manifest; each one is asked for first
    "IProgressMonitor.phase_start",  # methods of the class that a condition stands in front of
    "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
}


def read():
    plain, asked = set(), set()
    for path in FILES:
        found = uses(path)
        plain |= {name for name in found[0] if not name.endswith("__")}
        asked |= found[1]
    return plain - asked, asked


def test_a_name_read_without_a_condition_is_in_every_version():
    assert read()[0] - ASKED_ELSEWHERE == EVERYWHERE


def test_names_missing_in_some_version_are_guarded_by_hasattr():
    assert read()[1] | ASKED_ELSEWHERE == set(SOMEWHERE)
    assert all(0 < len(versions) < len(RECORDED["sources"]) for versions in SOMEWHERE.values())


def test_every_kind_of_tensorrt_object_is_checked():
    """A handle that is renamed in the source would go unchecked: each known one has to turn up."""
    plain, asked = read()
    owners = {name.partition(".")[0] for name in plain | asked}
    assert owners >= set(OWNERS.values()) | {"MemoryPoolType", "TensorIOMode", "LayerInformationFormat"}


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt"])
def test_what_is_installed_here_agrees(module):
    if module == "tensorrt":
        pytest.importorskip("tensorrt_bindings", exc_type=ImportError)
    trt = pytest.importorskip(module, exc_type=ImportError)

    def there(name):
        owner, _, attribute = name.partition(".")
        return hasattr(getattr(trt, owner) if owner else trt, attribute)

    assert {name for name in EVERYWHERE if not there(name)} == set()
    if module == "tensorrt_rtx":  # of today's generation: what came stays, what 11 dropped is gone
        assert {name for name in SOMEWHERE if there(name)} == {
            name for name, versions in SOMEWHERE.items() if versions[-1] == "11.4.0.106"
        }
