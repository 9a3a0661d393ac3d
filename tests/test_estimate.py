"""How long training from random weights would take is said before it begins, from a closed form."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgeres.artifacts.store import Store
from edgeres.cli import main
from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.pipeline import estimate
from edgeres.pipeline.estimate import training_from_scratch
from edgeres.pipeline.plan import prepare
from edgeres.pipeline.request import Request
from edgeres.pipeline.runner import Pipeline
from edgeres.settings import parse

SPEED = 1e9


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of distinct noise: 40 training and 10 validation images each."""
    root, random = tmp_path_factory.mktemp("estimate"), np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return str(root)


def pipeline(tmp_path, **asked):
    asked = {"model": "resnet20", "target": "cpu", "calibration": 32, **asked}
    return Pipeline(prepare(parse(Request, asked, "test")), Store(tmp_path))


@pytest.mark.parametrize(
    ("flags", "changes", "side"),
    [
        ({}, (), 32),
        ({"exif": "apply"}, (), 32),
        ({"crop": 8, "resize": 8}, (), 8),
        ({}, ("train.crop=16", "train.resize=16"), 16),
    ],
)
@pytest.mark.parametrize("epochs", [1, 30])
def test_training_takes_three_passes_an_image_an_epoch_at_the_size_it_trains_at(
    tmp_path, monkeypatch, images, flags, changes, side, epochs
):
    monkeypatch.setattr(estimate, "_speed", lambda: SPEED)
    planned = pipeline(tmp_path, data=images, preprocess=flags, changes=(f"train.epochs={epochs}", *changes))
    network = macs(graph(replace(preset("resnet20"), classes=2)), side, side)
    seen = len(planned.plan.dataset.train)
    assert 0 < seen <= 80
    assert training_from_scratch(planned) == pytest.approx(3 * seen * epochs * network / SPEED + 3)


def test_it_is_said_first_and_not_again_once_the_weights_are_there(tmp_path, monkeypatch, capsys, images):
    monkeypatch.chdir(tmp_path)
    command = ["compile", "resnet20", "--target", "cpu", "--data", images, "--calibration", "32", "--crop", "8"]
    command += ["--resize", "8", "--set", "train.epochs=1", "--until", "train", "--out", "run", "--cache", "cache"]
    assert main(command) == 0
    said = capsys.readouterr().err
    note = "no --weights: resnet20 is trained from random weights on"
    assert note in said
    assert "--weights FILE starts from trained ones" in said
    assert said.index(note) < said.index("train  ")
    assert main(command) == 0
    assert note not in capsys.readouterr().err
