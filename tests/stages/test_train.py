from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgeres.artifacts.artifact import File
from edgeres.artifacts.source import Source
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import DataError, ModelError, RecipeError, UsageError
from edgeres.model import presets as presets_module
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.pipeline.request import PreprocessFlags
from edgeres.pipeline.stages.stage import Context
from edgeres.pipeline.stages.train import Train, customary_transform
from edgeres.settings import parse, plain
from edgeres.targets.target import find_target
from edgeres.training.feed import Augment
from edgeres.training.method import HE, MODERN

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESS = Preprocess(resize=12, crop=12)
SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=8, kernel=3, stride=1, pool=False),
    stages=((Block(inner=(8,), out=8),), (Block(inner=(12,), out=16, stride=2, projected=True),)),
    classes=10,
)
SHORT = Train(epochs=3, batch=8, lr=0.05, augment=Augment(flip=False))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets_module.PRESETS, "tiny", SPEC)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Three classes told apart by their colour."""
    random = np.random.default_rng(0)
    labels = (0, 1, 2) * 8
    pixels = random.integers(0, 100, (24, 12, 12, 3), dtype=np.uint8)
    for array, label in zip(pixels, labels, strict=True):
        array[..., label] += 150
    split = Split("train", tuple(ArrayImage(array, "image") for array in pixels), labels)
    whole = Context(
        target=find_target("cpu"),
        train=split,
        calibration=split,
        tuning=split,
        validation=split,
        classes=("red", "green", "blue"),
        seed=3,
        workspace=tmp_path / "work",
        scratch=tmp_path / "scratch",
    )
    return whole.view(Train.reads)


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "given.safetensors"
    Network(graph(SPEC)).weights().save(path)
    return path


def _source(path: Path | None = None) -> Source:
    return Source("tiny", file=File.of(path) if path else None, preprocess=PREPROCESS)


def test_preset_is_trained_for_the_classes_of_the_data(context: Context) -> None:
    checkpoint = replace(SHORT, epochs=12)(_source(), context)
    assert checkpoint.spec == replace(SPEC, classes=3)
    assert checkpoint.metadata.classes == context.classes
    assert checkpoint.metadata.preprocess == PREPROCESS
    assert checkpoint.metadata.name == "tiny"
    (step,) = checkpoint.metadata.lineage
    assert step.stage == "train"
    assert step.metrics.images == 12 * 24
    assert step.settings["epochs"] == 12
    assert step.settings["label_smoothing"] == MODERN.label_smoothing
    assert 0 < step.metrics.train_loss < math.inf


def test_same_seed_same_bytes_other_seed_other_bytes(context: Context, tmp_path: Path) -> None:
    torch.manual_seed(11)
    first = SHORT(_source(), context)
    torch.manual_seed(12)
    again = SHORT(_source(), replace(context, scratch=tmp_path / "other"))
    assert first.digest == again.digest
    other = SHORT(_source(), replace(context, scratch=tmp_path / "third", seed=4))
    assert other.weights.digest != first.weights.digest


@pytest.mark.parametrize("change", [{"label_smoothing": 0.3}, {"precision": "bf16"}, {"weight_decay": 0.1}])
def test_settings_reach_the_loop(context: Context, tmp_path: Path, change: dict[str, object]) -> None:
    plain = replace(SHORT, precision="float32")
    first = plain(_source(), context)
    other = replace(plain, **change)(_source(), replace(context, scratch=tmp_path / "other"))
    assert first.weights.digest != other.weights.digest


def test_interrupted_training_yields_the_same_artifact(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeres.training import loop

    whole = SHORT(_source(), replace(context, scratch=tmp_path / "other"))
    isfinite, calls = loop.isfinite, []

    def interrupted(loss: float) -> bool:
        calls.append(loss)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return isfinite(loss)

    monkeypatch.setattr(loop, "isfinite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SHORT(_source(), context)
    resumed = SHORT(_source(), context)
    assert len(calls) == 5 + 9 - 3, "the second run goes on behind the first epoch"
    assert resumed.digest == whole.digest


def test_other_settings_do_not_take_up_the_snapshot(context: Context, tmp_path: Path) -> None:
    SHORT(_source(), context)
    longer = replace(SHORT, epochs=4)
    assert longer(_source(), context).digest == longer(_source(), replace(context, scratch=tmp_path / "new")).digest


def test_given_weights_get_a_new_head_where_the_classes_differ(context: Context, weights_file: Path) -> None:
    checkpoint = replace(SHORT, freeze="backbone")(_source(weights_file), context)
    given = Network(graph(SPEC)).weights().load(weights_file)
    assert checkpoint.spec.classes == 3
    assert checkpoint.weights["fc.weight"].shape == (3, 16)
    for key in given:
        if not key.startswith("fc."):
            assert np.array_equal(checkpoint.weights[key], given[key]), key


def test_given_weights_keep_their_head_where_the_classes_match(context: Context, weights_file: Path) -> None:
    gentle = replace(SHORT, lr=1e-9, weight_decay=0.0, ema=0.0)
    ten = replace(context, classes=tuple("0123456789"))
    checkpoint = gentle(_source(weights_file), ten)
    given = Network(graph(SPEC)).weights().load(weights_file)
    np.testing.assert_allclose(checkpoint.weights["fc.weight"], given["fc.weight"], atol=1e-6)
    assert not np.array_equal(checkpoint.weights["bn1.running_mean"], given["bn1.running_mean"])


def test_sizes_given_to_the_stage_travel_with_the_weights(context: Context) -> None:
    checkpoint = replace(SHORT, epochs=1, resize=10, crop=8)(_source(), context)
    assert checkpoint.metadata.preprocess == replace(PREPROCESS, resize=10, crop=8)


@pytest.mark.parametrize(
    ("name", "resize", "crop"),
    [("resnet20", 32, 32), ("resnet18", 256, 224), ("iresnet18", 112, 112), ("resnet50x4_clip", 288, 288)],
)
def test_the_transform_of_a_training_is_that_of_the_family_s_images(name: str, resize: int, crop: int) -> None:
    transform = customary_transform(replace(preset(name), channels=1))
    assert (transform.resize.plain, transform.crop.plain, transform.count) == (resize, crop, 1)


def test_recipe_fields_override_the_method_and_none_leaves_it() -> None:
    assert Train().method() == MODERN
    assert Train(recipe="he").method() == HE
    method = parse(Train, {"recipe": "he", "lr": 0.05, "schedule": {"kind": "cosine", "warmup": 0.1}}, "test").method()
    assert (method.lr, method.schedule.kind, method.weight_decay) == (0.05, "cosine", HE.weight_decay)
    assert parse(Train, plain(Train(epochs=3, augment=Augment(flip=False))), "test").method().augment.flip is False


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": 0}, "epochs"),
        ({"lr": -1}, "lr"),
        ({"augment": {"flipp": True}}, "augment.flipp"),
        ({"recipe": "old"}, "recipe"),
    ],
)
def test_bad_entries_are_refused(entry: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(Train, entry, "test", RecipeError)


def test_bad_input_is_refused_with_the_way_out(context: Context) -> None:
    with pytest.raises(UsageError, match="random features"):
        replace(SHORT, freeze="backbone")(_source(), context)
    with pytest.raises(ModelError, match="did you mean"):
        SHORT(Source("resnet19"), context)
    with pytest.raises(DataError, match="2 classes"):
        SHORT(_source(), replace(context, classes=("red", "green")))


@pytest.mark.parametrize(("channels", "count"), [("grey", 1), ("bands", 3)])
def test_statistics_of_other_channels_are_measured_where_they_are_not_stated(context, channels, count) -> None:
    stated = PreprocessFlags(resize=12, crop=12, channels=channels)
    source = Source("tiny", preprocess=stated.over(None), left_open=stated.measured)
    checkpoint = replace(SHORT, epochs=1)(source, context)
    assert checkpoint.spec.channels == count
    assert checkpoint.weights["conv1.weight"].shape[1] == count
    preprocess = checkpoint.metadata.preprocess
    images = np.concatenate([images for images, _ in context.train.batches(preprocess)])
    if count != 3:
        assert "measured on training images" in " ".join(checkpoint.metadata.lineage[-1].notes)
        np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=1e-3)
        np.testing.assert_allclose(images.std((0, 2, 3)), 1, atol=1e-3)


def test_other_channels_than_those_of_the_weights_are_refused(context: Context, weights_file: Path) -> None:
    grey = Preprocess(resize=12, crop=12, mean=(0.5,), std=(0.2,), channels="grey")
    with pytest.raises(DataError, match="reads images of 3 channels, the preprocessing has 1"):
        SHORT(replace(_source(weights_file), preprocess=grey), context)
