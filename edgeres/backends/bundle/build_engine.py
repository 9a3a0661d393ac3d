"""Builds a TensorRT engine from the bundle in this folder, on this device, and checks its golden outputs.

    python3 build_engine.py                 verify, build model.plan, compare golden outputs, time it, write device.json
    python3 build_engine.py --check-only    verify the files and check for TensorRT and a GPU

Needs TensorRT 8.5 or newer, numpy, and Python 3.8 or newer; nothing else, and no network. ``device.py`` and
``engine.py`` are in the same folder.
Exit codes: 0 done, 1 the build failed or golden outputs differ, 2 the bundle is damaged, 3 no TensorRT or no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from edgeres.backends.bundle import device, engine
    from edgeres.backends.bundle.device import BundleError
else:  # on the device, where the three files are in one folder
    import device
    import engine
    from device import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[str, float], None]

CACHE = "timing.cache"


def parse(trt: Any, builder: Any, model: bytes, log: Any, *, strong: bool = False) -> tuple[Any, Any]:
    """``(network, parser)`` of an ONNX file; weights live as long as the parser does.

    ``strong`` selects strong typing where a version has both, as 10 has.
    """
    flags = trt.NetworkDefinitionCreationFlag
    weak = hasattr(trt.BuilderFlag, "INT8") and not strong  # TensorRT 11 and TensorRT-RTX have strong typing only
    explicit = getattr(flags, "EXPLICIT_BATCH", None)  # required by TensorRT 8, the only mode later
    creation = 1 << int(explicit) if weak and explicit is not None else 0
    network = builder.create_network(creation if weak else 1 << int(flags.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        errors = "; ".join(_parser_error(parser.get_error(index)) for index in range(parser.num_errors))
        raise BundleError(f"TensorRT {trt.__version__} refused the graph: {errors or log.errors()}")
    return network, parser


def _parser_error(error: Any) -> str:
    # Without a GPU the shape query after an error appends a CUDA line that does not concern the graph.
    words = " ".join(line for line in error.desc().splitlines() if "catchCudaError" not in line)
    node = error.node_name() if hasattr(error, "node_name") else ""  # TensorRT 8 has none
    return f"node {node}: {words}" if node else f"node number {error.node()}: {words}" if error.node() >= 0 else words


class Phases:
    """Progress of a build, from the phases that TensorRT reports: each has steps, and a phase may run inside a step."""

    def __init__(self) -> None:
        self._open: dict[str, list[Any]] = {}  # name -> [parent, steps, steps done]
        self.name, self.share = "", 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        if parent is None and not self._open:
            self.share = 0.0
        self._open[name], self.name = [parent, max(1, steps), 0], self.name if parent and self._open else name
        self._settle()

    def step(self, name: str, number: int) -> None:
        """Step ``number`` of a phase is over; the first one is 0."""
        self._open[name][2] = number + 1
        self._settle()

    def finish(self, name: str) -> None:
        """A phase is over."""
        parent, steps, _ = self._open[name]
        if parent is None:
            self._open[name][2] = steps
            self._settle()
        del self._open[name]

    def _settle(self) -> None:
        """Keeps progress monotonic: a phase that ends inside a step leaves the step itself to be counted."""
        roots = [name for name, (parent, _, _) in self._open.items() if parent is None]
        if roots:
            self.share = max(self.share, self._done(roots[-1]))

    def _done(self, name: str) -> float:
        _, steps, done = self._open[name]
        inside = [self._done(child) for child, (parent, _, _) in self._open.items() if parent == name]
        return float(min(1.0, (done + (max(inside) if inside else 0.0)) / steps))


def monitor(trt: Any, phases: Phases, watch: Listener) -> Any:
    """TensorRT's progress monitor, which calls ``watch`` with the phase and the completed share.

    An exception may not pass through TensorRT, not even Ctrl-C: it is kept as ``failure``, and the build is asked to
    end.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known only once TensorRT is loaded
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)
            self.report()

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            self.report()
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

        def report(self) -> None:
            try:
                watch(phases.name, phases.share)
            except BaseException as failure:
                self.failure = failure

    return Monitor()


