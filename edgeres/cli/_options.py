"""Command line of the commands: the parser, the types of arguments, and options that several commands share.

A type raises ``ArgumentTypeError`` with a right example where a word is none of its values.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.artifacts.store import Store
    from edgeres.data.size import Size
    from edgeres.pipeline.request import Request

Commands: TypeAlias = "argparse._SubParsersAction[CommandLine]"
EXIT_CODES = (
    "exit codes: 0 passed, 1 error, 2 bad usage or input, 3 over a budget, 4 unmeasured under --strict, "
    "5 too few images for the gate to tell"
)
_PREPROCESSING = ("resize", "crop", "mean", "std", "interpolation", "channels", "exif", "resize_mode", "fill", "range")
_FIELDS = (
    "model", "weights", "weights_key", "data", "classes", "answers", "task", "main_output",
    "seed", "calibration", "scales", "strict",
)  # fmt: skip
_CHOICE = re.compile(
    r"argument (?P<what>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL
)


class Options(argparse.Namespace):
    """The parsed options of a command."""

    quiet = False
    words: list[str]
    """The command line as it was typed, without the program's name."""


class CommandLine(argparse.ArgumentParser):
    """A command or one of its subcommands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._late: list[tuple[argparse.Action, Callable[[], str]]] = []

    def late(self, action: argparse.Action, text: Callable[[], str]) -> None:
        """Computes an option's help only when help is printed, because it needs imports that take time."""
        self._late.append((action, text))

    def format_help(self) -> str:
        """The help text, with the parts that ``late`` postponed."""
        for action, text in self._late:
            action.help = text()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Prints on standard error what is wrong and how to see the help, and ends with exit code 2."""
        from edgeres.cli._console import print_error
        from edgeres.errors import nearest

        if match := _CHOICE.fullmatch(message):  # the nearest valid choice instead of the whole list
            choices = [word.strip().strip("'") for word in match["choices"].split(",")]
            message = f"unknown {match['what']} {match['value']!r}: {nearest(match['value'], choices)}"
        print_error(f"{message} (see '{self.prog} --help')")
        raise SystemExit(2)


def sentence(text: str) -> str:
    """A command's one-line help as the description on its own page: with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def text(word: str) -> str:
    """A text that is not empty; an empty one usually is a shell variable that is not set."""
    if not word.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out, or give it a value")
    return word


def whole_number(word: str) -> int:
    """An integer."""
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None


