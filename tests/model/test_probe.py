"""The search finds the transform a network was made for, and takes another than the customary one for good reason."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgeres.data.content import WholeFile
from edgeres.data.images import ArrayImage, EncodedImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.split import Split
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.probe import NORMALISATIONS, SMALL, Space, attempt, customary, customary_for, labelled, search
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights

SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=2, kernel=1, stride=1, pool=False),
    stages=((Block(inner=(2,), out=2),),),
    classes=2,
    norm=False,
)
FIELDS = tuple(Preprocess.__dataclass_fields__)


def brightness_meter(mean, std, threshold=0.5, channel=0):
    """A network that says whether the mean of an input channel is above a threshold, given inputs normalised so."""
    arrays = {key: np.zeros(shape) for key, shape in graph(SPEC).parameters.items()}
    arrays["conv1.weight"][0, channel] = std
    arrays["conv1.bias"][0] = mean
    arrays["fc.weight"][:, 0] = [-20, 20]
    arrays["fc.bias"][:] = [20 * threshold, -20 * threshold]
    return Network(graph(SPEC), Weights(arrays)).logits


def greys(count, threshold=0.25):
    """Plain images; those darker than the threshold are of class 0."""
    values = np.linspace(50, 78, count)
    images = tuple(ArrayImage(np.full((40, 40, 3), round(value), np.uint8), f"grey {value:.0f}") for value in values)
    return Split("tuning", images, tuple(int(round(value) > 255 * threshold) for value in values))


def found(answers, split, space=None):
    return search(answers, labelled(split), space or Space.open(Preprocess(), SMALL, FIELDS), lambda _: None)


@pytest.mark.parametrize("one", NORMALISATIONS)
def test_the_right_normalisation_wins(one):
    done = []
    split, space = greys(80), Space.open(Preprocess(), SMALL, FIELDS)
    result = search(brightness_meter(one.mean[0], one.std[0], 0.25), labelled(split), space, done.append)
    best = result.best
    assert (best.preprocess.mean, best.preprocess.std, best.preprocess.channels) == (one.mean, one.std, "rgb")
    assert best.top1 == 100
    assert len(best.labels) == 80
    assert 80 < sum(done) <= space.budget(80)


@pytest.mark.parametrize("one", NORMALISATIONS)
def test_a_network_that_reads_blue_first_is_found(one):
    random = np.random.default_rng(0)
    levels = random.integers(50, 79, (100, 3))
    images = tuple(ArrayImage(np.broadcast_to(level, (40, 40, 3)).astype(np.uint8), "plain") for level in levels)
    split = Split("tuning", images, tuple(int(level[2] > 64) for level in levels))
    best = found(brightness_meter(one.mean[2], one.std[2], 64 / 255), split).best
    assert best.preprocess.channels == "bgr"
    assert (best.preprocess.mean, best.preprocess.std) == (one.mean, one.std)


def test_swapped_channels_are_found_beside_a_stated_normalisation_that_no_library_uses():
    """The best of the customary normalisations is another, and swapped channels do not help that one."""
    random = np.random.default_rng(0)
    levels = random.integers(20, 109, (100, 3))
    levels[:, 0] = 128 - levels[:, 2]  # red is wrong where blue is right
    images = tuple(ArrayImage(np.broadcast_to(level, (40, 40, 3)).astype(np.uint8), "plain") for level in levels)
    split = labelled(Split("tuning", images, tuple(int(level[2] > 64) for level in levels)))
    answers = brightness_meter(0.25, 0.001, 64 / 255)
    stated = Preprocess(resize=Size.square(0), crop=Size.square(32), mean=(0.25,) * 3, std=(0.001,) * 3)
    trial = attempt(answers, split, stated, lambda _: None)
    done = []
    space = Space.around(trial, SMALL)
    best = search(answers, split, space, done.append, trial).best
    found = best.preprocess
    assert (found.channels, found.mean, found.std) == ("bgr", stated.mean, stated.std)
    assert sum(done) <= space.budget(len(split))


def test_the_right_size_wins():
    """A ring is visible at its size alone: a dark margin shows which crop was taken."""
    images, labels = [], []
    for index in range(40):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[4:36, 4:36] = 140 if index % 2 else 110
        images.append(ArrayImage(pixels, f"square {index}"))
        labels.append(index % 2)
    threshold = 125 / 255 * (32 / 36) ** 2  # resize 36, crop 32 leaves a margin of 1.6 pixels around 28.8
    split = Split("tuning", tuple(images), tuple(labels))
    space = Space.open(Preprocess(), SMALL, ("resize", "crop"))
    result = found(brightness_meter(0.485, 0.229, threshold * 0.911), split, space)
    assert (result.best.preprocess.resize, result.best.preprocess.crop) == ((36, 36), (32, 32))
    assert any(trial.top1 < 60 for trial in result.trials)


def test_the_customary_transform_stays_where_nothing_fits_better_beyond_noise():
    """Labels that no image gives away: whatever answers them best does so by luck."""
    split = greys(200)
    drawn = tuple(int(label) for label in np.random.default_rng(1).integers(0, 2, 200))
    result = found(brightness_meter(0.485, 0.229, 0.25), Split("tuning", split.images, drawn))
    assert result.best is result.start
    assert result.best.preprocess == Preprocess(resize=32, crop=32)


def test_orientation_is_tried_where_images_carry_any(tmp_path):
    """Bright above dark is class 1; half of the files are stored on their heads and say so."""
    images, labels = [], []
    for index in range(80):
        pixels = np.full((40, 40, 3), 60, np.uint8)
        label, turned = index % 2, index % 4 < 2
        pixels[:20] = 160 if label else 20
        exif = Image.Exif()
        exif[0x0112] = 3
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.ascontiguousarray(pixels[::-1, ::-1]) if turned else pixels).save(
            path, exif=exif if turned else Image.Exif()
        )
        images.append(EncodedImage.probe(WholeFile(path)))
        labels.append(label)

    def upper_half(batch):
        bright = batch[:, 0, :16].mean((1, 2)) - batch[:, 0, 16:].mean((1, 2))
        return np.stack([-bright, bright], axis=1)

    split = Split("tuning", tuple(images), tuple(labels))
    assert found(upper_half, split).best.preprocess.exif == "apply"
    stated = Space.open(Preprocess(), SMALL, tuple(name for name in FIELDS if name != "exif"))
    assert all(trial.preprocess.exif == "ignore" for trial in found(upper_half, split, stated).trials)


def test_images_without_label_are_passed_over():
    split = greys(20)
    mixed = Split("tuning", split.images, (-1, -1, *split.labels[2:]))
    assert len(found(brightness_meter(0.485, 0.229), mixed).best.labels) == 18


def test_sizes_follow_the_stem_and_the_graph():
    assert customary(preset("resnet50"))[0] == ((256, 256), (224, 224))
    assert ((0, 0), (224, 224)) in customary(preset("resnet50"))
    assert customary(preset("resnet20"))[0] == ((32, 32), (32, 32))
    assert customary_for(Size.square(224))[0] == ((256, 256), (224, 224))
    assert customary_for(Size.square(32))[0] == ((32, 32), (32, 32))
    assert ((192, 192), (160, 160)) in customary_for(Size.square(160))
    assert all(crop == (96, 96) for _, crop in customary_for(Size.square(96)))


@pytest.mark.parametrize(
    ("stated", "sizes"),
    [
        ({"resize": 192}, [(192, 168), (192, 192), (192, 160), (192, 128), (192, 64)]),
        ({"crop": 160}, [(183, 160), (160, 160), (192, 160)]),
        ({"resize": 100, "crop": 90}, [(100, 90)]),
        ({"resize": 0}, [(0, 224), (0, 160), (0, 128), (0, 64)]),
    ],
)
def test_what_is_stated_of_the_size_holds_and_the_rest_is_searched(stated, sizes):
    fields = tuple(name for name in FIELDS if name not in stated)
    space = Space.open(replace(Preprocess(), **stated), customary(preset("resnet18")), fields)
    assert [(resize.plain, crop.plain) for resize, crop in space.sizes] == sizes
    assert space.start == Preprocess(resize=sizes[0][0], crop=sizes[0][1])
    assert space.normalisations == NORMALISATIONS


def test_a_stated_mean_leaves_the_deviation_to_the_search():
    fields = tuple(name for name in FIELDS if name not in ("mean", "channels"))
    space = Space.open(Preprocess(mean=(0.1, 0.2, 0.3)), SMALL, fields)
    assert {one.mean for one in space.normalisations} == {(0.1, 0.2, 0.3)}
    assert {one.std for one in space.normalisations} == {one.std for one in NORMALISATIONS}
    assert len(space.normalisations) == len({one.std for one in NORMALISATIONS})
    assert not space.channels
