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
    from edgeres.backends.bundle import device, engine, pixels
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where the three files are in one folder
    import device
    import engine
    import pixels
    from device import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".npy")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")  # image parsers in use, whatever the file's suffix
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits per channel: RGB would saturate them
MAX_PIXELS = 89478485


def preprocess(image: Any, wanted: dict[str, Any]) -> Any:
    """Network input by a section of ``preprocess.json``: normalised float32 ``[C,H,W]``, or uint8 pixels.

    ``image`` is a Pillow image, or an array of bands ``[H,W]`` or ``[H,W,C]``.
    """
    bands = [centred(resized(band, wanted), sides(wanted["crop"]), wanted) for band in as_bands(image, wanted)]
    layers = [np.asarray(band) for band in bands]
    pixels = layers[0].transpose(2, 0, 1) if layers[0].ndim == 3 else np.stack(layers)
    if wanted.get("input") == "uint8":
        pixels = pixels[::-1] if wanted["channels"] == "bgr" else pixels
        return np.ascontiguousarray(pixels.transpose(1, 2, 0) if wanted.get("layout") == "nhwc" else pixels)
    pixels = pixels.astype(np.float32, order="C")
    low, high = wanted.get("range") or (0, 255)
    if low:
        pixels -= np.float32(low)
    pixels /= np.float32(high - low)
    pixels -= np.asarray(wanted["mean"], dtype=np.float32).reshape(-1, 1, 1)
    pixels /= np.asarray(wanted["std"], dtype=np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(pixels[::-1]) if wanted["channels"] == "bgr" else pixels


def as_bands(image: Any, wanted: dict[str, Any]) -> list[Any]:
    """The image with the network's channels: one RGB or grey image of Pillow, or one image for each band."""
    from PIL import Image

    if not isinstance(image, np.ndarray):
        image = upright(image) if wanted["exif"] == "apply" else image
        if image.mode not in DEEP and wanted["channels"] != "bands":
            mode = "L" if wanted["channels"] == "grey" else "RGB"
            return [image if image.mode == mode else image.convert(mode)]
        image = np.asarray(image)
    layers = image[:, :, None] if image.ndim == 2 else image
    if layers.dtype != np.uint8 and not wanted.get("range"):
        raise BundleError("an image has more than 8 bits a channel, and preprocess.json has no range", 2)
    layers = layers if layers.dtype == np.uint8 else layers.astype(np.float32)
    bands = [Image.fromarray(np.ascontiguousarray(layers[:, :, band])) for band in range(layers.shape[2])]
    count = len(wanted["mean"])
    if len(bands) == 1 and wanted["channels"] in ("rgb", "bgr"):
        bands *= 3
    if len(bands) != count:
        raise BundleError(f"an image has {len(bands)} bands, the network reads {count}", 2)
    return bands


def upright(image: Any) -> Any:
    """The image rotated by its EXIF orientation."""
    from PIL import ImageOps

    if not hasattr(ImageOps, "exif_transpose"):
        raise BundleError("preprocess.json applies EXIF orientation, which needs Pillow 6.0 or newer", 2)
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, struct.error):  # damaged EXIF has no orientation
        return image


def sides(size: Any) -> tuple[int, int]:
    """Height and width of a size in ``preprocess.json``: ``224`` for a square, ``"96x160"`` elsewhere."""
    height, width = size.split("x") if isinstance(size, str) else (size, size)
    return int(height), int(width)


def resized(image: Any, wanted: dict[str, Any]) -> Any:
    """The resized image; 0 does not resize.

    The mode ``fit`` keeps the aspect and covers the size, with the longer side truncated to whole pixels; ``stretch``
    does not keep it; ``letterbox`` keeps it inside the size and pads both ends.
    """
    from PIL import Image

    (height, width), mode = sides(wanted["resize"]), wanted.get("resize_mode", "fit")
    if not height:
        return image
    whole: Callable[[float], int] = int if mode == "fit" else round
    by_width = height * image.width <= width * image.height
    size = (width, height)
    if mode != "stretch" and by_width is (mode == "fit"):
        size = (width, max(1, whole(width * image.height / image.width)))
    elif mode != "stretch":
        size = (max(1, whole(height * image.width / image.height)), height)
    if size[0] * size[1] > MAX_PIXELS:
        raise BundleError(f"an image of {image.width}x{image.height} pixels would grow to {size[0]}x{size[1]}", 2)
    filters = getattr(Image, "Resampling", Image)  # Pillow before 9.1 has them in the module
    if size != image.size:
        image = image.resize(size, getattr(filters, wanted["interpolation"].upper()))
    return centred(image, (height, width), wanted) if mode == "letterbox" else image


