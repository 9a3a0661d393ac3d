import json
import os

import numpy as np
import pytest
from random_weights import random_weights

from edgeres.artifacts.artifact import (
    Baseline,
    Checkpoint,
    Engine,
    Exported,
    File,
    KernelCounts,
    ModelMetadata,
    Step,
    VerificationResult,
)
from edgeres.artifacts.budget_check import Predicted
from edgeres.artifacts.results import Latency, StageMetrics
from edgeres.artifacts.store import Store, write_beside
from edgeres.data.preprocess import Preprocess
from edgeres.errors import StoreError
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable

CARD = ModelMetadata(
    name="thin",
    preprocess=Preprocess(resize=16, crop=16),
    classes=("a", "b"),
    baseline=Baseline(score=50.0, predictions=(0, 1), labels=(0, 0), images="0" * 64),
    lineage=(Step(stage="train", settings={"epochs": 1}, metrics=StageMetrics(train_loss=0.1), notes=("n",)),),
)


LATENCY = Latency(p50_ms=1, p90_ms=2, p99_ms=3, low_ms=0.9, high_ms=1.1, n=50, warmup=5, stolen=None, p90_high_ms=2.5)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def checkpoint(thin):
    table = QuantTable(
        activations={"image": QParams(scale=(float(np.float32(0.1)),))},
        weights={},
        calibrator="mse",
        data="d",
        images=3,
    )
    teacher = Checkpoint(CARD, thin, random_weights(thin, 1))
    return Checkpoint(CARD, thin, random_weights(thin), table, teacher)


def exported(folder):
    files = []
    for name in ("model.onnx", "model.float.onnx", "calibration.json"):
        (folder / name).write_text(name)
        files.append(File.of(folder / name))
    return Exported(CARD, *files)


def verdict(folder):
    (folder / "engine.bin").write_bytes(b"engine")
    engine = Engine(
        exported(folder), "onnxruntime", "engine.bin", {"engine.bin": File.of(folder / "engine.bin")}, False, ("seen",)
    )
    census = KernelCounts(integer=1, weighted=2, counts={"Conv": 1}, how="counted")
    predicted = Predicted(value=1, low=0.5, high=2, basis="peaks")
    sure = ((0.9, 0.8), (0.7, 0.6))
    return VerificationResult(engine, 10, 5, (0, 1), (0, 0), census, predicted, {"int8": LATENCY}, 12.5, 9, sure)


@pytest.mark.parametrize("make", [checkpoint, exported, verdict])
def test_an_artifact_comes_back_as_it_was(store, thin, make):
    with store.workspace() as workspace:
        artifact = make(thin if make is checkpoint else workspace)
        store.keep("k" * 64, artifact, workspace, 1.5)
    entry = store.find("k" * 64)
    assert entry.seconds == 1.5
    assert entry.digest == entry.load().digest == artifact.digest
    assert getattr(entry.load(), "latencies", None) == getattr(artifact, "latencies", None)
    assert entry.steps == CARD.lineage


def test_files_of_an_earlier_stage_move_along(store):
    with store.workspace() as workspace:
        store.keep("a" * 64, exported(workspace), workspace, 0.0)
    before = store.find("a" * 64).load()
    with store.workspace() as workspace:
        (workspace / "bundle.txt").write_text("bundle")
        engine = Engine(before, "tensorrt", "bundle.txt", {"bundle.txt": File.of(workspace / "bundle.txt")})
        store.keep("b" * 64, engine, workspace, 0.0)
    after = store.find("b" * 64)
    for folder in store.root.glob("entries/aa/*"):
        for path in folder.iterdir():
            path.unlink()
    assert after.load().exported.model.path.read_text() == "model.onnx"


@pytest.mark.parametrize("name", ["*.safetensors", "artifact.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_entry_is_computed_again(store, thin, name, damage):
    with store.workspace() as workspace:
        entry = store.keep("k" * 64, checkpoint(thin), workspace, 0.0)
    path = next(entry.folder.glob(name))
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(
            data[: len(data) // 2] if damage == "truncate" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        )
    assert store.find("k" * 64) is None
    assert not path.exists()


def test_a_workspace_leaves_nothing_behind(store):
    def interrupted():
        with store.workspace() as workspace:
            (workspace / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert not list((store.root / "work").iterdir())
    assert store.find("k" * 64) is None


def test_workspaces_of_killed_processes_are_swept_and_of_living_ones_are_not(store):
    dead = store.root / "work" / "999999999-x"
    dead.mkdir(parents=True)
    with store.workspace() as workspace:
        store.sweep()
        assert workspace.is_dir()
    assert not dead.exists()


def test_an_unwritable_place_is_told_in_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"), Store(blocked / "cache").workspace():
        pass


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="No space left on device"):
        write_beside(path, b"after")
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_record_is_plain_json(store, thin):
    with store.workspace() as workspace:
        entry = store.keep("k" * 64, checkpoint(thin), workspace, 0.0)
    record = json.loads((entry.folder / "artifact.json").read_text())
    assert set(record) == {"artifact", "digest", "timings", "seconds", "steps", "sums"}
