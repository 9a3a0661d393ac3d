"""What a float network is refused for before anything is built from it, by either road in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from template_network import CLASSES, onnx_file, plain_images, tensors

from edgeres.artifacts.artifact import Checkpoint, File
from edgeres.artifacts.source import Source
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import ChanceError, DataError
from edgeres.model.probe import NORMALISATIONS, Normalisation
from edgeres.pipeline.stages.evaluate import Evaluate
from edgeres.pipeline.stages.load import Load
from edgeres.pipeline.stages.load_onnx import LoadOnnx
from edgeres.pipeline.stages.stage import Context
from edgeres.targets.target import find_target

IMAGENET = NORMALISATIONS[0]
SORTED = tuple(range(6))
SLIP = Preprocess(resize=32, crop=32, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
FIELDS = tuple(Preprocess.__dataclass_fields__)
ROADS = ("weights", "onnx")


def source(road, folder, one=IMAGENET, order=SORTED, side=32, **stated):
    if road == "onnx":
        return Source("theirs", file=File.of(onnx_file(folder / "theirs.onnx", one, order, side)), **stated)
    path = folder / "theirs.safetensors"
    save_file(tensors(one, order), str(path))
    return Source("resnet20", file=File.of(path), **stated)


def window(stage, folder, tuning, validation=None, allow=()):
    folder.mkdir(exist_ok=True)
    validation = validation or plain_images(120, seed=7)
    classes = CLASSES[: max(tuning.labels) + 1] if len(tuning) else CLASSES
    whole = Context(
        target=find_target("cpu"), train=tuning, calibration=tuning, tuning=tuning, validation=validation,
        classes=classes, seed=0, workspace=folder, scratch=folder, allow=frozenset(allow),
    )  # fmt: skip
    return whole.view(stage.reads)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a constructed network by a road; returns the metadata."""
    from edgeres.model import zoo

    monkeypatch.setattr(zoo, "reconcile", lambda spec, hint: ())  # the network goes by no preset's name

    def run(road, *, tuning=None, validation=None, allow=(), **source_of):
        stage = LoadOnnx() if road == "onnx" else Load()
        given = source(road, tmp_path, **source_of)
        folder = tmp_path / "work"
        return stage(given, window(stage, folder, tuning or plain_images(120), validation, allow)).metadata

    return run


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("one", [*NORMALISATIONS, replace(NORMALISATIONS[5], channels="bgr")])
def test_the_normalisation_a_network_was_trained_with_is_found_and_shown(load, road, one):
    metadata = load(road, one=one)
    found = metadata.preprocess
    (step,) = metadata.lineage
    assert step.metrics.probe_top1 == 100
    if one is not NORMALISATIONS[1]:  # CIFAR's statistics answer no image otherwise than ImageNet's
        assert Normalisation(found.mean, found.std, found.channels) == one
    (shown,) = step.shown
    assert "preprocessing found by trying" in shown
    assert found.label in shown
    assert shown in step.notes
    assert found.options in " ".join(step.notes)


@pytest.mark.parametrize("road", ROADS)
def test_what_is_stated_holds_where_it_answers_above_chance(load, road):
    """The stated transform answers some images wrong; the customary one would be right on all."""
    stated = Preprocess(resize=32, crop=32, mean=(0.42, 0.456, 0.406))
    metadata = load(road, preprocess=stated)
    assert metadata.preprocess == stated
    shown = metadata.lineage[0].shown[0]
    assert "fits clearly worse than a customary one" in shown
    assert "--mean 0.485,0.456,0.406" in shown


@pytest.mark.parametrize("road", ROADS)
def test_a_stated_slip_of_scale_is_an_error_that_names_what_fits(load, road):
    with pytest.raises(ChanceError) as caught:
        load(road, preprocess=SLIP)
    assert "the float network answers at chance: preprocessing, class order or labels" in caught.value.what
    assert "fits better: 120 of 120 images right" in caught.value.what
    assert " tried, the best: resize 32" in caught.value.what
    assert caught.value.what.count("loss") == 6
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("road", ROADS)
def test_labels_that_mean_nothing_are_an_error_unless_allowed(load, road):
    images = plain_images(300)
    drawn = np.random.default_rng(0).integers(0, 6, 300)
    noise = Split("tuning", images.images, tuple(drawn.tolist()))
    with pytest.raises(ChanceError, match=r"no customary preprocessing and no other order .* --allow chance"):
        load(road, tuning=noise)
    metadata = load(road, tuning=noise, allow=["chance"])
    assert any("at chance, as allowed" in note for note in metadata.lineage[0].shown)


