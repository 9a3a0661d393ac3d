from dataclasses import replace
from itertools import accumulate
from math import prod

import pytest

from edgeres.model.cost import Layer, activations, layers, macs, parameters, peak, shapes
from edgeres.model.graph import graph
from edgeres.model.operation import IMAGE
from edgeres.model.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_rows_add_up_to_the_closed_forms(name):
    spec = preset(name)
    height, width = spec.image_size if any(spec.grid) else (64, 96)
    rows = layers(graph(spec), height, width)
    assert sum(row.macs for row in rows) == macs(graph(spec), height, width)
    assert sum(row.parameters for row in rows) == parameters(graph(spec))
    size = shapes(graph(spec), height, width)
    assert {row.output: row.output_shape for row in rows} | {IMAGE: (3, height, width)} == size


def test_activations_are_those_fvcore_counts():
    # fvcore 0.1.5.post20221221, ActivationCountAnalysis of torchvision 0.28's resnet50: 11,113,984 conv + 1,000 linear
    assert activations(layers(graph(preset("resnet50")), 224, 224)) == 11_114_984


def test_peaks_by_hand():
    stem, pooled, wide = 64 * 112 * 112, 64 * 56 * 56, 256 * 56 * 56
    most = peak(layers(graph(preset("resnet18")), 224, 224), (3, 224, 224))
    assert (most.layer, most.elements) == ("maxpool", stem + pooled)  # the stem's ReLU writes over its input
    most = peak(layers(graph(preset("resnet50")), 224, 224), (3, 224, 224))
    assert (most.layer, most.elements) == ("layer1.0.downsample.0", pooled + 2 * wide)
    assert dict(most.tensors) == {"maxpool": pooled, "layer1.0.conv3": wide, "layer1.0.downsample.0": wide}


def test_folding_changes_no_peak():
    for name in ("resnet18", "resnet50", "seresnet18", "resnet20"):
        spec = preset(name)
        folded = replace(spec, norm=False)
        assert (
            peak(layers(graph(spec), 64, 64), (3, 64, 64)).elements
            == peak(layers(graph(folded), 64, 64), (3, 64, 64)).elements
        )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnet50", "resnetv2_18", "resnet20", "resnext50_32x4d"])
def test_a_peak_lies_between_its_bounds(name):
    spec = preset(name)
    size = shapes(graph(spec), 64, 64)
    ops = graph(spec).ops
    last = {tensor: index for index, op in enumerate(ops) for tensor in op.inputs}
    born = {IMAGE: -1} | {op.name: index for index, op in enumerate(ops)}
    copied = max(  # no buffer shared at all: everything born and still to be read, at each step
        sum(prod(size[tensor]) for tensor in born if born[tensor] <= index <= last.get(tensor, len(ops)))
        for index in range(len(ops))
    )
    needed = max(prod(size[op.inputs[0]]) for op in ops)
    assert needed <= peak(layers(graph(spec), 64, 64), (3, 64, 64)).elements <= copied


def chain(*kinds, size=(4, 2, 2)):
    names = list(accumulate(range(len(kinds)), lambda _, index: f"t{index}", initial=IMAGE))
    return [
        Layer(
            name=names[i + 1],
            operator=kind,
            kind=kind,
            inputs=(names[i],),
            output=names[i + 1],
            input_shape=size,
            output_shape=size,
        )
        for i, kind in enumerate(kinds)
    ]


def test_an_activation_writes_over_its_input_but_never_over_the_image():
    assert peak(chain("relu"), (4, 2, 2)).elements == 32
    assert peak(chain("weighted", "relu", "relu"), (4, 2, 2)).elements == 32
    assert peak(chain("view", "view"), (4, 2, 2)).elements == 16


def test_a_tensor_still_to_be_read_is_not_written_over():
    rows = chain("weighted", "relu")
    add = replace(rows[1], name="add", kind="elementwise", inputs=("t1", "t0"), output="add")
    assert peak([*rows, add], (4, 2, 2)).elements == 32  # image + t0, then t0 + t1; the add writes over t1
    assert peak(rows, (4, 2, 2)).elements == 32
    late = replace(add, inputs=("t1", "t0", IMAGE))
    assert peak([*rows, late], (4, 2, 2)).elements == 48