def build_plan(
    trt: Any,
    model: bytes,
    build: dict[str, Any],
    log: Any,
    tune: Callable[[Any], None],
    *,
    watch: Listener | None = None,
) -> bytes:
    """The serialized engine of an ONNX file, by the manifest's ``build`` section and a logger of ``engine.recorder``.

    ``tune`` is called with the builder configuration before the build, for settings of one runtime or caller; ``watch``
    with the phase and the completed share, where this version reports them.

    Raises:
        BundleError: Parser or builder rejected the graph; the message quotes them.
        BaseException: An exception of ``watch``, after TensorRT has returned.
    """
    builder = trt.Builder(log)
    network, parser = parse(trt, builder, model, log, strong=build.get("strongly_typed", False))
    config = builder.create_builder_config()
    _configure(trt, config, build)
    image = network.get_input(0)
    if image.shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, *([batch, *build["image"]] for batch in build["batch"]))
        config.add_optimization_profile(profile)
    watcher = None
    if watch is not None and hasattr(config, "progress_monitor"):  # TensorRT 8 has none
        watcher = config.progress_monitor = monitor(trt, Phases(), watch)
    tune(config)
    plan = builder.build_serialized_network(network, config)
    del parser
    if watcher is not None and watcher.failure is not None:
        raise watcher.failure
    if plan is None:
        raise BundleError(f"TensorRT {trt.__version__} built no engine: {log.errors()}")
    return bytes(plan)


def _configure(trt: Any, config: Any, build: dict[str, Any]) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build["workspace_mib"] << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in build["precisions"]:
        if hasattr(trt.BuilderFlag, name):  # 11 is strongly typed: the flags are gone
            config.set_flag(getattr(trt.BuilderFlag, name))
    if build["optimization_level"] is not None and hasattr(config, "builder_optimization_level"):  # 8.6 and newer
        config.builder_optimization_level = build["optimization_level"]


def build_here(folder: Path, manifest: dict[str, Any], trt: Any, facts: dict[str, Any], watch: Listener) -> bytes:
    """Builds the engine of a bundle with its sidecar, with the timing cache of an earlier build in this folder."""
    configs, log = [], engine.recorder(trt)
    known = _own_cache(folder)

    def tune(config: Any) -> None:
        if not config.set_timing_cache(config.create_timing_cache(known), False):  # from another device
            config.set_timing_cache(config.create_timing_cache(b""), False)
        configs.append(config)

    model = (folder / manifest["build"]["model"]).read_bytes()
    plan = build_plan(trt, model, manifest["build"], log, tune, watch=watch)
    timings = bytes(configs[0].get_timing_cache().serialize())
    sidecar = {**engine.identity(folder, plan, trt, facts), "timing_cache_sha256": device.sha256(timings)}
    device.write(folder / CACHE, timings)
    device.write(folder / engine.PLAN, plan)
    device.write(folder / engine.SIDECAR, (json.dumps(sidecar, indent=2, sort_keys=True) + "\n").encode())
    return plan


def _own_cache(folder: Path) -> bytes:
    """Timing cache of an earlier build; empty where there is none, or another file in its place."""
    try:
        data = (folder / CACHE).read_bytes()
        written = json.loads((folder / engine.SIDECAR).read_text(encoding="utf-8"))["timing_cache_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return data if device.sha256(data) == written else b""


def run(folder: Path, *, check_only: bool, say: Callable[[str], None] = print, seconds: float = device.SECONDS) -> None:
    """Runs the command; see the module's docstring."""
    manifest = device.verified(folder, say)
    if "build" not in manifest:
        raise BundleError(f"there is no engine to build for {manifest['runtime']}: its README.md says what to type", 2)
    trt, facts = engine.load_tensorrt(), engine.Cuda().facts()
    wanted, version = manifest["build"]["tensorrt"], trt.__version__
    say(f"TensorRT {version} on {facts['gpu']}, compute capability {facts['sm']}")
    if not f"{version}.".startswith(f"{wanted}."):
        say(f"note: this bundle was made for TensorRT {wanted}")
    if check_only:
        return
    silent = "" if hasattr(trt, "IProgressMonitor") else f"; TensorRT {version} does not tell how far it is"
    say(f"building {engine.PLAN}, which takes minutes{silent}")
    bar, start = engine.Bar(), time.monotonic()
    plan = build_here(folder, manifest, trt, facts, bar.show)
    bar.done()
    say(f"{engine.PLAN}: built in {time.monotonic() - start:.0f} s, {len(plan) / 2**20:.1f} MiB")
    runner = engine.Runner(trt, plan, engine.recorder(trt))
    engine.finish(folder, manifest, engine.examine(folder, manifest, runner, plan, seconds), say)


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    command = argparse.ArgumentParser(description="Build and check the TensorRT engine of this bundle.")
    command.add_argument("--check-only", action="store_true", help="verify the files and look for TensorRT and a GPU")
    check_only = command.parse_args(arguments).check_only
    return device.exit_code(lambda: run(Path(__file__).resolve().parent, check_only=check_only))


if __name__ == "__main__":
    sys.exit(main())
