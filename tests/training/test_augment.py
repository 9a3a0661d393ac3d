from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.settings import parse
from edgeres.training.feed import Augment, Augmenter, draw_box

PREPROCESS = Preprocess(resize=24, crop=20)
EVERYTHING = Augment(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


def _image(height: int = 40, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _evaluated(image: Image.Image) -> np.ndarray:
    mean, std = (np.reshape(np.float32(values), (3, 1, 1)) for values in (PREPROCESS.mean, PREPROCESS.std))
    return np.rint((PREPROCESS.apply(image) * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0)


def test_same_draws_give_the_same_pixels_and_other_draws_others() -> None:
    augmenter = Augmenter(EVERYTHING, PREPROCESS)
    one, again, other = (
        augmenter(_image(), Size.square(20), np.random.default_rng([3, 0, index])) for index in (5, 5, 6)
    )
    assert one.shape == (20, 20, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_centre_crop_without_a_flip_is_the_evaluation_transform() -> None:
    pixels = Augmenter(Augment(crop="centre", flip=False), PREPROCESS)(
        _image(), Size.square(20), np.random.default_rng(0)
    )
    assert np.array_equal(pixels, _evaluated(_image()))


def test_flip_mirrors_about_half_of_the_images_and_none_when_off() -> None:
    straight = _evaluated(_image())
    flips = 0
    for seed in range(100):
        pixels = Augmenter(Augment(crop="centre"), PREPROCESS)(_image(), Size.square(20), np.random.default_rng(seed))
        flipped = np.array_equal(pixels, straight[:, ::-1])
        assert flipped or np.array_equal(pixels, straight)
        flips += flipped
    assert 35 <= flips <= 65


def test_random_crop_with_padding_takes_every_place_and_fills_with_black() -> None:
    white = Image.new("RGB", (20, 20), "white")
    augmenter = Augmenter(Augment(crop="random", padding=4, flip=False), Preprocess(resize=20, crop=20))
    places = set()
    for seed in range(400):
        pixels = augmenter(white, Size.square(20), np.random.default_rng(seed))
        rows, columns = pixels[:, :, 0].any(1), pixels[:, :, 0].any(0)
        places.add((int(rows.argmax()) - int(rows[::-1].argmax()), int(columns.argmax()) - int(columns[::-1].argmax())))
    assert {row for row, _ in places} == {column for _, column in places} == set(range(-4, 5))


@pytest.mark.parametrize("crop", ["resized", "random", "centre"])
def test_smaller_sides_are_served_for_growing_images(crop: str) -> None:
    assert Augmenter(Augment(crop=crop), PREPROCESS)(_image(), Size.square(12), np.random.default_rng(0)).shape == (
        12,
        12,
        3,
    )


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.floats(0.3, 1), st.integers(0, 1 << 30))
def test_box_lies_inside_and_keeps_to_scale_and_ratio(
    height: int, width: int, low: float, ratio: float, seed: int
) -> None:
    top, left, h, w = draw_box(height, width, (low, 1.0), (ratio, 1 / ratio), np.random.default_rng(seed))
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert h > 0
    assert w > 0
    if min(h, w) > 20:
        assert ratio * 0.9 <= w / h <= 1.1 / ratio


def test_area_of_boxes_is_uniform_over_the_scale() -> None:
    areas = []
    for seed in range(2000):
        _, _, h, w = draw_box(1000, 1000, (0.2, 0.6), (1.0, 1.0), np.random.default_rng(seed))
        areas.append(h * w / 1e6)
    assert np.quantile(areas, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6], abs=0.02)


@pytest.mark.parametrize("bad", [{"scale": [0, 1]}, {"hue": 0.7}, {"padding": -1}, {"crop": "center"}, {"flipp": True}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse(Augment, bad, "test")
