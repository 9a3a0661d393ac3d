from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size, resized_size
from edgeres.errors import DataError, UsageError
from edgeres.model.zoo import import_torchvision
from edgeres.settings import parse, plain

import_torchvision()

from torchvision.transforms import transforms as v1  # noqa: E402
from torchvision.transforms import v2  # noqa: E402  # importable once its operators are declared

sizes = st.integers(1, 90)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def torchvision_apply(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    mode = v1.InterpolationMode(preprocess.interpolation)
    resize = [v1.Resize(preprocess.resize.height, mode, antialias=True)] if preprocess.resizes else []
    steps = [*resize, v1.CenterCrop(preprocess.crop), v1.ToTensor(), v1.Normalize(preprocess.mean, preprocess.std)]
    return v1.Compose(steps)(image).numpy()


def torchvision_v2_apply(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    import torch

    mode = v2.InterpolationMode(preprocess.interpolation)
    resize = [v2.Resize(preprocess.resize.height, mode, antialias=True)] if preprocess.resizes else []
    normalize = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocess.mean, preprocess.std)]
    return v2.Compose([*resize, v2.CenterCrop(preprocess.crop), *normalize])(image).numpy()


@settings(max_examples=150, deadline=None)
@given(
    width=sizes,
    height=sizes,
    resize=st.integers(0, 64),
    crop=st.integers(1, 80),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
)
def test_equals_torchvision(width, height, resize, crop, interpolation):
    preprocess = Preprocess(resize=resize, crop=crop, interpolation=interpolation)
    image = noise(width, height)
    ours = preprocess.apply(image)
    assert ours.shape == (3, crop, crop)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torchvision_apply(preprocess, image), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours, torchvision_v2_apply(preprocess, image), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    width=sizes,
    height=sizes,
    resize=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    crop=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
)
def test_stretching_equals_torchvision_resizing_to_height_and_width(width, height, resize, crop, interpolation):
    preprocess = Preprocess(resize=resize, crop=crop, interpolation=interpolation, resize_mode="stretch")
    image, mode = noise(width, height), v1.InterpolationMode(interpolation)
    steps = [v1.Resize(resize, mode, antialias=True), v1.CenterCrop(crop), v1.ToTensor()]
    expected = v1.Compose([*steps, v1.Normalize(preprocess.mean, preprocess.std)])(image).numpy()
    np.testing.assert_allclose(preprocess.apply(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P", "CMYK"])
def test_grey_equals_torchvision_on_images_converted_to_grey(mode):
    image = noise(40, 30).convert(mode)
    preprocess = Preprocess(resize=20, crop=16, mean=(0.4,), std=(0.2,), channels="grey")
    steps = [v1.Resize(20, antialias=True), v1.CenterCrop(16), v1.ToTensor(), v1.Normalize((0.4,), (0.2,))]
    expected = v1.Compose(steps)(image.convert("L")).numpy()
    np.testing.assert_allclose(preprocess.apply(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.5]},
        {"channels": "grey"},
        {"mean": [0.1] * 4, "std": [0.1] * 3, "channels": "bands"},
        {"fill": [1, 2]},
        {"range": [5, 5]},
    ],
)
def test_settings_of_different_numbers_of_channels_are_refused(data):
    with pytest.raises(UsageError):
        parse(Preprocess, data, "settings")


@given(image=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes))
def test_fitting_covers_the_size_and_letterboxing_stays_inside_it(image, size):
    image, size = Size(*image), Size(*size)
    covered, inside = (resized_size(image, size, mode) for mode in ("fit", "letterbox"))
    assert covered.holds(size)
    assert size.holds(inside)
    assert covered.height == size.height or covered.width == size.width
    assert inside.height == size.height or inside.width == size.width
    scales = (size.height / image.height, size.width / image.width)
    for found, scale in ((covered, max(scales)), (inside, min(scales))):
        assert abs(found.height - image.height * scale) < 1
        assert abs(found.width - image.width * scale) < 1


def test_a_letterboxed_image_is_centred_on_its_colour():
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    plain_range = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    preprocess = Preprocess(resize=20, crop=20, resize_mode="letterbox", fill=(10, 20, 30), **plain_range)
    pixels = preprocess.apply(image)
    np.testing.assert_allclose(pixels[:, 5:15], 255, rtol=1e-6)
    for row in (*range(5), *range(15, 20)):
        np.testing.assert_allclose(pixels[:, row], [[10] * 20, [20] * 20, [30] * 20], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "size"), [(224, (224, 224)), ("224", (224, 224)), ("96x160", (96, 160)), ("96X160 ", (96, 160))]
)
def test_a_size_is_read_from_numbers_and_texts(value, size):
    assert Preprocess(crop=value, resize=0).crop == size


