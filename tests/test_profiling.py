from pathlib import Path

import numpy as np
import pytest

from edgeres.errors import UsageError
from edgeres.host_profile import encode, read_profile
from edgeres.layer_table import Layer, layer_table
from edgeres.model.spec import PRESETS
from edgeres.onnxfile import census
from edgeres.profiling import Subject, measure_profile, try_profile
from edgeres.progress import Silent
from edgeres.target import find_target
from edgeres.unlearned import thinned, unlearned
from edgeres.workbench import Pace, Workbench
from edgeres.workload import of_model

CPU, QUICK = find_target("cpu"), Pace(least=7, most=7, limit_s=0.0)
LAYERS = (  # large enough for a few calls to tell them on a busy machine
    Layer("way", 3, 28, 64, 64),
    Layer("way", 3, 14, 128, 128),
    Layer("way", 1, 28, 256, 256),
    Layer("step", 3, 14, 128, 128),
    Layer("step", 1, 28, 256, 256),
    Layer("stem", 7, 56, 3, 32),
    Layer("head", 1, 1, 2048, 1000),
    Layer("odd", 3, 14, 112, 112),
    Layer("add", 1, 28, 256, 256),
    Layer("bare", 1, 28, 256, 256),
)


def subject(seed):
    return Subject(f"seed {seed}", unlearned(thinned(PRESETS["resnet18"], seed), 64, CPU))


@pytest.fixture(scope="module")
def measured():
    return measure_profile(CPU, [subject(0)], [subject(1)], Silent(), threads=1, pace=QUICK, layers=LAYERS)


def test_a_profile_knows_its_machine_and_what_it_was_tried_on(measured, tmp_path):
    assert (measured.target, measured.threads, measured.known) == ("cpu", 1, ("seed 0",))
    assert {trial.precision for trial in measured.trials} == {"int8", "float"}
    assert measured.factor >= 1
    for table in measured.tables.values():
        assert table.scale > 0
        assert {(point.kernel, point.stride) for point in table.points} == {(1, 1), (1, 2), (3, 1), (3, 2)}
    place = tmp_path / "p.json"
    place.write_text(encode(measured))
    assert read_profile(place, CPU) == measured


def test_it_predicts_and_is_tried_again(measured):
    (int8, floating) = try_profile(measured, CPU, [subject(2)], Silent(), QUICK)
    works = of_model(subject(2).models["int8"], adds=True)
    assert int8.predicted_ms == pytest.approx(measured.predicted(works).ms)
    assert 0.2 < int8.ratio < 5  # three calls on a busy machine
    assert 0.2 < floating.ratio < 5


@pytest.mark.parametrize("name", ["jetson", "raspberry-pi", "rtx"])
def test_other_targets_do_not_run_here(name):
    with pytest.raises(UsageError, match="does not run on this host"):
        measure_profile(find_target(name), [subject(0)], [], Silent(), pace=QUICK, layers=LAYERS)


def test_more_work_takes_longer(tmp_path):
    """64 times the MACs: no load of the machine turns that round in processor time."""
    bench = Workbench(CPU, 1, Path(tmp_path), "int8")
    small, large = Layer("way", 3, 14, 64, 64), Layer("way", 3, 28, 256, 256)
    rest = tuple(layer for layer in LAYERS if layer.role in ("odd", "add", "bare"))
    table = layer_table(bench, QUICK, Silent(), (small, large, Layer("way", 1, 28, 64, 64), *rest))
    ms = {(point.side, point.c_in): point.ms for point in table.points}
    assert ms[28, 256] > 5 * ms[14, 64]
    assert not list(tmp_path.iterdir())


def test_pruned_widths_are_multiples_and_leave_the_structure():
    spec = thinned(PRESETS["resnet50"], 5)
    widths = {width for _, _, block in spec.blocks for width in (*block.inner, block.out)}
    assert all(width % 16 == 0 for width in widths)
    assert len(spec.blocks) == len(PRESETS["resnet50"].blocks)
    assert thinned(PRESETS["resnet50"], 5) == spec != thinned(PRESETS["resnet50"], 6)


def test_an_unlearned_network_has_the_graph_of_a_quantized_one():
    models = unlearned(PRESETS["resnet20"], 32, CPU)
    assert census.macs(models["int8"]) == census.macs(models["float"])
    counts = census.qdq(models["int8"])
    assert (counts.weights, counts.weighted) == (19, 20)
    assert all(np.isfinite(tensor).all() for tensor in [np.zeros(1)])
    assert census.qdq(models["float"]).activations == 0
