"""From artifacts to the rows of a report: flips with confidences, scales with what calibration saw."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from reference_histogram import histogram_of

from edgeres.artifacts.artifact import Baseline, KernelCounts, ModelMetadata, VerificationResult
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.pipeline import assemble
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable, sketch, with_sketches
from edgeres.report.select import FLIPS_SHOWN, noisiest, worst_first

COUNT = 60
LABELS = tuple(index % 3 for index in range(COUNT))


@pytest.fixture
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    return Split("validation", tuple(ArrayImage(array, str(place)) for place, array in enumerate(pixels)), LABELS)


@pytest.fixture
def verdict(split):
    """Image 0 is right before and after; of the rest, float is surer of later ones, and every tenth was wrong."""
    before = tuple((label + (index % 10 == 0)) % 3 for index, label in enumerate(LABELS))
    after = (before[0], *((label + 2) % 3 for label in LABELS[1:]))
    baseline = Baseline(score=90.0, predictions=before, labels=LABELS, images=split.digest)
    metadata = ModelMetadata(
        name="n", preprocess=Preprocess(resize=8, crop=8), classes=("a", "b", "c"), baseline=baseline
    )
    census = KernelCounts(integer=1, weighted=1, counts={}, how="counted")
    twin = (*before[:7], (before[7] + 1) % 3, *before[8:])
    sure = tuple((round(0.4 + index / 200, 4), 0.5) for index in range(COUNT))
    return VerificationResult(SimpleNamespace(metadata=metadata), 1, 1, after, twin, census, confidences=sure)


def test_flips_have_confidences_of_both_networks(verdict, split):
    found = {flip.index: flip for flip in assemble.flips(verdict, split)}
    assert list(found) == list(range(1, COUNT))
    assert (found[5].float_confidence, found[5].deployed_confidence) == (0.425, 0.5)
    assert found[7].float_confidence is None  # the float graph that ran there gives another class than float did
    assert found[7].deployed_confidence == 0.5


def test_only_shown_flips_have_thumbnails(verdict, split):
    found = assemble.flips(verdict, split)
    pictured = {flip.index for flip in found if flip.thumbnail}
    assert len(pictured) == FLIPS_SHOWN
    assert pictured == {flip.index for flip in worst_first(found)[:FLIPS_SHOWN]}
    lost = [index for index in range(COUNT - 1, 0, -1) if index % 10]
    assert pictured == set(lost[:FLIPS_SHOWN])


def test_flips_of_result_without_confidences(verdict, split):
    found = assemble.flips(replace(verdict, confidences=()), split)
    assert {(flip.float_confidence, flip.deployed_confidence) for flip in found} == {(None, None)}


def test_scales_have_calibration_statistics():
    seen = histogram_of(np.linspace(-1, 3, 4000, dtype=np.float32).reshape(1, -1))
    params = QParams(scale=(0.02,))
    table = QuantTable(
        activations={"pool": params, "image": params, "odd": params}, weights={}, calibrator="mse", data="d", images=1
    )
    found = assemble.calibration(with_sketches(table, {"image": seen}), ("image", "relu", "pool"))
    assert [row.tensor for row in found.tensors] == ["image", "pool", "odd"]
    image, pool, _ = found.tensors
    wanted = sketch(seen, params)
    assert (image.low, image.high, image.columns) == (-1.0, 3.0, wanted.columns)
    assert (image.clipped, image.sqnr_db) == (wanted.clipped, wanted.sqnr_db)
    assert image.covered == pytest.approx((-2.56, 2.54))
    assert (pool.columns, pool.sqnr_db, pool.low) == ((), None, None)
    assert noisiest(found.tensors, 5) == [image]
