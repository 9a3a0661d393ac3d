"""Which of a state dict's keys stands for which of the graph's: the network, its prefix, and its classifier."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.key_conventions import CONVENTIONS, TIMM, Convention
from edgeres.model.state_dict import AVERAGED
from edgeres.model.timm_keys import timm_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]

_WRAPPERS = re.compile(
    r"(?:(?<=^)|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Components of a key that torch.compile, FSDP and checkpointing insert anywhere."""

_BOOKKEEPING = re.compile(
    r"(^|\.)(num_batches_tracked|n_averaged)$|_momentum$"
)  # training counters that inference does not read
_QUANTIZED = re.compile(r"_packed_params|\.zero_point$|activation_post_process|fake_quant")
_PREFIX = re.compile(r"^((module|model|backbone|encoder|net|network)\.)+")  # where no convention is recognised


@dataclass(frozen=True, slots=True)
class Named:
    """The file's key of each of the graph's keys, and notes on what was left out.

    ``affine`` says that norms are scale and shift alone, without statistics.
    """

    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()
    affine: bool = False


_HEAD = re.compile(
    r"(^|[._])(fc\d*|linear|head|heads|classifier|cls|cls_head|logits|last_linear|output|final)($|[._\d])"
)
_HARMLESS = re.compile(
    r"proj|predictor|prototypes|queue|criterion|loss|momentum|centers?(\.|$)|mask_token|aux_classifier|aux_head|metric|"
    r"teacher|student|decoder|normali[sz]er",
    re.IGNORECASE,
)
_TEXT = re.compile(r"(^|\.)(transformer|token_embedding|text_projection|ln_final|positional_embedding|text)(\.|$)")
"""The text encoder beside CLIP's network of images (arXiv 2103.00020)."""

_SELF_SUPERVISED = re.compile(r"(^|\.)(encoder_[qk]|base_encoder|momentum_encoder|online_\w+|target_\w+)\.")
"""Encoders that end in a projection, not a classifier: MoCo (arXiv 1911.05722) and BYOL (arXiv 2006.07733)."""

_PAIRS = (("encoder_q", "encoder_k"), ("base_encoder", "momentum_encoder"), ("online", "target"))
"""Names of a trained encoder and of its moving average, of which the first is the one that the papers evaluate."""

NO_HEAD = "the file has no classifier"
_ONNX = "edgeres reads ResNets; take any other classifier in as an .onnx file"


def canonical(shapes: Mapping[str, Shape], *, headless: bool = False) -> Named:
    """Which of a state dict's keys stands for which of the graph's; an unknown key keeps its name.

    With ``headless`` a missing classifier, or a projection in its place, is left out.

    Raises:
        ModelError: Two networks, two keys for one place, no classifier, or one of several layers.
    """
    bare = {key: _WRAPPERS.sub("", key) for key in shapes if not _BOOKKEEPING.search(key)}
    for key in shapes:
        if _QUANTIZED.search(key):
            raise ModelError(f"weight {key!r} belongs to an already quantized network", "pass its float weights")
    networks = _networks(frozenset(bare.values()))
    if not networks:
        return Named(_unique({key: _PREFIX.sub("", name) for key, name in bare.items()}))
    convention, prefix, notes = _one(networks)
    others = tuple(other for _, other in networks if other != prefix and not prefix.startswith(other))
    theirs = [key for key, name in bare.items() if others and name.startswith(others)]
    inside = {
        key: name.removeprefix(prefix) for key, name in bare.items() if name.startswith(prefix) and key not in theirs
    }
    outside = [key for key in bare if key not in inside and key not in theirs]
    of_timm = timm_keys(inside.values()) if convention.name == TIMM else {}
    renamed = {key: of_timm.get(name) or convention.renamed(name) for key, name in inside.items()}
    body = {key: name for key, name in renamed.items() if _is_body(name)}
    rest = [key for key in renamed if key not in body]
    names = renamed | {key: bare[key] for key in outside}
    head, left = _head(rest, outside, names, shapes, prefix, headless=headless)
    left += theirs
    if left:
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        notes = (*notes, f"tensors outside of the network, {len(left)} of them, are left out: {some}")
    return Named(_unique({**body, **head}), notes, convention.name == "Caffe2")


def _is_body(name: str) -> bool:
    return re.match(r"(conv1|bn1|norm|layer\d+|final_conv|final_bn|attnpool|hidden|hidden_norm)\.", name) is not None


def _unique(renamed: Mapping[str, str]) -> dict[str, str]:
    came_from: dict[str, str] = {}
    for key, name in renamed.items():
        if name in came_from:
            what = f"keys {came_from[name]!r} and {key!r} both stand for {name!r}"
            raise ModelError(what, "save one network alone in the file, or pick one with --weights-key PREFIX")
        came_from[name] = key
    return came_from


