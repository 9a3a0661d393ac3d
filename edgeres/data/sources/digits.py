"""The embedded digits: the sample that edgeres takes where no data is given."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.split import Split
from edgeres.errors import DataError

DIGITS = Preprocess(resize=Size.square(32), crop=Size.square(32), mean=(0.305, 0.305, 0.305), std=(0.376, 0.376, 0.376))
"""Preprocessing of the embedded digits, with mean and deviation of all their pixels on the scale 0..1."""


def digits() -> Split:
    """The UCI handwritten digits of scikit-learn: 1,797 images of 8x8 pixels with 17 levels of grey.

    The table is read from the installed package, because importing ``sklearn.datasets`` takes two seconds.

    Raises:
        DataError: scikit-learn is not installed, or has no such table.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    table = Path(folders[0], "datasets", "data", "digits.csv.gz") if folders else Path("sklearn")
    if not table.is_file():
        raise DataError(f"the embedded digits are not at {table}", "pip install --force-reinstall scikit-learn")
    rows = np.loadtxt(table, delimiter=",", dtype=np.int64)
    pixels = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    images = tuple(ArrayImage(image, f"digit {number}") for number, image in enumerate(pixels))
    return Split("digits", images, tuple(rows[:, 64].tolist()))
