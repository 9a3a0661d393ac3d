"""Calibration tables: kept, refused where they do not fit, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_weights import random_weights

from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.calibration_table import SCHEMA, CalibrationTable, difference, encode, fitting, read_table
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import quant_table

PREPROCESS = Preprocess(resize=32, crop=32)
IMAGES = np.random.default_rng(5).normal(size=(4, 3, 32, 32)).astype(np.float32)


def table_of(spec, weights, scheme, calibrator="minmax"):
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights).eval(), [IMAGES], placement.observed)
    return quant_table(
        weights, histograms, placement, scheme, calibrator=calibrator, method="max", data="d" * 64, images=len(IMAGES)
    )


def _read(text):
    with TemporaryDirectory() as folder:
        Path(folder, "calibration.json").write_text(text)
        return read_table(Path(folder))


@pytest.fixture
def saved(thin, thin_weights, scheme):
    table = table_of(thin, thin_weights, scheme)
    return CalibrationTable(model="thin", preprocess=PREPROCESS, scheme=scheme, table=table)


def test_a_table_comes_back_as_it_was(saved, tmp_path):
    text = encode(saved)
    assert _read(text) == saved
    assert json.loads(text)["schema"] == SCHEMA
    (tmp_path / "kept.json").write_text(text)
    (tmp_path / "calibration.json").write_text(text)
    assert read_table(tmp_path / "kept.json") == read_table(tmp_path) == saved
    assert encode(read_table(tmp_path)) == text


def test_a_table_fits_what_it_was_made_for_and_gives_the_same_scales(saved, thin, thin_weights, scheme):
    assert fitting(saved, graph(thin), thin_weights, scheme, PREPROCESS) is saved.table
    elsewhere = replace(scheme, channel_multiple=scheme.channel_multiple * 2)  # the pruner's, not the scales'
    assert fitting(saved, graph(thin), thin_weights, elsewhere, PREPROCESS) is saved.table


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight_bits": 4}, "scheme.weight_bits was 8, is 4"),
        ({"wide_layers": ("conv1",)}, "scheme.wide_layers"),
        ({"reduce_range": True}, "scheme.reduce_range was False, is True"),
        ({"float_layers": ("fc", "conv1")}, "scheme.float_layers"),
    ],
)
def test_another_scheme_is_refused_by_name(saved, thin, thin_weights, scheme, change, told):
    with pytest.raises(DataError, match=f"the scales do not fit: {told}"):
        fitting(saved, graph(thin), thin_weights, replace(scheme, **change), PREPROCESS)


@pytest.mark.parametrize("field", ["signed", "pools", "add_inputs"])
def test_another_placement_is_refused_by_name(saved, thin, thin_weights, scheme, field):
    other = {"signed": not scheme.signed, "pools": not scheme.pools}
    other["add_inputs"] = "both" if scheme.add_inputs == "identity" else "identity"
    with pytest.raises(DataError, match=rf"scheme\.{field} was"):
        fitting(saved, graph(thin), thin_weights, replace(scheme, **{field: other[field]}), PREPROCESS)


@pytest.mark.parametrize("change", [{"crop": 24}, {"mean": (0.5, 0.5, 0.5)}, {"interpolation": "bicubic"}])
def test_images_prepared_otherwise_are_refused_by_name(saved, thin, thin_weights, scheme, change):
    with pytest.raises(DataError, match=rf"preprocess\.{next(iter(change))} was"):
        fitting(saved, graph(thin), thin_weights, scheme, replace(PREPROCESS, **change))


def test_other_weights_are_refused(saved, thin, thin_weights, scheme):
    with pytest.raises(DataError, match="they are for weights") as refusal:
        fitting(saved, graph(thin), random_weights(thin, seed=1), scheme, PREPROCESS)
    assert thin_weights.digest[:12] in refusal.value.what
    assert "calibrate again" in refusal.value.hint


def test_a_table_that_does_not_say_which_weights_fits_none(saved, thin, thin_weights, scheme):
    unnamed = replace(saved, table=replace(saved.table, network=""))
    with pytest.raises(DataError, match="of no digest"):
        fitting(unnamed, graph(thin), thin_weights, scheme, PREPROCESS)


def test_missing_and_foreign_tensors_are_refused_by_name(saved, thin, thin_weights, scheme):
    activations = dict(saved.table.activations)
    dropped = activations.pop("image")
    for scales, told in (
        (activations, "'image' is without a scale"),
        ({**activations, "image": dropped, "x": dropped}, "'x' is not in"),
    ):
        changed = replace(saved, table=replace(saved.table, activations=scales))
        with pytest.raises(DataError, match=told):
            fitting(changed, graph(thin), thin_weights, scheme, PREPROCESS)
    weights = {**saved.table.weights, "conv1": QParams(scale=(1.0, 2.0), axis=0, narrow=True)}
    with pytest.raises(DataError, match="conv1 has 8 channels, 2 scales"):
        fitting(
            replace(saved, table=replace(saved.table, weights=weights)), graph(thin), thin_weights, scheme, PREPROCESS
        )


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("activations", {"bits": 4, "zero_point": 0}),
        ("activations", {"axis": 1}),
        ("weights", {"bits": 4}),
        ("weights", {"signed": False}),
        ("weights", {"axis": 1}),
        ("weights", {"zero_point": 1}),
    ],
)
def test_codes_of_another_scheme_are_refused_though_the_table_says_otherwise(
    saved, thin, thin_weights, scheme, part, change
):
    scales = dict(getattr(saved.table, part))
    name = next(iter(scales))
    changed = replace(saved.table, **{part: {**scales, name: replace(scales[name], **change)}})
    with pytest.raises(DataError, match=f"the scales do not fit: .*'{name}' is in other codes"):
        fitting(replace(saved, table=changed), graph(thin), thin_weights, scheme, PREPROCESS)


def test_a_signed_tensor_is_no_unsigned_one_and_its_zero_is_zero(saved, thin, thin_weights, scheme):
    image = saved.table.activations["image"]
    changes = [replace(image, signed=not image.signed, zero_point=0)]
    changes += [replace(image, zero_point=1)] if scheme.signed else []
    for changed in changes:
        table = replace(saved.table, activations={**saved.table.activations, "image": changed})
        with pytest.raises(DataError, match="tensor 'image' is in other codes"):
            fitting(replace(saved, table=table), graph(thin), thin_weights, scheme, PREPROCESS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scale": [0.0]}, "must be positive"),
        ({"scale": [-0.1]}, "must be positive"),
        ({"scale": []}, "at least one"),
        ({"scale": [0.1, 0.2]}, "2 scales need an axis"),
        ({"zero_point": 500}, "zero-point 500 is no code"),
        ({"bits": 64}, "64 should be less"),
    ],
)
def test_scales_that_make_no_sense_are_refused_where_they_are_read(saved, change, told):
    data = json.loads(encode(saved))
    data["table"]["activations"]["image"] |= change
    with pytest.raises(DataError, match=f"image.*{told}"):
        _read(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "no table of schema"),
        ('{"schema": "edgeres.calibration/2"}', "no table of schema"),
        ('{"schema": "edgeres.calibration/1", "modell": 1}', "modell|model"),
    ],
)
def test_what_is_no_table_is_refused(text, told):
    with pytest.raises(DataError, match=told):
        _read(text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "nothing.json")


def test_equal_tables_do_not_differ(saved):
    found = difference(saved, _read(encode(saved)))
    assert found.equal
    assert found.compared == len(saved.table.activations) + len(saved.table.weights)


@given(st.floats(0.01, 100).filter(lambda factor: abs(factor - 1) > 1e-3))
def test_change_of_a_scale_is_in_percent_and_bits(factor):
    def table(scale):
        from edgeres.targets.target import find_target

        made = {"scheme": find_target("cpu").scheme, "model": "m", "preprocess": PREPROCESS}
        from edgeres.quant.quant_table import QuantTable

        scales = {"a": QParams(scale=(scale,)), "b": QParams(scale=(1.0,))}
        return CalibrationTable(
            **made, table=QuantTable(activations=scales, weights={}, calibrator="c", data="", images=1)
        )

    (change,) = difference(table(2.0), table(2.0 * factor)).scales
    assert change.tensor == "a"
    assert change.percent == pytest.approx(100 * (factor - 1))
    assert change.bits == pytest.approx(log2(factor))


def test_the_largest_difference_comes_first_and_the_worst_channel_speaks(saved):
    def scaled(params, *factors):
        return replace(params, scale=tuple(s * f for s, f in zip(params.scale, factors, strict=True)))

    table = saved.table
    names = list(table.activations)
    activations = table.activations | {
        names[0]: scaled(table.activations[names[0]], 1.1),
        names[1]: scaled(table.activations[names[1]], 0.25),
    }
    factors = [1.0] * 8
    factors[3], factors[5] = 2.0, 1.5
    weights = table.weights | {"conv1": scaled(table.weights["conv1"], *factors)}
    other = replace(saved, table=replace(table, activations=activations, weights=weights, calibrator="mse", images=9))
    found = difference(saved, other)
    assert [change.tensor for change in found.scales] == [names[1], "conv1", names[0]]
    assert [change.bits for change in found.scales] == pytest.approx([-2, 1, log2(1.1)])
    assert found.scales[1].channels == 2
    assert found.scales[1].first == table.weights["conv1"].scale[3]
    assert {name for name, _, _ in found.facts} == {"calibrator", "images"}


def test_difference_lists_tensors_of_one_table_and_other_codes(saved):
    name = next(iter(saved.table.activations))
    params = saved.table.activations[name]
    moved = {**saved.table.activations, name: replace(params, zero_point=params.zero_point + 3)}
    moved["extra"] = params
    found = difference(saved, replace(saved, table=replace(saved.table, activations=moved)))
    alone, codes = found.scales
    assert (alone.tensor, alone.first, alone.bits) == ("extra", None, None)
    assert codes.codes == f"zero-point {params.zero_point} -> {params.zero_point + 3}"
    assert codes.bits == 0
