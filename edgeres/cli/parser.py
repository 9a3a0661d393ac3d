"""Commands and their options, in the words of ``edgeres --help``. Imports nothing heavy: help is instant."""

from __future__ import annotations

import argparse
from typing import Any

import edgeres
from edgeres.cli import device_parser, gate_parser, ladder_parser, predict_parser, study_parser
from edgeres.cli.command_line import CommandLine

STAGE_COMMANDS = {
    "quantize": "calibrate and quantize a finished run again",
    "export": "write a finished run's ONNX files again",
    "build": "build a finished run's engine or device bundle again; on a device, the engine of a bundle",
    "verify": "measure a finished run's artifact again and judge it",
}

_EXIT_CODES = (
    "exit codes: 0 passed, 1 error, 2 bad usage or input, 3 over a budget, 4 unmeasured under --strict, "
    "5 too few images for the gate to tell"
)


def parser() -> CommandLine:
    """The whole command line."""
    top = CommandLine(
        prog="edgeres",
        description="Compile a ResNet for an edge device, with proof that it is still right and inside its budgets.",
        epilog=_EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"edgeres {edgeres.__version__}")
    commands: argparse._SubParsersAction[Any] = top.add_subparsers(dest="command", metavar="COMMAND")
    _compile(commands.add_parser("compile", help="train or load, fold, prune, quantize, export, build, verify, report"))
    _train(commands.add_parser("train", help="train a network and keep its weights"))
    for name, text in STAGE_COMMANDS.items():
        again = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT_CODES)
        _again(again)
        if name == "quantize":
            ladder_parser.quantize(again)
        elif name == "build":
            device_parser.bundle(again)
    ladder_parser.sensitivity(commands)
    report = commands.add_parser("report", help="draw a finished run's report again")
    report.add_argument("run", type=_given, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    report.add_argument("--json", action="store_true", help="print report.json")
    device_parser.measured(commands)
    _lint(commands.add_parser("lint", help="say offline what a target will refuse, misread or run slowly"))
    gate_parser.gate(commands)
    study_parser.compare(commands)
    study_parser.parity(commands)
    study_parser.reproduce(commands)
    study_parser.macs(commands)
    predict_parser.predict(commands, study_parser.positive, _limit)
    predict_parser.profile(commands, study_parser.positive)
    predict_parser.bench(commands, study_parser.positive)
    study_parser.calibration(commands)
    for name, text in {
        "targets": "list targets and what is missing here",
        "models": "list presets with their costs",
        "recipes": "list recipes and their stages",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", action="store_true", help="machine-readable output")
        if name == "recipes":
            keys = "list every setting that --set takes, with type, default and choices"
            command.add_argument("--keys", action="store_true", help=keys)
    return top


def _compile(command: CommandLine) -> None:
    command.epilog = _EXIT_CODES
    command.add_argument(
        "model", type=_given, metavar="MODEL", help="preset (see 'edgeres models') or a foreign .onnx file"
    )
    command.add_argument("--target", type=_given, required=True, help="where it goes (see 'edgeres targets')")
    command.add_argument("--recipe", type=_given, help="recipe name or file; chosen by what is given otherwise")
    command.add_argument("--until", type=_given, metavar="STAGE", help="stop after this stage")
    command.add_argument("--plan", action="store_true", help="print what would run, why and for how long; run nothing")
    command.add_argument(
        "--variant",
        choices=("int8", "float", "fastest"),
        default="int8",
        help="what ships: int8 (default), float, or the faster of both that keeps the accuracy limit",
    )
    ladder_parser.search_options(command)
    _source(command)
    _running(command, "build/<model>-<target>")


def _train(command: CommandLine) -> None:
    command.epilog = _EXIT_CODES
    command.add_argument("model", type=_given, metavar="MODEL", help="preset (see 'edgeres models')")
    command.add_argument("--recipe", choices=("he", "modern"), help="training recipe; default modern")
    command.add_argument("--epochs", type=_whole, metavar="N", help="passes over the training images")
    command.add_argument("--freeze", choices=("none", "backbone"), help="train the classifier alone, on --weights")
    _source(command)
    _running(command, "build/<model>-trained")


def _source(command: CommandLine) -> None:
    group = command.add_argument_group("network and data")
    group.add_argument(
        "--weights", type=_given, metavar="FILE|NAME", help=".safetensors, .pt, .pth, .th, or a torchvision enum name"
    )
    group.add_argument(
        "--data", type=_given, metavar="DIR", help="train/<class>/ and val/<class>/ images, or CIFAR-10's binary files"
    )
    classes = (
        "text file: the class folders in the order of the network's outputs, one a line (default: matched by name)"
    )
    group.add_argument("--classes", type=_given, metavar="FILE", help=classes)
    group.add_argument("--calibration", type=_whole, default=512, metavar="N", help="calibration images (default 512)")
    scales = "take the scales of a saved table, or of a run, instead of calibrating"
    group.add_argument("--scales", type=_given, metavar="FILE", help=scales)
    group.add_argument("--seed", type=_whole, default=0, metavar="N", help="seed of everything random (default 0)")
    group.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="accept few-images, overlap, missing-classes or chance (a network at chance); the report shows it",
    )
    group.add_argument("--resize", type=_whole, metavar="PX", help="shorter side before the crop")
    group.add_argument("--crop", type=_whole, metavar="PX", help="side of the centre crop")
    group.add_argument("--mean", type=_triple, metavar="R,G,B", help="mean of each channel, of pixels in 0..1")
    group.add_argument("--std", type=_triple, metavar="R,G,B", help="standard deviation of each channel")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic", "nearest"), help="how images are resized")
    channels = "order of the network's input channels (default rgb); mean and std stay in the order red, green, blue"
    group.add_argument("--channels", choices=("rgb", "bgr"), help=channels)
    exif = "what becomes of the EXIF orientation of images (default ignore, as torchvision does)"
    group.add_argument("--exif", choices=("ignore", "apply"), help=exif)


def _running(command: CommandLine, out: str) -> None:
    group = command.add_argument_group("run")
    group.add_argument("--out", type=_given, metavar="DIR", help=f"run folder (default {out})")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="STAGE.KEY=VALUE",
        help="change a recipe's setting ('edgeres recipes --keys' lists them)",
    )
    limit = group.add_argument(
        "--budget",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=VALUE",
        help="a limit, or NAME=none to lift it",
    )
    command.late(limit, _budget_help)
    group.add_argument("--strict", action="store_true", help="fail when a budget line is unmeasured")
    group.add_argument(
        "--cache", type=_given, metavar="DIR", help="where finished stages are kept (default ~/.cache/edgeres)"
    )
    group.add_argument("--json", action="store_true", help="print report.json on standard output")
    group.add_argument("--quiet", action="store_true", help="print the verdict only")


