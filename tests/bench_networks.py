"""A small network as files, in INT8 and in float, and what a backend makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.latency.benchmark.variants import find_variants
from edgeres.latency.random_model import random_model
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.progress import Silent
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.latency.benchmark.variants import Variants

SIDE = 32
STAGES = ((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2, projected=True),))
SPEC = ResNetSpec(kind="basic", stem=Stem(width=16, kernel=3, stride=1), stages=STAGES, classes=5, norm=False)


def exported(folder: Path, float_layers: tuple[str, ...] = ("fc",)) -> Exported:
    """The network under the scheme of CPUs.

    Args:
        folder: Where the files go.
        float_layers: What stays in float.
    """
    target = find_target("cpu")
    assert target.scheme is not None
    target = replace(target, scheme=replace(target.scheme, float_layers=float_layers))
    files = {}
    for precision, model in random_model(SPEC, Size.square(SIDE), target).items():
        path = folder / f"{precision}.onnx"
        path.write_bytes(model.SerializeToString())
        files[precision] = File.of(path)
    metadata = ModelMetadata(name="small", preprocess=Preprocess(resize=SIDE, crop=SIDE), classes=())
    return Exported(metadata, files["int8"], files["float"], scales=files["int8"])


def found(folder: Path, *runtimes: str, float_layers: tuple[str, ...] = ("fc",)) -> Variants:
    """The network on some runtimes."""
    graphs, engines = folder / "graphs", folder / "engines"
    graphs.mkdir()
    engines.mkdir()
    return find_variants(exported(graphs, float_layers), find_target("cpu"), engines, Silent(), runtimes)
