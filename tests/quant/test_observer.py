from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_histogram import content, contents, histogram_of

from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.quant.calibrator import CALIBRATORS, activation_qparams
from edgeres.quant.observer import Binner, Tally, observe
from edgeres.targets.target import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.model.network import Tap
    from edgeres.quant.histogram import Histogram

    Floats = NDArray[np.float32]

SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=8, kernel=3, stride=1, pool=True),
    stages=((Block(inner=(8,), out=8),), (Block(inner=(12,), out=16, stride=2, projected=True),)),
    classes=10,
    norm=False,
)
TENSORS = ("image", "relu", "maxpool", "layer1.0.add", "layer2.0.downsample.0", "layer2.0.relu", "fc")
SIGNED = QuantScheme(signed=True, add_inputs="identity", pools=False)
UNSIGNED = QuantScheme(signed=False, add_inputs="both", pools=True)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(graph(SPEC)).eval()


@pytest.fixture(scope="module")
def images() -> Floats:
    # Images of very different range, so that the grids grow while they stream.
    generator = np.random.default_rng(0)
    loudness = 2.0 ** generator.integers(-6, 7, size=(33, 1, 1, 1))
    return (generator.standard_normal((33, 3, 16, 16)) * loudness).astype(np.float32)


@pytest.fixture(scope="module")
def reference(network: Network, images: Floats) -> dict[str, Histogram]:
    return observe(network, [images], TENSORS)


def batches(images: Floats, size: int) -> Iterator[Floats]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def test_histograms_hold_what_the_network_computes(
    network: Network, images: Floats, reference: dict[str, Histogram]
) -> None:
    assert tuple(reference) == TENSORS
    one = observe(network, [images[:1]], TENSORS)
    seen: dict[str, Tensor] = {}
    with torch.inference_mode():
        network(torch.from_numpy(images[:1]), seen.__setitem__)
    for name, histogram in one.items():
        values = seen[name].numpy()
        assert histogram.counts.sum() == values.size
        assert histogram.high == pytest.approx(values.max(), rel=1e-5, abs=1e-6)
        assert histogram.low == pytest.approx(values.min(), rel=1e-5, abs=1e-6)
        direct = np.cumsum(histogram_of(values).counts) if histogram.exponent == histogram_of(values).exponent else None
        if direct is not None:
            # The memory layout differs, so a value may cross a bin edge, not more.
            assert np.abs(np.cumsum(histogram.counts) - direct).max() <= 0.01 * values.size + 2
    assert content(reference["image"]) == content(histogram_of(images))
    assert all(histogram.images == len(images) for histogram in reference.values())


@pytest.mark.parametrize("size", [1, 7, 32])
def test_the_batch_size_leaves_no_trace(
    network: Network, images: Floats, reference: dict[str, Histogram], size: int
) -> None:
    assert contents(observe(network, batches(images, size), TENSORS)) == contents(reference)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 33), shards=st.integers(1, 4))
def test_scales_are_identical_for_any_order_batches_and_shards(seed: int, size: int, shards: int) -> None:
    torch.manual_seed(1)
    network = Network(graph(SPEC)).eval()
    generator = np.random.default_rng(1)
    images = (generator.standard_normal((12, 3, 16, 16)) * 2.0 ** generator.integers(-3, 4, (12, 1, 1, 1))).astype("f4")
    expected = observe(network, [images], TENSORS)
    shuffled = images[np.random.default_rng(seed).permutation(len(images))]
    parts = [observe(network, batches(part, size), TENSORS) for part in np.array_split(shuffled, shards)]
    for name in TENSORS:
        merged = parts[0][name]
        for part in parts[1:]:
            merged = part[name].merged(merged)
        for calibrator in CALIBRATORS:
            for scheme in (SIGNED, UNSIGNED):
                found = activation_qparams(merged, calibrator, scheme)
                assert found == activation_qparams(expected[name], calibrator, scheme)