def _budget_help() -> str:
    from dataclasses import fields

    from edgeres.targets.target import Budget

    return f"a limit, or NAME=none to lift it; NAME is {', '.join(field.name for field in fields(Budget))}"


def _again(command: CommandLine) -> None:
    command.add_argument("run", type=_given, metavar="RUN", help="run folder, such as build/resnet18-jetson")
    _running(command, "RUN itself")


def _lint(command: CommandLine) -> None:
    command.add_argument("model", type=_given, metavar="FILE.onnx", help="any ONNX classifier")
    command.epilog = "exit codes: 0 no errors, 1 a repair could not be proven, 2 bad usage or input, 3 errors found"
    command.add_argument("--target", type=_given, required=True, help="where it goes, such as jetson-orin-nano:jp6.2")
    command.add_argument("--dla", action="store_true", help="ask for a DLA of the module too")
    command.add_argument(
        "--fix", type=_given, metavar="OUT.onnx", help="write a repaired graph to a new file; every repair is proven"
    )
    command.add_argument("--only", type=_given, metavar="RULE,RULE", help="with --fix: repair findings of these rules")
    command.add_argument("--sarif", type=_given, metavar="FILE", help="write SARIF 2.1.0, for code scanning")
    command.add_argument("--json", action="store_true", help="machine-readable output")


def _triple(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def _limit(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    try:
        return name, None if value == "none" else float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as latency_p90_ms=5") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _given(text: str) -> str:
    """A word that is there: an empty one is a shell variable that nobody set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out, or give it a value")
    return text