@pytest.mark.parametrize("road", ROADS)
def test_few_images_never_refuse_a_network(load, road):
    images = plain_images(12)
    drawn = tuple(int(label) for label in np.random.default_rng(2).integers(0, 6, 12))
    metadata = load(road, tuning=Split("tuning", images.images, (*drawn[:-1], 5)))
    assert metadata.preprocess.mean == IMAGENET.mean


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("order", [(1, 0, 2, 3, 4, 5), (3, 5, 0, 4, 1, 2)])
def test_another_order_of_the_classes_is_found_and_told(load, road, order):
    with pytest.raises(DataError) as caught:
        load(road, order=order)
    names = ", ".join(CLASSES[label] for label in order)
    assert f"outputs in order: {names}" in caught.value.what
    assert "100.0 % in another" in caught.value.what
    assert "--classes FILE" in caught.value.hint


def test_a_stated_order_is_taken_as_meant_while_the_network_is_above_chance(load):
    order = (1, 0, 2, 3, 4, 5)
    assert load("weights", order=order, classes=CLASSES).classes == CLASSES
    with pytest.raises(DataError, match="numbered in another order"):
        load("weights", order=(1, 2, 3, 4, 5, 0), classes=CLASSES)


@pytest.mark.parametrize("road", ROADS)
def test_two_classes_that_changed_places_are_told(load, road):
    with pytest.raises(DataError, match="outputs in order: bee, ant"):
        load(road, order=(1, 0), tuning=plain_images(60, classes=2), validation=plain_images(40, classes=2))


@pytest.mark.parametrize("road", ROADS)
def test_one_stated_value_leaves_the_rest_to_the_search(load, road):
    fields = tuple(name for name in FIELDS if name != "resize")
    one = NORMALISATIONS[2]
    metadata = load(road, one=one, preprocess=Preprocess(resize=40, crop=40), left_open=fields)
    assert metadata.preprocess.resize == (40, 40)
    assert metadata.preprocess.crop.height <= 40
    assert metadata.preprocess.mean == one.mean


def test_a_graph_for_any_size_is_tried_at_customary_sizes(load):
    metadata = load("onnx", one=NORMALISATIONS[4], side=None)
    assert metadata.preprocess.std == NORMALISATIONS[4].std
    assert (metadata.preprocess.resize, metadata.preprocess.crop) == ((256, 256), (224, 224))


def test_what_lies_beside_the_weights_is_taken_and_checked(load):
    suggested = Preprocess(resize=36, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    metadata = load("weights", one=NORMALISATIONS[2], suggested=suggested)
    assert metadata.preprocess == suggested
    assert "preprocessing as stated with the weights" in metadata.lineage[0].notes
    with pytest.raises(ChanceError, match="fits better"):
        load("weights", suggested=replace(SLIP, resize=36))


def test_a_validation_set_of_other_labels_is_an_error(load, tmp_path):
    """Tuning images are fine; in the validation folder every label stands for another class."""
    images = plain_images(400, seed=9)
    drawn = tuple(int(label) for label in np.random.default_rng(3).integers(0, 6, 400))
    other = Split("validation", images.images, drawn)
    with pytest.raises(ChanceError, match="among the validation images"):
        load("onnx", validation=other)
    stage = Load()
    made = stage(source("weights", tmp_path), window(stage, tmp_path / "work", plain_images(120), other))
    assert isinstance(made, Checkpoint)
    context = window(Evaluate(), tmp_path / "work", plain_images(120), other)
    with pytest.raises(ChanceError, match="among the validation images"):
        Evaluate()(made, context)
    allowed = window(Evaluate(), tmp_path / "work", plain_images(120), other, ["chance"])
    assert "as allowed" in Evaluate()(made, allowed).metadata.lineage[-1].shown[0]
