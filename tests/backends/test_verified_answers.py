"""Answers of what ships and of its float twin on every validation image."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from drawn_networks import export, tiny

from edgeres.artifacts.artifact import Baseline, Engine
from edgeres.backends.registry import find_backend
from edgeres.backends.tensorrt.loader import TensorRT
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.pipeline.parallel import AHEAD
from edgeres.pipeline.stages import verify
from edgeres.pipeline.stages.stage import Context
from edgeres.pipeline.stages.verify import Verify
from edgeres.progress import Silent
from edgeres.targets.target import find_target
from edgeres.tasks.kinds.classification import Classification

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESS = Preprocess(resize=0, crop=32)


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(0)
    images = tuple(ArrayImage(random.integers(0, 256, (32, 32, 3), np.uint8), f"noise {i}") for i in range(45))
    return Split("validation", images, tuple(int(label) for label in random.integers(0, 10, 45)))


def engine_for(name: str, split: Split, folder: Path) -> tuple[Engine, Context]:
    """A drawn network, built for a target; what a Jetson would build is simulated."""
    target = find_target(name)
    exported = export(folder / "export", tiny(), 32, "signed" if name == "jetson" else "unsigned")
    labels = tuple(split.labels)
    baseline = Baseline(score=100.0, predictions=labels, labels=labels, images=split.digest)
    metadata = replace(exported.metadata, preprocess=PREPROCESS, baseline=baseline)
    exported = replace(exported, metadata=metadata, scales=exported.model)
    context = Context(target, split, split, split, split, tuple("0123456789"), 0, folder, folder)
    if name == "jetson":
        files = {"model.onnx": exported.model}
        return Engine(exported, "tensorrt", "model.onnx", files, runs_here=False), context
    (folder / "built").mkdir()
    return find_backend(target.backend).build(exported, target, folder / "built", Silent()), context


@pytest.mark.parametrize("name", ["jetson", "cpu", "x86", "cpu:litert", "android"])
def test_answers_are_those_of_each_image_alone_on_any_number_of_cores(
    name: str, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine, context = engine_for(name, split, tmp_path)
    backend = find_backend(context.target.backend)
    alone = []
    for opened in (
        backend.engine_session(engine, context.target, threads=1),
        backend.session(engine.exported.float_model.path, context.target, threads=1),
    ):
        with opened as session:
            images = (image for batch, _ in split.batches(PREPROCESS) for image in batch)
            alone.append(np.concatenate([np.array(session.run(image[None])) for image in images]))
    shipped, twin = alone
    for cores in (1, 3):
        monkeypatch.setattr(verify, "cores", lambda cores=cores: cores)
        found = Verify(seconds=0.01)(engine, context)
        assert found.predictions == tuple(shipped.argmax(1).tolist())
        assert found.float_predictions == tuple(twin.argmax(1).tolist())
        sure = zip(
            Classification().confidences(twin).round(4).tolist(),
            Classification().confidences(shipped).round(4).tolist(),
            strict=True,
        )
        assert found.confidences == tuple(sure)


class Watched:
    """A split that counts the bytes of its batches that are held somewhere whenever another one is taken."""

    def __init__(self, split: Split) -> None:
        self._split, self._batches, self.most = split, [], 0

    def __len__(self) -> int:
        return len(self._split)

    @property
    def labels(self):
        return self._split.labels

    @property
    def held(self) -> int:
        alive = (batch() for batch in self._batches)
        return sum(images.nbytes for images in alive if images is not None)

    def batches(self, preprocess: Preprocess, size: int):
        for images, labels in self._split.batches(preprocess, size):
            self._batches.append(weakref.ref(images))
            self.most = max(self.most, self.held)
            yield images, labels
            del images


def test_images_in_memory_are_bounded_by_the_threads_and_not_by_the_split(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine, context = engine_for("jetson", split, tmp_path)
    monkeypatch.setattr(verify, "_BATCH", 2)
    monkeypatch.setattr(verify, "cores", lambda: 3)
    watched = Watched(split)
    deployed, *_ = verify._answers(TensorRT(), engine, replace(context, validation=watched))
    assert len(deployed.predictions) == len(split) == 45
    assert 0 < watched.most <= (3 + AHEAD) * 2 * 3 * 32 * 32 * 4
    assert watched.held == 0


def test_logits_that_are_no_numbers_are_refused(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, context = engine_for("cpu", split, tmp_path)

    class Broken:
        def run(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 10), np.nan, np.float32)

    monkeypatch.setattr(type(find_backend("onnxruntime")), "session", lambda *_, **settings: nullcontext(Broken()))
    with pytest.raises(StageError, match="NaN or infinity"):
        Verify()(engine, context)
