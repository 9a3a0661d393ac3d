from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.preprocess import Preprocess
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
    resize = [v1.Resize(preprocess.resize, mode, antialias=True)] if preprocess.resize else []
    steps = [*resize, v1.CenterCrop(preprocess.crop), v1.ToTensor(), v1.Normalize(preprocess.mean, preprocess.std)]
    return v1.Compose(steps)(image).numpy()


def torchvision_v2_apply(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    import torch

    mode = v2.InterpolationMode(preprocess.interpolation)
    resize = [v2.Resize(preprocess.resize, mode, antialias=True)] if preprocess.resize else []
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