def centred(image: Any, size: tuple[int, int], wanted: dict[str, Any]) -> Any:
    """The centre of an image in another height and width, padded with the colour ``fill`` where it is smaller."""
    from PIL import Image

    height, width = size
    left, top = offset(image.width, width), offset(image.height, height)
    fill = tuple(wanted.get("fill", (0,)))
    fill = fill * 3 if image.mode == "RGB" and len(fill) == 1 else fill
    low, high = wanted.get("range") or (0, 255)
    value = low + (high - low) * fill[0] / 255 if image.mode == "F" else fill[0]
    canvas = Image.new(image.mode, (width, height), fill if image.mode == "RGB" else value)
    canvas.paste(image, (-left, -top))
    return canvas


def offset(length: int, crop: int) -> int:
    """Start of the centre crop on one axis; negative where it is padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def opened(path: Path) -> Any:
    """The image of a file without rotation, or the array of a ``.npy``; ``preprocess`` does the rest."""
    from PIL import Image

    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        with Image.open(path) as image:  # the header alone; pixels are parsed once the format is known
            if image.format not in FORMATS or image.width * image.height > MAX_PIXELS:
                raise BundleError(f"{path} is {image.format} {image.mode} of {image.width}x{image.height}", 2)
            image.load()
            return image.copy()
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


def answers(runner: Any, paths: list[Path], wanted: dict[str, Any], scored: list[int]) -> Iterator[Any]:
    """Class indices of images, a batch at a time: the largest, of all or of the ``scored`` outputs."""
    for start in range(0, len(paths), runner.batch):
        batch = [preprocess(opened(path), wanted) for path in paths[start : start + runner.batch]]
        logits = runner.run(np.stack(batch))
        yield np.asarray(scored)[logits[:, scored].argmax(1)] if scored else logits.argmax(1)


def classify(folder: Path, images: Path, runner: Any, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Top-1 over a tree of classes; None for images without labels, whose classes are printed instead."""
    facts = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    if facts.get("task", "classification") != "classification":
        hint = "leave --images out, and run the engine on golden inputs"
        raise BundleError(
            f"--images prints classes, and the outputs of this network are for {facts['task']}: {hint}", 2
        )
    pairs, bar, predictions = listed(images, facts["classes"]), engine.Bar(), []
    for batch in answers(runner, [path for path, _ in pairs], facts["preprocess"], facts.get("scored", [])):
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


def check_pixels(folder: Path, manifest: dict[str, Any], wanted: dict[str, Any], say: Callable[[str], None]) -> None:
    """Compares what this file and the Pillow of this device make of the bundle's source images with golden pixels."""
    import PIL

    if "pixels" not in manifest:
        return
    order = "grey" if wanted["channels"] == "grey" else "rgb"
    plain = dict(wanted, channels=order, input="uint8", layout="nhwc")
    images = [preprocess(opened(folder / name), plain) for name in manifest["pixels"]["sources"]]
    pixels.compare_pixels(folder, manifest, np.stack(images), f"Pillow {PIL.__version__} here", say)


def run(folder: Path, images: Path | None, seconds: float, say: Callable[[str], None] = print) -> None:
    """Runs the command; see the module's docstring."""
    manifest = device.verified(folder, say)
    trt, facts = engine.load_tensorrt(), engine.Cuda().facts()
    plan = engine.own_plan(folder, trt, facts)
    say(f"TensorRT {trt.__version__} on {facts['gpu']}, compute capability {facts['sm']}")
    runner = engine.Runner(trt, plan, engine.recorder(trt))
    sections = engine.examine(folder, manifest, runner, plan, seconds)
    if images:
        facts_of_images = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))["preprocess"]
        check_pixels(folder, manifest, facts_of_images, say)
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
