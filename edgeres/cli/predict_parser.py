"""Options of ``edgeres predict`` and ``edgeres profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Commands = argparse._SubParsersAction[Any]

_EXIT_CODES = (
    "exit codes: 0 the prediction keeps the latency budget, or there is none, 1 error, 2 bad usage or input, "
    "3 its whole band is over the budget, 5 the budget lies inside the band"
)


def predict(
    commands: Commands, positive: Callable[[str], int], limit: Callable[[str], tuple[str, float | None]]
) -> None:
    """``edgeres predict``."""
    text = "say how long a network takes on a device that is not here, with a band"
    command = commands.add_parser("predict", help=text, epilog=_EXIT_CODES)
    command.add_argument("model", metavar="MODEL", help="preset (see 'edgeres models'), run folder, or .onnx file")
    command.add_argument("--target", required=True, help="where it goes (see 'edgeres targets')")
    known = command.add_mutually_exclusive_group()
    known.add_argument(
        "--calibrate",
        metavar="FILE|RUN",
        help="one network measured on the device: a run, or a JSON (docs/prediction.md)",
    )
    known.add_argument("--profile", metavar="FILE", help="layers measured on this host by 'edgeres profile'")
    command.add_argument("--size", type=positive, metavar="PX", help="side of the image (default the network's own)")
    command.add_argument(
        "--precision",
        choices=("int8", "fp16", "fp32", "float"),
        help="of the network; float is the target's own: FP16 in TensorRT, FP32 on CPUs (default int8)",
    )
    command.add_argument(
        "--budget",
        action="append",
        default=[],
        type=limit,
        metavar="NAME=VALUE",
        help="a limit, or NAME=none to lift it",
    )
    command.add_argument("--json", action="store_true", help="every layer, for machines")


def profile(commands: Commands, positive: Callable[[str], int]) -> None:
    """``edgeres profile``."""
    text = "measure layers on this host once (1 to 2 minutes), for 'edgeres predict --profile'"
    command = commands.add_parser("profile", help=text)
    command.add_argument("--target", required=True, help="x86 or cpu: whose runtime to measure")
    command.add_argument("--out", metavar="FILE", help="where to (default build/profile-<target>.json)")
    command.add_argument(
        "--threads", type=positive, default=2, metavar="N",
        help="of the runtime (default 2); 1 is timed by processor time, which others on the machine hardly disturb",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print the profile")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def bench(commands: Commands, positive: Callable[[str], int]) -> None:
    """``edgeres bench``."""
    text = "time a finished run's float32 and INT8 on every runtime of this host, and say which is fastest"
    command = commands.add_parser("bench", help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("run", metavar="RUN", help="run folder, such as build/resnet18-x86")
    command.add_argument(
        "--threads", type=positive, default=2, metavar="N",
        help="of each runtime, each on a processor of its own (default 2)",
    )  # fmt: skip
    command.add_argument("--runtimes", metavar="NAME,NAME", help="only these, such as openvino,onnxruntime,torch")
    length = command.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=positive, default=30, metavar="S",
        help="stop after this long, or once every median is known to 2 %% (default 30)",
    )  # fmt: skip
    length.add_argument("--rounds", type=positive, metavar="N", help="take just so many rounds")
    command.add_argument("--json", action="store_true", help="every figure and every kernel, for machines")
    command.add_argument("--quiet", action="store_true", help="print the verdict only")
