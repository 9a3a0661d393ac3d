"""Comparison of the spec in a weight file with the one that the user named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.spec import PRESETS

if TYPE_CHECKING:
    from edgeres.model.spec import ResNetSpec


def skeleton(spec: ResNetSpec) -> tuple[object, ...]:
    """Properties that two specs share when they are the same network up to widths, stem, classes and input channels."""
    return (
        spec.kind,
        spec.preactivation,
        tuple(
            tuple((block.projected, block.groups > 1, block.squeeze > 0) for block in stage) for stage in spec.stages
        ),
    )


def widths(spec: ResNetSpec) -> tuple[int, ...]:
    """Every width and group count, in order.

    The widths inside squeeze and excitation are left out: libraries round them differently.
    """
    blocks = ((*block.inner, block.out, block.groups) for _, _, block in spec.blocks)
    return (spec.stem.width, *(width for block in blocks for width in block))


def with_hidden_of(found: ResNetSpec, hint: ResNetSpec) -> ResNetSpec:
    """A copy with the strides, pooling, shortcut and ``stride_in`` of a hint, as far as the two agree."""
    if skeleton(found) != skeleton(hint):
        return found
    same_stem = found.stem.kernel == hint.stem.kernel
    stem = replace(hint.stem, width=found.stem.width) if same_stem else found.stem
    stages = tuple(
        tuple(replace(block, stride=model.stride) for block, model in zip(stage, models, strict=True))
        for stage, models in zip(found.stages, hint.stages, strict=True)
    )
    return replace(found, stem=stem, stages=stages, shortcut=hint.shortcut, stride_in=hint.stride_in)


def reconcile(found: ResNetSpec, hint: ResNetSpec) -> tuple[str, ...]:
    """Compares the network in a file with the one the user named.

    Returns:
        Accepted differences, one sentence each: another stem, other widths.

    Raises:
        ModelError: They are different networks; the hint names the right one.
    """
    has, usual = widths(found), widths(hint)
    same = skeleton(found) == skeleton(hint)
    if not same or has != usual:
        exact = next((name for name, spec in PRESETS.items() if _is(found, spec)), None)
        if exact or not same:
            raise _contradiction(found, hint, exact or _like(found))
    notes = []
    if found.stem.kernel != hint.stem.kernel:
        how = "with" if found.stem.pool else "without"
        size = f"{found.stem.kernel}x{found.stem.kernel}"
        notes.append(f"the stem is {size}, taken as stride {found.stem.stride} {how} pooling")
    if has != usual:
        narrower = all(a <= b for a, b in zip(has, usual, strict=True))
        how = "narrower than" if narrower else "different from"
        notes.append(f"widths are {how} those of {preset_name(hint) or 'the named model'}, and taken from the weights")
    return tuple(notes)


def preset_name(spec: ResNetSpec) -> str | None:
    """Name of the preset that is this spec, apart from classes, input channels and folding."""
    bare = _bare(spec)
    return next((name for name, known in PRESETS.items() if _bare(known) == bare), None)


def describe(spec: ResNetSpec) -> str:
    """Short description of a spec: ``a bottleneck network of 3-4-6-3 blocks with groups``."""
    depths = "-".join(str(len(stage)) for stage in spec.stages)
    order = "pre-activation " if spec.preactivation else ""
    blocks = [block for _, _, block in spec.blocks]
    extras = [
        word
        for word, present in (
            ("groups", any(block.groups > 1 for block in blocks)),
            ("squeeze and excitation", any(block.squeeze for block in blocks)),
            ("projections", any(block.projected for block in blocks)),
        )
        if present
    ]
    return f"a {order}{spec.kind} network of {depths} blocks" + (f" with {', '.join(extras)}" if extras else "")


def _is(found: ResNetSpec, spec: ResNetSpec) -> bool:
    return skeleton(found) == skeleton(spec) and widths(found) == widths(spec)


def _like(found: ResNetSpec) -> str | None:
    """A preset of the same skeleton that is at least as wide everywhere."""
    has = widths(found)
    fitting = (
        name
        for name, spec in PRESETS.items()
        if skeleton(spec) == skeleton(found) and all(a <= b for a, b in zip(has, widths(spec), strict=True))
    )
    return next(fitting, None)


def _bare(spec: ResNetSpec) -> ResNetSpec:
    return replace(spec, classes=1, channels=1, norm=True)


def _contradiction(found: ResNetSpec, hint: ResNetSpec, right: str | None) -> ModelError:
    named, held = preset_name(hint), f"{right}, {describe(found)}" if right else describe(found)
    what = f"the weights are {held}; the model named is {f'{named}, ' if named else ''}{describe(hint)}"
    way = f"name {right} instead" if right else "name the model the weights belong to"
    return ModelError(what, f"{way}, or pass weights of {named}" if named else way)
