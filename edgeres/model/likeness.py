"""Comparison of a network that was read with the model the user named, up to what tensors do not tell.

Tensors do not give strides, dilation, pooling, anti-aliasing and activations: those are taken from a spec whose visible
part agrees.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.presets import PRESETS

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec


def _skeleton(spec: ResNetSpec) -> tuple[object, ...]:
    """Properties that two specs share when they are the same network up to widths, stem, classes and input channels."""
    return (
        spec.kind,
        spec.preactivation,
        spec.normalization,
        spec.downsample == "average" and any(block.projected for _, _, block in spec.blocks),
        spec.features > 0,
        spec.attention_heads > 0,
        spec.hidden > 0,
        spec.leading_norm,
        len(spec.stem.inner),
        spec.stem.bare,
        spec.stem.normed,
        spec.stem.pool and spec.stem.pooling == "convolution",
        spec.attention == "3x3" and any(block.squeeze for _, _, block in spec.blocks),
        tuple(
            tuple((block.projected, block.groups > 1, block.squeeze > 0, block.eca > 0) for block in stage)
            for stage in spec.stages
        ),
    )


def _widths(spec: ResNetSpec) -> tuple[int, ...]:
    """Every width and group count, in order.

    The widths inside squeeze and excitation are left out: libraries round them differently.
    """
    blocks = ((*block.inner, block.out, block.groups) for _, _, block in spec.blocks)
    stem = (*spec.stem.inner, spec.stem.width, spec.stem.out)
    return (*stem, *(width for block in blocks for width in block), spec.features, spec.hidden)


def with_hidden_of(spec: ResNetSpec, hint: ResNetSpec) -> ResNetSpec:
    """A copy with what tensors do not tell taken from a hint, as far as the two agree.

    That are strides, dilation, pooling, anti-aliasing, activation, the shortcut without weights, ``stride_in``, the
    groups of group normalization, the heads of an attention, the shape of its pixels and ``eps``.
    """
    if _skeleton(spec) != _skeleton(hint):
        return spec
    same_stem = spec.stem.kernel == hint.stem.kernel
    widths = {name: getattr(spec.stem, name) for name in ("width", "inner", "pool_width")}
    stem = replace(hint.stem, **widths) if same_stem else spec.stem
    stages = tuple(
        tuple(
            replace(block, stride=model.stride, dilation=model.dilation)
            for block, model in zip(stage, models, strict=True)
        )
        for stage, models in zip(spec.stages, hint.stages, strict=True)
    )
    hidden = ["shortcut", "stride_in", "downsample", "antialias", "activation", "attention", "norm_groups", "eps"]
    if prod(spec.grid) == prod(hint.grid):
        hidden.append("grid")
    if spec.stages[-1][-1].out == hint.stages[-1][-1].out:
        hidden.append("attention_heads")
    return replace(spec, stem=stem, stages=stages, **{name: getattr(hint, name) for name in hidden})


def reconcile(spec: ResNetSpec, hint: ResNetSpec) -> tuple[str, ...]:
    """Accepted differences of the network in a file from the one the user named: another stem, other widths.

    Raises:
        ModelError: They are different networks; the hint names the right one.
    """
    has, usual = _widths(spec), _widths(hint)
    same = _skeleton(spec) == _skeleton(hint)
    if not same or has != usual:
        alike = {name: _widths(known) for name, known in PRESETS.items() if _skeleton(known) == _skeleton(spec)}
        exact = next((name for name, widths in alike.items() if widths == has), None)
        if exact or not same:
            wider = next((name for name, widths in alike.items() if _within(has, widths)), None)
            right, named = exact or wider, preset_name(hint)
            described = f"{right}, {describe(spec)}" if right else describe(spec)
            what = f"the weights are {described}; the model named is {f'{named}, ' if named else ''}{describe(hint)}"
            way = f"name {right} instead" if right else "name the model the weights belong to"
            raise ModelError(what, f"{way}, or pass weights of {named}" if named else way)
    notes = []
    if spec.stem.kernel != hint.stem.kernel:
        how = "with" if spec.stem.pool else "without"
        size = f"{spec.stem.kernel}x{spec.stem.kernel}"
        notes.append(f"the stem is {size}, taken as stride {spec.stem.stride} {how} pooling")
    if has != usual:
        how = "narrower than" if _within(has, usual) else "different from"
        notes.append(f"widths are {how} those of {preset_name(hint) or 'the named model'}, and taken from the weights")
    return tuple(notes)


def _within(widths: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether no width is larger than the other at its place."""
    return all(width <= other for width, other in zip(widths, others, strict=True))


def bare(spec: ResNetSpec) -> ResNetSpec:
    """A spec without what differs within one architecture: classes, input channels and folding."""
    return replace(spec, classes=1, channels=1, norm=True)


def preset_name(spec: ResNetSpec) -> str | None:
    """Name of the preset that is this spec, apart from classes, input channels and folding."""
    return next((name for name, known in PRESETS.items() if bare(known) == bare(spec)), None)


def describe(spec: ResNetSpec) -> str:
    """Short description of a spec: ``a bottleneck network of 3-4-6-3 blocks with groups``."""
    depths = "-".join(str(len(stage)) for stage in spec.stages)
    order = "pre-activation " if spec.preactivation else ""
    blocks = [block for _, _, block in spec.blocks]
    extras = {
        "groups": any(block.groups > 1 for block in blocks),
        "squeeze and excitation": any(block.squeeze for block in blocks),
        "projections": any(block.projected for block in blocks),
    }
    present = ", ".join(word for word, holds in extras.items() if holds)
    return f"a {order}{spec.kind} network of {depths} blocks" + (f" with {present}" if present else "")