@pytest.mark.parametrize("value", [0, -1, "96x", "x", "96x0", "96x160x3", 8193, "1x99999", True, None, 2.5, [1]])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(UsageError, match="crop"):
        parse(Preprocess, {"crop": value}, "settings")


def test_a_square_is_written_as_before_and_newer_settings_only_where_they_differ():
    data = plain(Preprocess())
    assert (data["resize"], data["crop"]) == (256, 224)
    assert not {"resize_mode", "fill"} & set(data)
    wide = Preprocess(resize="96x160", crop="96x160", resize_mode="letterbox", fill=(1, 2, 3))
    data = plain(wide)
    assert (data["resize"], data["crop"], data["resize_mode"], data["fill"]) == (
        "96x160",
        "96x160",
        "letterbox",
        [1, 2, 3],
    )
    assert parse(Preprocess, data, "settings") == wide
    assert Preprocess().digest == "4cfcdc060a5d25304744e30660d2b296658b59e08d1b7265cf8ffb382545e552"


def test_equals_torchvision_at_the_usual_size():
    preprocess, image = Preprocess(), noise(500, 375)
    np.testing.assert_allclose(preprocess.apply(image), torchvision_apply(preprocess, image), rtol=0, atol=1e-6)


def test_constant_image_is_the_normalised_constant():
    image = Image.new("RGB", (40, 30), (255, 0, 51))
    ours = Preprocess(resize=16, crop=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.1)).apply(image)
    for channel, value in zip(ours, (1.0, -0.5, 2.0), strict=True):
        np.testing.assert_allclose(channel, value, atol=1e-6)


def test_padding_is_black_before_normalisation():
    ours = Preprocess(resize=0, crop=5, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).apply(
        Image.new("RGB", (2, 2), "white")
    )
    expected = np.full((5, 5), -1.0, dtype=np.float32)
    expected[1:3, 1:3] = 1.0
    np.testing.assert_array_equal(ours[0], expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(mode):
    image = noise(20, 20).convert("L").convert(mode) if mode == "LA" else noise(20, 20).convert(mode)
    preprocess = Preprocess(resize=0, crop=20)
    np.testing.assert_array_equal(preprocess.apply(image), preprocess.apply(image.convert("RGB")))


def test_elongated_image_is_refused_instead_of_filling_the_memory():
    with pytest.raises(DataError, match="1x50000 pixels would grow to 256x12800000"):
        Preprocess().apply(Image.new("RGB", (1, 50_000)))


def test_digest_covers_every_field():
    variants = [
        Preprocess(),
        Preprocess(resize=232),
        Preprocess(crop=192),
        Preprocess(mean=(0.5, 0.5, 0.5)),
        Preprocess(std=(0.5, 0.5, 0.5)),
        Preprocess(interpolation="bicubic"),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)
    assert Preprocess().digest == Preprocess(resize=256, crop=224).digest


def test_survives_json():
    preprocess = Preprocess(resize=0, crop=32, interpolation="bicubic")
    assert parse(Preprocess, plain(preprocess), "metadata") == preprocess


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop", 0), ("resize", -1), ("std", [0.2, 0.0, 0.2]), ("mean", [0.1, 0.2]), ("interpolation", "lanczos")],
)
def test_bad_values_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=key):
        parse(Preprocess, {key: value}, "metadata")


@pytest.mark.parametrize("channels", ["rgb", "grey", "bands"])
def test_eight_bits_in_a_range_of_sixteen_are_refused(channels: str) -> None:
    """They would all be black: 255 of 65535."""
    mode, count = ("L", 1) if channels == "grey" else ("RGB", 3)
    image = Image.new(mode, (8, 8))
    stated = Preprocess(resize=8, crop=8, mean=(0.5,) * count, std=(0.5,) * count, channels=channels)
    assert replace(stated, range=(16.0, 235.0)).apply(image).shape == (count, 8, 8)
    with pytest.raises(DataError, match="read as 8 bits a channel, and --range ends at 65535"):
        replace(stated, range=(0.0, 65535.0)).apply(image)