def whole(least: int, range_text: str) -> Callable[[str], int]:
    """The argument type of an integer from ``least`` on; its error reads ``'x' is not a whole number RANGE_TEXT``."""

    def read(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number {range_text}")
        return int(word)

    return read


positive = whole(1, "above 0")


def image_size(word: str) -> Size:
    """Height and width in pixels, ``224`` for both or ``96x160``."""
    from edgeres.data.size import Size

    try:
        size = Size.read(word)
    except ValueError:
        size = Size.square(0)
    if size.height < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no size in pixels, such as 224 or, height first, 96x160")
    return size


def number(accepted: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """The argument type of a number that ``accepted`` is true of; its error reads ``'x' is EXPECTED``."""

    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not accepted(value):
            raise argparse.ArgumentTypeError(f"{word!r} is {expected}")
        return value

    return read


def numbers(word: str) -> tuple[float, ...]:
    """One number for each channel, as in ``0.485,0.456,0.406``."""
    try:
        return tuple(float(part) for part in word.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a list of numbers, such as 0.485,0.456,0.406") from None


def ends(word: str) -> tuple[float, float]:
    """The lowest and the highest of a range, as in ``0,65535``."""
    try:
        low, high = numbers(word)
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(f"{word!r} is no range, such as 0,65535")
    return low, high


def levels(word: str) -> tuple[int, ...]:
    """A value of 0..255 for each channel, as in ``114,114,114``, or one for all."""
    parts = word.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{word!r} is no colour, such as 114 or 114,114,114")
    return tuple(int(part) for part in parts)


def limit(word: str) -> tuple[str, float | None]:
    """The name and limit of a budget; the limit is None for ``NAME=none``."""
    name, _, value = word.partition("=")
    try:
        return name, None if value == "none" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME=VALUE, such as latency_p90_ms=5") from None


def add_source(command: CommandLine) -> None:
    """Adds the options of the network's weights, its data and its preprocessing."""
    add = command.add_argument_group("network and data").add_argument
    weights = ".safetensors, .pt, .pth, .ckpt, .bin, a folder of Hugging Face's, or a torchvision enum name"
    add("--weights", type=text, metavar="FILE|NAME", help=weights)
    key = "key of a dictionary in the file, or prefix of its tensors' keys, to take of several networks"
    add("--weights-key", type=text, metavar="KEY", help=key)
    data = add("--data", type=text, metavar="PATH")
    command.late(data, _data_help)
    classes = (
        "text: the names of the network's outputs in their order, one a line; or CSV or JSON: the output of each class "
        "folder, by name or number (default: matched by name)"
    )
    add("--classes", type=text, metavar="MAP", help=classes)
    answers = (
        "where the data have some of the network's classes, a prediction is the largest of all outputs, as on the "
        "device, or of those of the subset (default all)"
    )
    add("--answers", choices=("all", "subset"), default="all", help=answers)
    task = add("--task", type=text, metavar="TASK")
    command.late(task, _task_help)
    main = "output of an ONNX file with several that is deployed and judged (default: the one that fits the data)"
    add("--main-output", type=text, metavar="NAME", help=main)
    add("--calibration", type=whole_number, default=512, metavar="N", help="calibration images (default 512)")
    scales = "take the scales of a saved table, or of a run, instead of calibrating"
    add("--scales", type=text, metavar="FILE", help=scales)
    add("--seed", type=whole_number, default=0, metavar="N", help="seed of everything random (default 0)")
    allow = "accept few-images, overlap, missing-classes or chance (a network at chance); the report shows it"
    add("--allow", action="append", default=[], metavar="NAME", help=allow)
    resize = "size before the crop: one number is the shorter side; 0 leaves images as they are"
    add("--resize", type=text, metavar="PX|HxW", help=resize)
    mode = "fit keeps the aspect and covers --resize, stretch does not keep it, letterbox keeps it and pads both ends"
    add("--resize-mode", choices=("fit", "stretch", "letterbox"), help=mode)
    fill = "colour of padding in 0..255, one value or one for each channel (default 0)"
    add("--fill", type=levels, metavar="V[,V...]", help=fill)
    add("--crop", type=text, metavar="PX|HxW", help="size of the centre crop, such as 224 or, height first, 96x160")
    add("--mean", type=numbers, metavar="V,V,...", help="mean of each channel, of pixels in 0..1")
    add("--std", type=numbers, metavar="V,V,...", help="standard deviation of each channel")
    add("--interpolation", choices=("bilinear", "bicubic", "nearest"), help="how images are resized")
    channels = (
        "the network's input channels: rgb (default), bgr (mean and std stay in the order red, green, blue), "
        "grey (one channel; colours are converted), or bands (as many as the files have, as they are)"
    )
    add("--channels", choices=("rgb", "bgr", "grey", "bands"), help=channels)
    stored = "stored values of black and white of images with more than 8 bits, such as 0,65535"
    add("--range", type=ends, metavar="LOW,HIGH", help=stored)
    exif = "what becomes of the EXIF orientation of images (default ignore, as torchvision does)"
    add("--exif", choices=("ignore", "apply"), help=exif)


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
    add = command.add_argument
    effort = "techniques that the search for the best INT8 network tries: those that cost seconds, minutes, or all"
    add("--effort", choices=("quick", "default", "max"), help=effort)
    minutes = number(lambda minutes: 0 <= minutes < math.inf, "no number of minutes, such as 10")
    most = "most that this search may take (default 10, with --effort max no limit)"
    add("--time-budget", type=minutes, metavar="MINUTES", help=most)


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
    add = command.add_argument_group("run").add_argument
    add("--out", type=text, metavar="DIR", help=f"run folder (default {out})")
    key = "change a recipe's setting ('edgeres recipes --keys' lists them)"
    add("--set", action="append", default=[], dest="changes", metavar="STAGE.KEY=VALUE", help=key)
    budget = add("--budget", action="append", default=[], type=limit, metavar="NAME=VALUE")
    command.late(budget, _budget_help)
    add("--strict", action="store_true", help="fail when a budget line is unmeasured")
    add("--cache", type=text, metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)")
    add("--json", action="store_true", help="print report.json on standard output")
    add("--quiet", action="store_true", help="print the verdict only")


def _data_help() -> str:
    from edgeres.data.sources.registry import forms

    return f"labelled images: {forms()}".replace("%", "%%")


def _task_help() -> str:
    from edgeres.tasks.registry import tasks

    return f"what the outputs are: {', '.join(tasks())} (default: found)"


def _budget_help() -> str:
    from dataclasses import fields

    from edgeres.targets.target import Budget

    return f"a limit, or NAME=none to lift it; NAME is {', '.join(field.name for field in fields(Budget))}"


def stage_store(options: Options) -> Store:
    """The store of finished stages: in ``--cache``, else ``$EDGERES_CACHE``, else the user's cache folder."""
    from platformdirs import user_cache_path

    from edgeres.artifacts.store import Store

    return Store(Path(options.cache or os.environ.get("EDGERES_CACHE") or user_cache_path("edgeres")))
