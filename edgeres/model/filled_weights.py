"""Arrays that a weight file leaves out: statistics of norms that are scale and shift alone, and a new classifier."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.operation import NORM_EPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def statistics(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Statistics under which each norm is its scale and shift alone: mean 0, and variance 1 less epsilon."""
    norms = [key.removesuffix(".bias") for key in arrays if re.search(r"(^bn1|\.bn\d|\.downsample\.1)\.bias$", key)]
    filled = {}
    for norm in norms:
        filled[f"{norm}.running_mean"] = np.zeros_like(arrays[f"{norm}.bias"])
        filled[f"{norm}.running_var"] = np.full_like(arrays[f"{norm}.bias"], 1 - NORM_EPS)
    return filled


def zero_head(arrays: Mapping[str, NDArray[np.float32]], classes: int) -> dict[str, NDArray[np.float32]]:
    """A classifier of zeros after the last stage ``[classes, width]``."""
    last = max((key for key in arrays if re.fullmatch(r"layer\d+\.\d+\.conv\d\.weight", key)), key=_place, default="")
    width = arrays[last].shape[0] if last else 0
    return {"fc.weight": np.zeros((classes, width), np.float32), "fc.bias": np.zeros(classes, np.float32)}


def _place(key: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", key))
