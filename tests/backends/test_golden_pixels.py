"""Golden pixels of a bundle: right preprocessing passes, each usual mistake is caught with its reason."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeres.backends.bundle import check_device, device, pixels, run_engine
from edgeres.backends.bundle.golden_pixels import TOLERANCE, golden_pixels, resampler
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.settings import plain

PREPROCESS = Preprocess(resize=Size.square(72), crop=Size.square(64))


def written(folder, preprocess):
    """The files of a bundle that concern pixels, and their section of its manifest."""
    golden = golden_pixels(preprocess)
    for name, content in golden.sources.items():
        (folder / name).write_bytes(content)
    np.save(folder / "golden_pixels.npy", golden.pixels)
    section = {"sources": list(golden.sources), "pixels": "golden_pixels.npy", "tolerance": TOLERANCE}
    return {"pixels": section | {"resampler": resampler(preprocess)}}


def compared(folder, manifest, values):
    said = []
    pixels.compare_pixels(folder, manifest, values, "yours", said.append)
    return said


def by_hand(folder, names, preprocess=PREPROCESS, exif=False, **options):
    """What a device's own code makes of the source images, with Pillow."""
    windows = []
    for name in names:
        image = Image.open(folder / name).convert("RGB")
        image = ImageOps.exif_transpose(image) if exif else image
        short = min(image.size)
        size = tuple(int(72 * side / short) for side in image.size)
        image = image.resize(size, Image.Resampling.BILINEAR, **options)
        left, top = (round((side - 64) / 2) for side in image.size)
        windows.append(np.asarray(image.crop((left, top, left + 64, top + 64))))
    return np.stack(windows)


def test_pixels_are_the_input_before_normalisation():
    for channels in ("rgb", "bgr"):
        preprocess = replace(PREPROCESS, channels=channels)
        golden = golden_pixels(preprocess)
        assert golden.pixels.dtype == np.uint8
        assert golden.pixels.shape == (4, 64, 64, 3)
        for content, window in zip(golden.sources.values(), golden.pixels, strict=True):
            image = Image.open(io.BytesIO(content)).convert("RGB")
            values = window.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
            mean, std = (np.float32(value).reshape(3, 1, 1) for value in (preprocess.mean, preprocess.std))
            wanted = (values - mean) / std
            np.testing.assert_array_equal(
                preprocess.apply(image), wanted[:: 1 if channels == "rgb" else -1], strict=True
            )


def test_equal_settings_give_equal_bytes():
    first, second = golden_pixels(PREPROCESS), golden_pixels(PREPROCESS)
    assert first.sources == second.sources
    assert np.array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("exif", ["ignore", "apply"])
def test_right_preprocessing_passes(tmp_path, exif):
    manifest = written(tmp_path, replace(PREPROCESS, exif=exif))
    said = compared(tmp_path, manifest, by_hand(tmp_path, manifest["pixels"]["sources"], exif=exif == "apply"))
    assert said[0] == "pixels_0.png: at most 0 levels off, 0 in the mean"
    assert "all 4 images within 2 levels of Pillow" in said[-1]


@pytest.mark.parametrize("exif", ["ignore", "apply"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
def test_the_engines_runner_checks_its_own_pixels(tmp_path, exif, channels):
    values = {"mean": (0.5,), "std": (0.25,)} if channels == "grey" else {}
    preprocess = replace(PREPROCESS, exif=exif, channels=channels, **values)
    said = []
    run_engine.check_pixels(tmp_path, written(tmp_path, preprocess), plain(preprocess), said.append)
    assert f"Pillow {Image.__version__} here: all 4 images within 2 levels" in said[-1]


def test_usual_mistakes_are_caught_with_their_reason(tmp_path):
    manifest = written(tmp_path, PREPROCESS)
    names = manifest["pixels"]["sources"]
    right = by_hand(tmp_path, names)
    subsampled = np.stack(
        [
            np.asarray(ImageOps.fit(Image.open(tmp_path / name).convert("RGB"), (64, 64), Image.Resampling.NEAREST))
            for name in names
        ]
    )
    mistakes = {
        "red and blue are swapped": right[..., ::-1],
        "they are in 0..1": right / 255,
        "the EXIF orientation is treated otherwise": by_hand(tmp_path, names, exif=True),
        "resized without antialiasing": subsampled,
    }
    for reason, values in mistakes.items():
        with pytest.raises(device.BundleError, match=reason) as caught:
            compared(tmp_path, manifest, values)
        assert caught.value.exit_code == 1
    shifted = right.astype(int) + 2
    compared(tmp_path, manifest, shifted)
    with pytest.raises(device.BundleError, match="differ by more than 2 levels"):
        compared(tmp_path, manifest, right.astype(int) + 3)
    with pytest.raises(device.BundleError, match="has shape"):
        compared(tmp_path, manifest, right.transpose(0, 3, 1, 2))
    with pytest.raises(device.BundleError, match="differ by more"):
        compared(tmp_path, manifest, right * np.nan)
    with pytest.raises(device.BundleError, match="has no golden pixels"):
        compared(tmp_path, {}, right)


def test_files_that_are_no_array_are_refused(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"no array")
    for path in (tmp_path / "x.npy", tmp_path / "none.npy"):
        with pytest.raises(device.BundleError, match="cannot be read"):
            pixels.load_pixels(path)


def test_the_checker_has_the_option(capsys):
    with pytest.raises(SystemExit):
        check_device.main(["--help"])
    assert "--pixels FILE" in capsys.readouterr().out


def test_bands_and_deep_images_have_no_golden_pixels():
    assert golden_pixels(Preprocess.usual(4)) is None
    assert golden_pixels(replace(PREPROCESS, range=(0.0, 65535.0))) is None


def test_pixels_of_a_grey_and_of_a_uint8_network():
    grey = golden_pixels(replace(PREPROCESS, channels="grey", mean=(0.5,), std=(0.25,)))
    assert grey.pixels.shape == (4, 64, 64, 1)
    same = golden_pixels(replace(PREPROCESS, input="uint8", layout="nhwc"))
    assert np.array_equal(same.pixels, golden_pixels(PREPROCESS).pixels)
