from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.profile import try_profile
from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.latency import timer
from edgeres.latency.host_profile import encode, read_profile
from edgeres.latency.lookup_table import ProfiledLayer, layer_table
from edgeres.latency.profiling import ProfiledNetwork, measure_profile
from edgeres.latency.random_model import random_model, randomly_pruned
from edgeres.latency.timer import Timer, Timing
from edgeres.latency.workload import of_model
from edgeres.model.presets import PRESETS
from edgeres.onnx_graph import operator_counts
from edgeres.progress import Silent
from edgeres.targets.target import find_target

CPU, QUICK = find_target("cpu"), Timing(least=7, most=7, limit_s=0.0)
LAYERS = (
    ProfiledLayer("way", 3, 28, 64, 64),
    ProfiledLayer("way", 3, 14, 128, 128),
    ProfiledLayer("way", 1, 28, 256, 256),
    ProfiledLayer("step", 3, 14, 128, 128),
    ProfiledLayer("step", 1, 28, 256, 256),
    ProfiledLayer("stem", 7, 56, 3, 32),
    ProfiledLayer("head", 1, 1, 2048, 1000),
    ProfiledLayer("odd", 3, 14, 112, 112),
    ProfiledLayer("add", 1, 28, 256, 256),
    ProfiledLayer("bare", 1, 28, 256, 256),
)


def subject(seed):
    return ProfiledNetwork(
        f"seed {seed}", random_model(randomly_pruned(PRESETS["resnet18"], seed), Size.square(64), CPU)
    )


def law_ns(model):
    """A machine on which every MAC takes a nanosecond, an add half of one per element, a call 10 us."""
    works = of_model(model, adds=True)
    return 10_000 + sum(work.macs + 0.5 * (work.kind == "add") * work.activations / 3 for work in works)


@contextmanager
def machine_of_one_law():
    """That machine in place of this one: graphs take what the law says, on a clock that nothing else moves."""
    clock = SimpleNamespace(now=0)

    def opened(self, name, model, stack):
        took = round(law_ns(model))

        def run():
            clock.now += took

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timer, "process_time_ns", lambda: clock.now)
        patch.setattr(Timer, "_open", opened)
        yield


@pytest.fixture
def lawful():
    with machine_of_one_law():
        yield


@pytest.fixture(scope="module")
def measured():
    with machine_of_one_law():
        return measure_profile(CPU, [subject(0)], [subject(1)], Silent(), threads=1, timing=QUICK, layers=LAYERS)


def test_profile_records_its_machine_and_validations(measured, tmp_path):
    assert (measured.target, measured.threads, measured.known) == ("cpu", 1, ("seed 0",))
    assert {trial.precision for trial in measured.trials} == {"int8", "float"}
    assert measured.factor >= 1
    for table in measured.tables.values():
        assert table.scale == pytest.approx(1, rel=0.05)
        assert table.add_ns == pytest.approx(0.5, rel=0.01)
        assert table.call_ms == pytest.approx(0.01, rel=0.01)
        assert {(point.kernel, point.stride) for point in table.points} == {(1, 1), (1, 2), (3, 1), (3, 2)}
    place = tmp_path / "p.json"
    place.write_text(encode(measured))
    assert read_profile(place, CPU) == measured


@pytest.mark.usefixtures("lawful")
def test_profile_predicts_networks_measured_afterwards(measured):
    (int8, floating) = try_profile(measured, CPU, [subject(2)], Silent(), QUICK)
    assert int8.predicted_ms == pytest.approx(measured.predicted(of_model(subject(2).models["int8"], adds=True)).ms)
    for trial in (int8, floating):
        assert trial.measured_ms == pytest.approx(1e-6 * law_ns(subject(2).models[trial.precision]), rel=1e-6)
        assert trial.ratio == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", ["jetson", "raspberry-pi", "rtx"])
def test_other_targets_do_not_run_here(name):
    with pytest.raises(UsageError, match="does not run on this host"):
        measure_profile(find_target(name), [subject(0)], [], Silent(), timing=QUICK, layers=LAYERS)


@pytest.mark.usefixtures("lawful")
def test_a_layer_takes_what_its_macs_take(tmp_path):
    bench = Timer(CPU, 1, tmp_path, "int8")
    small, large = ProfiledLayer("way", 3, 14, 64, 64), ProfiledLayer("way", 3, 28, 256, 256)
    rest = tuple(layer for layer in LAYERS if layer.role in ("odd", "add", "bare"))
    table = layer_table(bench, QUICK, Silent(), (small, large, ProfiledLayer("way", 1, 28, 64, 64), *rest))
    ms = {(point.side, point.c_in): point.ms for point in table.points}
    assert ms[14, 64] == pytest.approx(1e-6 * 9 * 64**2 * 14**2, rel=1e-3)
    assert ms[28, 256] == pytest.approx(1e-6 * 9 * 256**2 * 28**2, rel=1e-3)


def test_graphs_run_on_the_runtime_of_the_target_beside_the_reference(tmp_path):
    bench, model = Timer(CPU, 1, tmp_path, "int8"), subject(0).models["int8"]
    with bench.opened({"network": model}) as runs:
        assert set(runs) == {"reference", "network"}
        assert runs["network"]().shape == (1, 1000)
        found = bench.relative(runs, QUICK)
    assert found["reference"] == 1
    assert found["network"] > 0
    assert bench.unit_ms > 0
    assert not list(tmp_path.iterdir())


def test_pruned_widths_are_multiples_and_leave_the_structure():
    spec = randomly_pruned(PRESETS["resnet50"], 5)
    widths = {width for _, _, block in spec.blocks for width in (*block.inner, block.out)}
    assert all(width % 16 == 0 for width in widths)
    assert len(spec.blocks) == len(PRESETS["resnet50"].blocks)
    assert randomly_pruned(PRESETS["resnet50"], 5) == spec != randomly_pruned(PRESETS["resnet50"], 6)


def test_random_model_has_the_graph_of_a_quantized_network():
    models = random_model(PRESETS["resnet20"], Size.square(32), CPU)
    assert operator_counts.macs(models["int8"]) == operator_counts.macs(models["float"])
    counts = operator_counts.qdq(models["int8"])
    assert (counts.weights, counts.weighted) == (19, 20)
    assert all(np.isfinite(tensor).all() for tensor in [np.zeros(1)])
    assert operator_counts.qdq(models["float"]).activations == 0
