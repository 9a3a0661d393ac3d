from dataclasses import replace
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.latency.host_profile import (
    HostProfile,
    Lookup,
    Point,
    ProfileValidation,
    Table,
    encode,
    half_filled,
    padded,
    read_profile,
)
from edgeres.latency.lookup_table import WHOLE, ProfiledLayer, assembled
from edgeres.latency.random_model import randomly_pruned
from edgeres.latency.workload import Work, of_graph
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.targets.target import find_target

CPU = find_target("cpu")


def law(layer, times):
    """A machine on which every MAC takes a nanosecond, an add half of one per element, a call 10 us."""
    macs = layer.kernel**2 * layer.c_in * layer.c_out * layer.side**2
    if layer.role == "head":
        macs = layer.c_in * layer.c_out
    elements = layer.c_out * layer.side**2
    ways = 2 if layer.role in ("way", "odd", "add", "bare") else 1
    adds = {"add": layer.c_in * layer.side**2, "step": elements, "stem": elements / 4}.get(layer.role, 0)
    return times * (1e-6 * ways * macs + 0.5e-6 * adds)


@pytest.fixture(scope="module")
def table():
    return assembled({layer: law(layer, 1) for layer in WHOLE}, 0.01, 1.0)


def profile(table, **changes):
    trial = ProfileValidation(name="t", precision="int8", predicted_ms=1.1, measured_ms=1.0)
    whole = HostProfile(
        target="cpu", runtime="ONNX Runtime", cpu="a CPU", cores=2, threads=1, load=0.5, known=("resnet18",),
        tables={"int8": table, "float": replace(table, scale=2.0)}, trials=(trial,),
    )  # fmt: skip
    return replace(whole, **changes)


def test_table_recovers_a_linear_cost_model(table):
    assert table.add_ns == pytest.approx(0.5)
    assert table.call_ms == pytest.approx(0.01)
    assert table.odd == pytest.approx(0, abs=1e-9)
    for point in (*table.points, *table.heads):
        macs = point.kernel**2 * point.c_in * point.c_out * point.side**2
        assert point.ms == pytest.approx(1e-6 * macs)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("seed", [None, 3, 4])
def test_resnets_are_predicted_by_a_linear_cost_model(table, name, seed):
    spec = PRESETS[name] if seed is None else randomly_pruned(PRESETS[name], seed)
    works = of_graph(graph(spec), Size.square(224), integer=True, adds=True)
    law_ms = 0.01 + sum(1e-6 * work.macs + 0.5e-6 * (work.kind == "add") * work.activations / 3 for work in works)
    found = profile(table).predicted(works)
    assert found.ms == pytest.approx(
        law_ms, rel=5e-3
    )  # the classifier's 1,000 classes and the stem's 147 taps fill no tile


def test_the_scale_of_the_precision_counts(table):
    works = of_graph(graph(PRESETS["resnet18"]), Size.square(224), integer=False, adds=True)
    integers = of_graph(graph(PRESETS["resnet18"]), Size.square(224), integer=True, adds=True)
    found = profile(table)
    assert found.predicted(works).ms == pytest.approx(2 * found.predicted(integers).ms)


def test_the_band_is_the_furthest_trial(table):
    works = of_graph(graph(PRESETS["resnet18"]), Size.square(224), integer=True, adds=True)
    trials = tuple(
        ProfileValidation(name="t", precision="int8", predicted_ms=ms, measured_ms=1.0) for ms in (0.8, 1.1, 1.0)
    )
    found = profile(table, trials=trials).predicted(works)
    assert found.high_ms / found.ms == pytest.approx(1.25)
    assert found.ms / found.low_ms == pytest.approx(1.25)
    assert "20.0 % at most" in found.basis
    with pytest.raises(UsageError, match="no band"):
        profile(table, trials=()).predicted(works)


def test_cost_of_half_filled_blocks_is_fitted():
    dearer = {
        layer: law(layer, exp(0.2 * (half_filled(layer.c_in) + half_filled(layer.c_out))) if layer.role == "odd" else 1)
        for layer in WHOLE
    }
    found = assembled(dearer, 0.0, 1.0)
    assert found.odd == pytest.approx(0.2)
    lookup = Lookup(found)

    def ms(c_in, c_out):
        return lookup.conv_ms(Point(kernel=3, stride=1, side=28, c_in=c_in, c_out=c_out, ms=1))

    assert ms(112, 112) == pytest.approx(exp(0.4) * 1e-6 * 9 * 112**2 * 28**2)
    assert ms(128, 128) == pytest.approx(1e-6 * 9 * 128**2 * 28**2)


@pytest.mark.parametrize(
    ("channels", "half"), [(16, True), (32, False), (48, True), (64, False), (40, True), (56, False)]
)
def test_what_fills_a_block_half(channels, half):
    assert half_filled(channels) is half


@given(st.integers(16, 700), st.integers(16, 700), st.floats(4, 80))
def test_interpolation_stays_between_its_points(c_in, c_out, side):
    points = tuple(
        Point(
            kernel=3,
            stride=1,
            side=s,
            c_in=a,
            c_out=b,
            ms=padded(Point(kernel=3, stride=1, side=s, c_in=a, c_out=b, ms=1)) * rate,
        )
        for s, rate in ((7, 1e-6), (56, 4e-6))
        for a in (32, 512)
        for b in (64, 256)
    )
    table = Table(points=points, stems=(), heads=(), add_ns=0, call_ms=0, unit_ms=1)
    work = Work("x", "conv", c_in, c_out, 3, 1, 1, side, 0, 9 * c_in * c_out, round(9 * c_in * c_out * side**2), True)
    rate = Lookup(table).ms(work) / work.padded_macs(16)
    assert 1e-6 * (1 - 1e-9) <= rate <= 4e-6 * (1 + 1e-9)


def test_kernel_outside_the_table_is_refused(table):
    found = profile(table)
    with pytest.raises(UsageError, match="32 groups"):
        found.predicted(of_graph(graph(PRESETS["resnext50_32x4d"]), Size.square(224), integer=True, adds=True))


def test_profile_round_trips_through_json(table, tmp_path):
    place = tmp_path / "p.json"
    place.write_text(encode(profile(table)))
    assert read_profile(place, CPU) == profile(table)
    with pytest.raises(UsageError, match="is a profile of cpu"):
        read_profile(place, find_target("x86"))


@pytest.mark.parametrize(("text", "said"), [("", "is no JSON"), ("{}", "missing"), ('{"schema": "x"}', "schema")])
def test_missing_or_foreign_profile_is_refused(text, said, tmp_path):
    place = tmp_path / "p.json"
    place.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_profile(place, CPU)
    with pytest.raises(UsageError, match="edgeres profile --target cpu"):
        read_profile(tmp_path / "absent.json", CPU)


def test_layers_are_all_different_and_of_every_role():
    assert len(set(WHOLE)) == len(WHOLE)
    assert {layer.role for layer in WHOLE} == {"way", "step", "stem", "head", "odd", "add", "bare"}
    assert ProfiledLayer("way", 3, 7, 64, 32).turned() == ProfiledLayer("way", 3, 7, 32, 64)
