"""Comparison of a device's own preprocessing with a bundle's golden pixels.

It is copied to the device beside the command that needs it. Python 3.8, numpy, nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where it is in the same folder
    from device import BundleError


def compare_pixels(folder: Path, manifest: dict[str, Any], pixels: Any, whose: str, say: Callable[[str], None]) -> None:
    """Compares pixels ``[N,H,W,C]`` in 0..255 of the source images with the golden ones.

    Raises:
        BundleError: Their shape is another one, or one is farther off than the manifest tolerates; with a reason where
            one explains it.
    """
    section = manifest.get("pixels")
    if section is None:
        raise BundleError("this bundle has no golden pixels", 2)
    golden = np.load(folder / section["pixels"], allow_pickle=False).astype(np.float64)
    pixels = np.asarray(pixels, dtype=np.float64)
    if pixels.shape != golden.shape:
        raise BundleError(f"{whose} has shape {list(pixels.shape)}, the golden pixels {list(golden.shape)}", 2)
    delta, tolerance = np.abs(pixels - golden), section["tolerance"]
    far = [index for index in range(len(golden)) if not delta[index].max() <= tolerance]
    for index, name in enumerate(section["sources"]):
        say(f"{name}: at most {delta[index].max():.3g} levels off, {delta[index].mean():.3g} in the mean")
    if not far:
        return say(f"{whose}: all {len(golden)} images within {tolerance} levels of {section['resampler']}")
    reason = "resized without antialiasing, or by another filter"
    if np.abs(pixels[..., ::-1] - golden).max() <= tolerance:
        reason = "red and blue are swapped"
    elif pixels.max() <= 1.001:
        reason = "they are in 0..1"
    elif far == [len(golden) - 1]:
        reason = "the EXIF orientation is treated otherwise than preprocess.json says"
    names = ", ".join(section["sources"][index] for index in far)
    raise BundleError(f"{whose}: {names} differ by more than {tolerance} levels ({reason})")


def load_pixels(path: Path) -> Any:
    """The array in a ``.npy`` file of the user."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as failure:
        raise BundleError(f"{path} cannot be read: {failure}", 2) from failure
