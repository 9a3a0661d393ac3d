"""The request that the options of ``edgeres compile`` and ``edgeres train`` state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

    from edgeres.pipeline.request import Request

_PREPROCESSING = ("resize", "crop", "mean", "std", "interpolation", "channels", "exif")
_FIELDS = ("model", "weights", "data", "classes", "seed", "calibration", "scales", "strict")


def new_request(options: Namespace, target: str) -> Request:
    """The request of the options that compile and train share.

    Args:
        options: Of the command.
        target: Name of the target.
    """
    from edgeres.pipeline.request import PreprocessFlags, Request
    from edgeres.settings import parse

    values = vars(options)
    flags = parse(PreprocessFlags, {name: values[name] for name in _PREPROCESSING}, "command line")
    fields = {name: values[name] for name in _FIELDS} | {"target": target, "budget": dict(options.budget)}
    fields |= {"changes": tuple(options.changes), "allow": tuple(options.allow), "preprocess": flags}
    return parse(Request, fields, "command line")
