"""Runs the engine that build_engine.py built in this folder: golden outputs, latency, and the user's images.

    python3 run_engine.py                  compare golden outputs, time the engine, write device.json
    python3 run_engine.py --images DIR     the same and top-1 over DIR/<class>/<image>, or the class of each DIR/<image>

Needs TensorRT 8.5 or newer, numpy, Python 3.8 or newer, and Pillow for images; no network. ``device.py`` and
``engine.py`` are in the same folder.
An engine is executable code: one whose sidecar names another file, TensorRT, GPU or driver is not loaded.
Exit codes: 0 done, 1 golden outputs differ, 2 a damaged file or another device's engine, 3 no TensorRT or no GPU.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle import device, engine
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where the three files are in one folder
    import device
    import engine
    from device import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")  # image parsers in use, whatever the file's suffix
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits per channel: RGB would saturate them
MAX_PIXELS = 89478485


def preprocess(image: Any, wanted: dict[str, Any]) -> Any:
    """Network input float32 ``[3,crop,crop]``, normalised, of a Pillow image, by a section of ``preprocess.json``."""
    image = upright(image) if wanted["exif"] == "apply" else image
    image = resized(image if image.mode == "RGB" else image.convert("RGB"), wanted["resize"], wanted["interpolation"])
    crop = wanted["crop"]
    left, top = (offset(length, crop) for length in image.size)
    image = image.crop((left, top, left + crop, top + crop))  # pads with black
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= np.asarray(wanted["mean"], dtype=np.float32).reshape(3, 1, 1)
    pixels /= np.asarray(wanted["std"], dtype=np.float32).reshape(3, 1, 1)
    return pixels if wanted["channels"] == "rgb" else np.ascontiguousarray(pixels[::-1])


def upright(image: Any) -> Any:
    """The image rotated by its EXIF orientation."""
    from PIL import ImageOps

    if not hasattr(ImageOps, "exif_transpose"):
        raise BundleError("preprocess.json applies EXIF orientation, which needs Pillow 6.0 or newer", 2)
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, struct.error):  # damaged EXIF has no orientation
        return image


def resized(image: Any, side: int, interpolation: str) -> Any:
    """The image with its shorter side at ``side`` and the longer one truncated to whole pixels; 0 does not resize."""
    from PIL import Image

    if not side:
        return image
    short, long = sorted(image.size)
    length = int(side * long / short)
    if side * length > MAX_PIXELS:
        raise BundleError(f"an image of {image.width}x{image.height} pixels would grow to {side}x{length}", 2)
    size = (side, length) if image.width <= image.height else (length, side)
    filters = getattr(Image, "Resampling", Image)  # Pillow before 9.1 has them in the module
    return image if size == image.size else image.resize(size, getattr(filters, interpolation.upper()))


def offset(length: int, crop: int) -> int:
    """Start of the centre crop on one axis; negative where it is padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def opened(path: Path) -> Any:
    """The RGB image of a file without rotation; ``preprocess`` rotates it where configured."""
    from PIL import Image

    try:
        with Image.open(path) as image:  # the header alone; pixels are parsed once the format is known
            if image.format not in FORMATS or image.mode in DEEP or image.width * image.height > MAX_PIXELS:
                raise BundleError(f"{path} is {image.format} {image.mode} of {image.width}x{image.height}", 2)
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as failure:
        raise BundleError(f"{path} cannot be read: {failure}", 2) from failure


def listed(folder: Path, classes: list[str]) -> list[tuple[Path, int | None]]:
    """Images with their label: those of ``folder/<class>/``, or, without such folders, those of ``folder``."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    unknown = [path.name for path in folders if path.name not in classes]
    if unknown:
        raise BundleError(f"{folder / unknown[0]} is named like no class; preprocess.json has {len(classes)}", 2)
    pairs: list[tuple[Path, int | None]] = []
    for place in folders or [folder]:
        label = classes.index(place.name) if folders else None
        images = (path for path in sorted(place.glob("*")) if path.suffix.lower() in EXTENSIONS)
        pairs += [(path, label) for path in images]
    if not pairs:
        raise BundleError(f"no images in {folder}: give a folder of images, or one with a folder for each class", 2)
    return pairs


def answers(runner: Any, paths: list[Path], wanted: dict[str, Any]) -> Iterator[Any]:
    """Class indices of images, a batch at a time."""
    for start in range(0, len(paths), runner.batch):
        batch = [preprocess(opened(path), wanted) for path in paths[start : start + runner.batch]]
        yield runner.run(np.stack(batch)).argmax(1)


def classify(folder: Path, images: Path, runner: Any, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Top-1 over a tree of classes; None for images without labels, whose classes are printed instead."""
    facts = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    pairs, bar, predictions = listed(images, facts["classes"]), engine.Bar(), []
    for batch in answers(runner, [path for path, _ in pairs], facts["preprocess"]):
        predictions += [int(answer) for answer in batch]
        bar.show("images", len(predictions) / len(pairs))
    bar.done()
    if pairs[0][1] is None:
        for (path, _), answer in zip(pairs, predictions):  # noqa: B905 - Python 3.8 has no strict
            say(f"{path.name}: {facts['classes'][answer] if answer < len(facts['classes']) else answer}")
        return None
    right = sum(label == answer for (_, label), answer in zip(pairs, predictions))  # noqa: B905
    classes = len({label for _, label in pairs})
    say(f"top-1 {100 * right / len(pairs):.2f} % of {len(pairs)} images of {classes} classes")
    return {"n": len(pairs), "right": right, "classes": classes}


def run(folder: Path, images: Path | None, seconds: float, say: Callable[[str], None] = print) -> None:
    """Runs the command; see the module's docstring."""
    manifest = device.verified(folder, say)
    trt, facts = engine.load_tensorrt(), engine.Cuda().facts()
    plan = engine.own_plan(folder, trt, facts)
    say(f"TensorRT {trt.__version__} on {facts['gpu']}, compute capability {facts['sm']}")
    runner = engine.Runner(trt, plan, engine.recorder(trt))
    sections = engine.examine(folder, manifest, runner, plan, seconds)
    sections["images"] = classify(folder, images, runner, say) if images else None
    engine.finish(folder, manifest, sections, say)


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Run and time the TensorRT engine of this bundle.")
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder for each class, or images alone")
    parser.add_argument(
        "--seconds", type=float, default=device.SECONDS, metavar="N", help="time the engine for N seconds at most"
    )
    options = parser.parse_args(arguments)
    return device.exit_code(lambda: run(Path(__file__).resolve().parent, options.images, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