def _networks(names: frozenset[str]) -> list[tuple[Convention, str]]:
    """The convention and prefix of every network whose first block is there."""
    found: dict[str, tuple[Convention, str]] = {}
    for convention in CONVENTIONS:
        for name in sorted(names):
            match = convention.anchor.match(name)
            if match and name not in found and (not convention.first or match[1] + convention.first in names):
                found[name] = convention, match[1]
    return list(found.values())


def _one(networks: Sequence[tuple[Convention, str]]) -> tuple[Convention, str, tuple[str, ...]]:
    """The network to take of those in one state dict, and a note where there are others."""
    if len(networks) == 1:
        return (*networks[0], ())
    prefixes = [prefix for _, prefix in networks]
    averaged = [network for network in networks if AVERAGED.search(network[1].strip("."))]
    others = [network for network in networks if network not in averaged]
    if len(averaged) == 1 and len(others) == 1:
        chosen, what = averaged[0], "the averaged weights"
    else:
        paired = [
            network
            for network in networks
            for taken, other in _PAIRS
            if taken in network[1] and network[1].replace(taken, other) in prefixes
        ]
        if len(paired) != 1 or len(networks) != 2:
            named = ", ".join(f"{prefix.rstrip('.') or 'without a prefix'}" for prefix in prefixes[:6])
            way = next((prefix.rstrip(".") for prefix in prefixes if prefix), "")
            raise ModelError(
                f"{len(networks)} networks are in one state dict ({named})", f"say which: --weights-key {way}"
            )
        chosen, what = paired[0], "the weights"
    other = next(prefix for prefix in prefixes if prefix != chosen[1]).rstrip(".")
    way = f"; --weights-key {other} takes the others" if other else ""
    return (*chosen, (f"{what} under {chosen[1].rstrip('.')!r} are taken{way}",))


def _head(
    rest: Sequence[str],
    outside: Sequence[str],
    names: Mapping[str, str],
    shapes: Mapping[str, Shape],
    prefix: str,
    *,
    headless: bool,
) -> tuple[dict[str, str], list[str]]:
    """Keys of the classifier with the graph's names, and the keys that are left out.

    ``rest`` are keys beside the body of the network, ``outside`` those without its prefix.
    """
    projection = _SELF_SUPERVISED.search(f".{prefix}") is not None
    beside = [key for key in rest if not _HARMLESS.search(names[key]) and not (projection and _HEAD.search(names[key]))]
    dropped = [key for key in rest if key not in beside]
    heads = _layers(beside, names, shapes)
    if len(heads) == 1 and not projection:
        head = _as_head(heads[0], beside, names)
        layered = _layers_after(outside, shapes, shapes[heads[0]])
        if layered:
            raise _several([names[heads[0]], *(names[key] for key in layered)])
        kept = {key: names[key] for key in beside if key not in head}
        return {**head, **kept}, [*dropped, *outside]
    beyond = [key for key in outside if not _HARMLESS.search(names[key])]
    dropped += [key for key in outside if key not in beyond]
    if not heads and not projection:
        heads = _layers(beyond, names, shapes)
        if len(heads) == 1:
            head = _as_head(heads[0], beyond, names)
            between = [key for key in beyond if key not in head and prod(shapes[key]) > 1]
            if not between:
                return {**head, **{key: names[key] for key in beside}}, [
                    *dropped,
                    *(k for k in beyond if k not in head),
                ]
            if not headless:
                raise ModelError(f"weight {between[0]!r} {shapes[between[0]]} is neither network nor classifier", _ONNX)
    if headless:
        return {}, [*dropped, *beside, *beyond]
    if len(heads) > 1:
        raise _several([names[key] for key in heads])
    raise ModelError(NO_HEAD, "")


def _layers(keys: Sequence[str], names: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[str]:
    """Keys of weights of fully connected layers and of norms between them, in a module named like a classifier."""
    named = [key for key in keys if names[key].endswith("weight") and _HEAD.search(names[key].removesuffix(".weight"))]
    if not named:
        named = [key for key in keys if names[key].endswith("weight") and len(shapes[key]) == 2]
    return sorted(named, key=lambda key: names[key])


def _layers_after(keys: Sequence[str], shapes: Mapping[str, Shape], head: Shape) -> list[str]:
    """Fully connected layers outside that read as many values as the classifier inside computes."""
    layers = [key for key in keys if len(shapes[key]) == 2 and shapes[key][1] == head[0]]
    return [key for key in layers if not _HARMLESS.search(key) and not _TEXT.search(key)]


def _as_head(weight: str, keys: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    module = names[weight].removesuffix("weight")
    return {key: f"fc.{names[key].removeprefix(module)}" for key in keys if names[key].startswith(module)}


def _several(names: Sequence[str]) -> ModelError:
    layers = ", ".join(name.removesuffix(".weight") for name in names)
    return ModelError(f"the classifier has {len(names)} layers ({layers}), a ResNet has one", _ONNX)
