"""Options that several commands share, and what they state: the request, the changes of the recipe, the stage cache."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.cli._command_line import limit, number, text, triple, whole_number

if TYPE_CHECKING:
    from edgeres.artifacts.store import Store
    from edgeres.cli._command_line import CommandLine, Options
    from edgeres.pipeline.request import Request

EXIT_CODES = (
    "exit codes: 0 passed, 1 error, 2 bad usage or input, 3 over a budget, 4 unmeasured under --strict, "
    "5 too few images for the gate to tell"
)
_PREPROCESSING = ("resize", "crop", "mean", "std", "interpolation", "channels", "exif")
_FIELDS = ("model", "weights", "data", "classes", "seed", "calibration", "scales", "strict")


def add_source(command: CommandLine) -> None:
    """Adds the options of the network's weights, its data and its preprocessing."""
    group = command.add_argument_group("network and data")
    group.add_argument(
        "--weights", type=text, metavar="FILE|NAME", help=".safetensors, .pt, .pth, .th, or a torchvision enum name"
    )
    group.add_argument(
        "--data", type=text, metavar="DIR", help="train/<class>/ and val/<class>/ images, or CIFAR-10's binary files"
    )
    classes = (
        "text file: the class folders in the order of the network's outputs, one a line (default: matched by name)"
    )
    group.add_argument("--classes", type=text, metavar="FILE", help=classes)
    images = "calibration images (default 512)"
    group.add_argument("--calibration", type=whole_number, default=512, metavar="N", help=images)
    scales = "take the scales of a saved table, or of a run, instead of calibrating"
    group.add_argument("--scales", type=text, metavar="FILE", help=scales)
    seed = "seed of everything random (default 0)"
    group.add_argument("--seed", type=whole_number, default=0, metavar="N", help=seed)
    allow = "accept few-images, overlap, missing-classes or chance (a network at chance); the report shows it"
    group.add_argument("--allow", action="append", default=[], metavar="NAME", help=allow)
    group.add_argument("--resize", type=whole_number, metavar="PX", help="shorter side before the crop")
    group.add_argument("--crop", type=whole_number, metavar="PX", help="side of the centre crop")
    group.add_argument("--mean", type=triple, metavar="R,G,B", help="mean of each channel, of pixels in 0..1")
    group.add_argument("--std", type=triple, metavar="R,G,B", help="standard deviation of each channel")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic", "nearest"), help="how images are resized")
    channels = "order of the network's input channels (default rgb); mean and std stay in the order red, green, blue"
    group.add_argument("--channels", choices=("rgb", "bgr"), help=channels)
    exif = "what becomes of the EXIF orientation of images (default ignore, as torchvision does)"
    group.add_argument("--exif", choices=("ignore", "apply"), help=exif)


def new_request(options: Options, target: str) -> Request:
    """The request for a target that the options of ``add_source`` and ``add_running`` state."""
    from edgeres.pipeline.request import PreprocessFlags, Request
    from edgeres.settings import parse

    values = vars(options)
    flags = parse(PreprocessFlags, {name: values[name] for name in _PREPROCESSING}, "command line")
    fields = {name: values[name] for name in _FIELDS} | {"target": target, "budget": dict(options.budget)}
    fields |= {"changes": tuple(options.changes), "allow": tuple(options.allow), "preprocess": flags}
    return parse(Request, fields, "command line")


def add_search(command: CommandLine) -> None:
    """Adds ``--effort`` and ``--time-budget`` of the search for the best INT8 network."""
    effort = "techniques that the search for the best INT8 network tries: those that cost seconds, minutes, or all"
    command.add_argument("--effort", choices=("quick", "default", "max"), help=effort)
    minutes = number(lambda minutes: 0 <= minutes < math.inf, "no number of minutes, such as 10")
    most = "most that this search may take (default 10, with --effort max no limit)"
    command.add_argument("--time-budget", type=minutes, metavar="MINUTES", help=most)


def search_changes(options: Options) -> tuple[str, ...]:
    """``--effort`` and ``--time-budget`` as changes of the recipe, in the form of ``--set``."""
    changes: tuple[str, ...] = ()
    if options.effort is not None:
        changes += (f"quantize.effort={options.effort}",)
    if options.time_budget is not None:
        changes += (f"quantize.time_budget_s={60 * options.time_budget:g}",)
    elif options.effort == "max":
        changes += ("quantize.time_budget_s=null",)
    return changes


def add_running(command: CommandLine, out: str) -> None:
    """Adds the options of running a recipe and of printing its result; the help names ``out`` as the default folder."""
    group = command.add_argument_group("run")
    group.add_argument("--out", type=text, metavar="DIR", help=f"run folder (default {out})")
    key = "change a recipe's setting ('edgeres recipes --keys' lists them)"
    group.add_argument("--set", action="append", default=[], dest="changes", metavar="STAGE.KEY=VALUE", help=key)
    budget = group.add_argument("--budget", action="append", default=[], type=limit, metavar="NAME=VALUE")
    command.late(budget, _budget_help)
    group.add_argument("--strict", action="store_true", help="fail when a budget line is unmeasured")
    group.add_argument(
        "--cache", type=text, metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)"
    )
    group.add_argument("--json", action="store_true", help="print report.json on standard output")
    group.add_argument("--quiet", action="store_true", help="print the verdict only")


def _budget_help() -> str:
    """The help of ``--budget``, with the name of every budget."""
    from dataclasses import fields

    from edgeres.targets.target import Budget

    return f"a limit, or NAME=none to lift it; NAME is {', '.join(field.name for field in fields(Budget))}"


def stage_store(options: Options) -> Store:
    """The store of finished stages: in ``--cache``, else ``$EDGERES_CACHE``, else the user's cache folder."""
    from platformdirs import user_cache_path

    from edgeres.artifacts.store import Store

    return Store(Path(options.cache or os.environ.get("EDGERES_CACHE") or user_cache_path("edgeres")))
