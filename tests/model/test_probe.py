"""The probe finds the transform a network was made for."""

from dataclasses import replace

import numpy as np
import pytest

from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.probe import Trial, budget, candidates, choose, probe
from edgeres.model.spec import Block, ResNetSpec, Stem, preset
from edgeres.model.weights import Weights

SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=2, kernel=1, stride=1, pool=False),
    stages=((Block(inner=(2,), out=2),),),
    classes=2,
    norm=False,
)


def brightness_meter(mean, std, threshold=0.5):
    """A network that says whether the mean red pixel is above a threshold, given inputs normalised so."""
    arrays = {key: np.zeros(shape) for key, shape in graph(SPEC).parameters.items()}
    arrays["conv1.weight"][0, 0] = std
    arrays["conv1.bias"][0] = mean
    arrays["fc.weight"][:, 0] = [-20, 20]
    arrays["fc.bias"][:] = [20 * threshold, -20 * threshold]
    return Network(SPEC, Weights(arrays))


def greys(count, threshold=0.25):
    """Plain images; those darker than the threshold are of class 0."""
    values = np.linspace(20, 110, count)
    images = tuple(ArrayImage(np.full((40, 40, 3), round(value), np.uint8), f"grey {value:.0f}") for value in values)
    return Split("tuning", images, tuple(int(round(value) > 255 * threshold) for value in values))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.5,) * 3, (0.5,) * 3)],
)
def test_the_right_normalisation_wins(mean, std):
    done = []
    split = greys(80)
    best, trials = probe(brightness_meter(mean[0], std[0], 0.25), split, done.append)
    assert (best.preprocess.mean, best.preprocess.std) == (mean, std)
    assert best.top1 == 100
    assert len(best.right) == 80
    assert len(trials) == len(candidates(SPEC)) + 3
    assert sum(done) == budget(SPEC, len(split))


def test_the_right_size_wins():
    """A ring is visible at its size alone: a dark margin tells which crop was taken."""
    images, labels = [], []
    for index in range(40):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[4:36, 4:36] = 140 if index % 2 else 110
        images.append(ArrayImage(pixels, f"square {index}"))
        labels.append(index % 2)
    threshold = 125 / 255 * (32 / 36) ** 2  # resize 36, crop 32 leaves a margin of 1.6 pixels around 28.8
    network = brightness_meter(0.485, 0.229, threshold * 0.911)
    best, trials = probe(network, Split("tuning", tuple(images), tuple(labels)), lambda _: None)
    assert (best.preprocess.resize, best.preprocess.crop) == (36, 32)
    assert any(trial.top1 < 60 for trial in trials)


def test_images_without_label_are_passed_over():
    split = greys(20)
    mixed = Split("tuning", split.images, (-1, -1, *split.labels[2:]))
    best, _ = probe(brightness_meter(0.485, 0.229), mixed, lambda _: None)
    assert len(best.right) == 18


def test_candidates_follow_the_stem():
    assert candidates(preset("resnet50"))[0] == Preprocess(resize=256, crop=224)
    assert Preprocess(resize=0, crop=224) in candidates(preset("resnet50"))
    assert candidates(preset("resnet20"))[0] == Preprocess(resize=32, crop=32)


def trial(right, loss, crop):
    right = np.array(right, dtype=bool)
    return Trial(Preprocess(resize=crop, crop=crop), right, np.full(len(right), loss))


def test_a_clear_lead_beats_custom():
    ahead = trial([True] * 60 + [False] * 40, 2.0, 32)
    behind = trial([True] * 40 + [False] * 60, 0.1, 64)
    assert choose([behind, ahead]) is ahead


def test_within_noise_the_customary_wins():
    """Thirteen images only the one gets right, nine only the other: a lead of 4, less than the square root of 22."""
    ahead = trial([True] * 13 + [False] * 9 + [True] * 40, 0.1, 32)
    usual = trial([False] * 13 + [True] * 9 + [True] * 40, 2.0, 64)
    assert choose([usual, ahead]) is usual
    assert choose([ahead, usual]) is ahead


def test_labels_say_what_was_tried():
    assert trial([True, False], 1.0, 32).label == "resize 32, crop 32, mean 0.485/0.456/0.406: 50.0 % of 2"
    none = replace(trial([True], 1.0, 32), preprocess=Preprocess(resize=0, crop=224))
    assert none.label.startswith("no resize, crop 224")
