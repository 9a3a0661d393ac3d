"""Images of other sizes, channels, bits and files, and pixels as the network's input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from benchmarks.digit_data import (
    Digit,
    folders,
)
from edgeres.data.bands import BandImage
from edgeres.data.size import ResizeMode, Size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


from benchmarks.input_rows.row import MODEL, PLAIN, SQUARE, STATED, WIDE, Row, Words, body, png, uint8, usual, weights

SECTION = "Inputs"


def sized(folder: Path, mode: ResizeMode) -> Words:
    """Images of 36x48 pixels resized to 24x40; the checkpoint says nothing of the transform."""
    preprocess = replace(PLAIN, resize=WIDE, crop=WIDE, resize_mode=mode)
    data = folders(folder / "data", partial(png, size=Size(36, 48)))
    made = body(preprocess, see=lambda digit: digit.image(Size(36, 48)))
    bare = {f"module.{key}": value for key, value in made.state_dict().items()}
    torch.save(bare, folder / "w.pth")
    size = ["--resize", WIDE.text, "--crop", WIDE.text, "--resize-mode", mode, *STATED[4:]]
    return [MODEL, "--weights", str(folder / "w.pth"), "--data", str(data), *size]


def grey(folder: Path) -> Words:
    """Grey PNGs and a network of one channel."""
    preprocess = replace(PLAIN, mean=(0.5,), std=(0.25,), channels="grey")
    made = body(preprocess, 1)
    data = folders(folder / "data", lambda digit, path: digit.image(SQUARE).convert("L").save(path.with_suffix(".png")))
    torch.save(made.state_dict(), folder / "w.pth")
    words = ["--channels", "grey", "--mean", ".5", "--std", ".25", *STATED[:4]]
    return [MODEL, "--weights", str(folder / "w.pth"), "--data", str(data), *words]


def deep(folder: Path, *, ranged: bool) -> Words:
    """Grey PNGs of 12 bits in 16, with or without the range of their values."""

    def levels(digit: Digit) -> NDArray[np.uint16]:
        return np.asarray(digit.image(SQUARE).convert("L")).astype(np.uint16) * 16

    def see(digit: Digit) -> BandImage:
        return BandImage.of(levels(digit), "digit")

    preprocess = replace(PLAIN, mean=(0.5,), std=(0.25,), channels="grey", range=(0.0, 4095.0))
    torch.save(body(preprocess, 1, see).state_dict(), folder / "w.pth")
    data = folders(folder / "data", lambda digit, path: Image.fromarray(levels(digit)).save(path.with_suffix(".png")))
    words = ["--channels", "grey", "--mean", ".5", "--std", ".25", *STATED[:4]]
    return [
        MODEL, "--weights", str(folder / "w.pth"), "--data", str(data), *words,
        *(["--range", "0,4095"] if ranged else []),
    ]  # fmt: skip


def bands(folder: Path) -> Words:
    """Arrays of five bands: the colours and two inverted ones."""

    def see(digit: Digit) -> np.ndarray:
        rgb = digit.pixels(SQUARE)
        return np.concatenate([rgb, 255 - rgb[..., :2]], axis=-1)

    preprocess = replace(PLAIN, mean=(0.5,) * 5, std=(0.25,) * 5, channels="bands")
    made = body(preprocess, 5, lambda digit: BandImage.of(see(digit), "digit"))
    torch.save(made.state_dict(), folder / "w.pth")
    data = folders(folder / "data", lambda digit, path: np.save(path.with_suffix(".npy"), see(digit)))
    words = ["--channels", "bands", "--mean", ",".join([".5"] * 5), "--std", ",".join([".25"] * 5), *STATED[:4]]
    return [MODEL, "--weights", str(folder / "w.pth"), "--data", str(data), *words]


def mixed_files(folder: Path, *, exif: str) -> Words:
    """JPEGs of CMYK, with an EXIF orientation and in grey; PNGs with transparency and a palette."""

    def save(digit: Digit, path: Path) -> None:
        image, kind = digit.image(SQUARE), digit.number % 5
        if kind == 0:
            image.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
        elif kind == 1:
            tag = Image.Exif()
            tag[274] = 6
            image.rotate(90).save(path.with_suffix(".jpg"), exif=tag, quality=95)
        elif kind == 2:
            image.putalpha(200)
            image.save(path.with_suffix(".png"))
        elif kind == 3:
            image.convert("P", palette=Image.Palette.ADAPTIVE).save(path.with_suffix(".png"))
        else:
            image.convert("L").convert("RGB").save(path.with_suffix(".png"))

    data = folders(folder / "data", save)
    return [MODEL, "--weights", weights(folder, body()), "--data", str(data), "--exif", exif]


ROWS = (
    Row(SECTION, "RGB, square, class folders", usual),
    Row(SECTION, "24x40, stretched", partial(sized, mode="stretch")),
    Row(SECTION, "24x40, letterbox", partial(sized, mode="letterbox")),
    Row(SECTION, "one channel, grey PNG", grey),
    Row(SECTION, "16-bit PNG, `--range 0,4095`", partial(deep, ranged=True)),
    Row(SECTION, "16-bit PNG without a range", partial(deep, ranged=False)),
    Row(SECTION, "five bands in `.npy`", bands),
    Row(SECTION, "`--input uint8`, [N,C,H,W]", partial(uint8, layout="nchw")),
    Row(SECTION, "`--input uint8`, [N,H,W,C]", partial(uint8, layout="nhwc")),
    Row(SECTION, "CMYK, EXIF, alpha, palette; EXIF ignored", partial(mixed_files, exif="ignore")),
    Row(SECTION, "CMYK, EXIF, alpha, palette; EXIF applied", partial(mixed_files, exif="apply")),
)
"""Rows of this section."""