def test_the_number_of_threads_leaves_no_trace(
    network: Network, images: Floats, reference: dict[str, Histogram]
) -> None:
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert contents(observe(network, [images], TENSORS)) == contents(reference)
        assert torch.get_num_threads() == threads


def test_every_image_is_alone_in_its_forward_pass(images: Floats) -> None:
    sizes: list[int] = []

    class Recorder(Network):
        def forward(self, image: Tensor, tap: Tap | None = None) -> Tensor:
            sizes.append(len(image))
            return super().forward(image, tap)

    observe(Recorder(graph(SPEC)), [images[:5], images[5:6]], ["relu"])
    assert sizes == [1] * 6


@pytest.mark.parametrize("scale", [1.0, 2.0**-140, 2.0**-120, 3000.0, 1e6, 1e38])
@pytest.mark.parametrize("one_sided", [True, False])
def test_counting_on_tensors_equals_the_histogram_of_arrays(scale: float, one_sided: bool) -> None:
    generator = np.random.default_rng(2)
    values = (generator.standard_normal((4, 3, 8, 8)) * scale).astype(np.float32)
    values[0, 0, 0, :4] = [0.0, -0.0, 1e-45, 2.0**-126]
    if one_sided:
        values = np.abs(values)
    for layout in (torch.contiguous_format, torch.channels_last):
        tally = Tally("x", Binner(torch.device("cpu")))
        for image in values:
            tally.add(torch.from_numpy(image[None]).contiguous(memory_format=layout))
        assert content(tally.histogram()) == content(histogram_of(values))


def test_a_one_sided_image_may_follow_a_two_sided_one() -> None:
    tally = Tally("x", Binner(torch.device("cpu")))
    parts = (np.array([[-4.0, 1.0]], "f4"), np.array([[0.0, 9.0]], "f4"), np.array([[-0.25, 0.5]], "f4"))
    for part in parts:
        tally.add(torch.from_numpy(part))
    assert content(tally.histogram()) == content(histogram_of(np.concatenate(parts)))


def test_images_are_drawn_as_they_are_needed(network: Network, images: Floats) -> None:
    drawn, finished = 0, 0

    def source() -> Iterator[Floats]:
        nonlocal drawn
        for image in images:
            assert drawn - finished <= 2 * torch.get_num_threads() + 1
            drawn += 1
            yield image[None]

    def advance(count: int) -> None:
        nonlocal finished
        finished += count

    observe(network, source(), ["fc"], advance)
    assert (drawn, finished) == (33, 33)


def test_the_network_stays_as_it_was(images: Floats) -> None:
    from dataclasses import replace

    network = Network(graph(replace(SPEC, norm=True))).train()
    before = network.weights().digest
    observe(network, [images[:4]], ["fc"])
    assert network.training
    assert network.weights().digest == before
    assert all(parameter.is_contiguous() for parameter in network.parameters())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_tensor_is_named(network: Network, images: Floats, bad: float) -> None:
    broken = images.copy()
    broken[3, 0, 0, 0] = bad
    with pytest.raises(StageError, match="'image' holds NaN or infinite"):
        observe(network, [broken], TENSORS)


def test_nan_weights_are_refused_with_the_tensor_they_break(images: Floats) -> None:
    network = Network(graph(SPEC))
    with torch.no_grad():
        network.get_parameter("layer1.0.conv2.bias")[0] = torch.nan
    with pytest.raises(StageError, match=r"'layer1\.0\.add'"):
        observe(network, [images], TENSORS)


def test_an_unknown_tensor_gets_its_nearest_name(network: Network, images: Floats) -> None:
    with pytest.raises(StageError, match="did you mean 'maxpool'"):
        observe(network, [images], ["maxpol"])


def test_no_images_are_refused(network: Network) -> None:
    with pytest.raises(StageError, match="no calibration images"):
        observe(network, [], TENSORS)
