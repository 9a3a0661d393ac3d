"""The state dict in a checkpoint: found by structure among what training scripts store, averaged weights first.

A state dict is a dictionary with string keys that holds a convolution, or the module tree of a whole pickled network.
What optimizers, schedulers, callbacks and hyperparameters hold is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeres.errors import ModelError
from edgeres.model.module_settings import ModuleSettings, module_settings
from edgeres.model.pickled_values import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.model.stored_tensor import StoredTensor
    from edgeres.model.torch_file import TorchFile

AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|shadow)([._]|$)|_ema$|^ema", re.IGNORECASE)
"""Names of weights that are averaged over training steps."""

_NO_NETWORK = re.compile(r"optim|sched|callback|hyper_?param|hparams|scaler|loops|config|cfg|args", re.IGNORECASE)
_MOST_NODES = 1_000_000
_MOST_MODULES = 20_000
_DEEPEST = 12
_MODULES_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class StateDict:
    """Tensors under their keys, and the path of the dictionary that holds them; empty for the file's own.

    ``module`` is the class of a whole pickled network, and ``settings`` are those of its modules.
    """

    path: str
    tensors: Mapping[str, StoredTensor]
    module: str = ""
    settings: ModuleSettings = field(default_factory=ModuleSettings)

    @property
    def averaged(self) -> bool:
        """Whether its name says that these weights are averaged."""
        return AVERAGED.search(self.path) is not None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The state dict to read, and notes on the choice."""

    state: StateDict
    notes: tuple[str, ...]


def choose(states: Sequence[StateDict], key: str | None) -> Chosen:
    """The state dict under a key, or without one the averaged weights, or the only ones.

    Raises:
        ModelError: Several networks, or none under the key; the message lists those there are.
    """
    if key is not None:
        return _asked(states, key)
    distinct = _distinct(states)
    averaged = [state for state in distinct if state.averaged]
    raw = [state for state in distinct if not state.averaged]
    if len(averaged) == 1 and len(raw) <= 1:
        other = raw[0] if raw else None
        if other is not None and _has_statistics(other) and not _has_statistics(averaged[0]):
            left = f"{averaged[0].path!r} holds averaged weights without the norms' statistics"
            return Chosen(other, (*_found(other), f"{left}; those under {other.path!r} are taken"))
        both = f"; --weights-key {other.path} takes the others" if other is not None and other.path else ""
        note = f"the averaged weights under {averaged[0].path!r} are taken{both}"
        return Chosen(averaged[0], (*_module(averaged[0]), note))
    if len(distinct) == 1:
        return Chosen(distinct[0], _found(distinct[0]))
    paths = ", ".join(state.path or "the file itself" for state in distinct[:6])
    way = next(state.path for state in distinct if state.path)
    raise ModelError(f"holds {len(distinct)} networks ({paths})", f"say which: --weights-key {way}")


def _asked(states: Sequence[StateDict], key: str) -> Chosen:
    for state in states:
        if state.path == key:
            return Chosen(state, (*_module(state), f"the weights under {key!r} are taken, as asked"))
    for state in states:
        if state.path and not key.startswith(f"{state.path}."):
            continue
        prefix = key.removeprefix(state.path).strip(".") + "."
        inside = {
            name.removeprefix(prefix): tensor for name, tensor in state.tensors.items() if name.startswith(prefix)
        }
        if any(len(tensor.shape) == 4 for tensor in inside.values()):
            taken = StateDict(state.path, inside, state.module, state.settings.inside(prefix))
            return Chosen(taken, (*_module(taken), f"the weights under {key!r} are taken, as asked"))
    known = dict.fromkeys(state.path for state in states if state.path)
    known |= dict.fromkeys(name.split(".")[0] for state in states for name in list(state.tensors)[:2000])
    raise ModelError(
        f"has no network under {key!r}", f"--weights-key takes {', '.join(list(known)[:8])}, or leave it out"
    )


def _distinct(states: Sequence[StateDict]) -> list[StateDict]:
    """State dicts without those that hold the same tensors as an earlier one."""
    seen: set[frozenset[str]] = set()
    distinct = []
    for state in states:
        places = frozenset(tensor.place for tensor in state.tensors.values() if len(tensor.shape) == 4)
        if "" in places or places not in seen:
            distinct.append(state)
        seen.add(places)
    return distinct


def _has_statistics(state: StateDict) -> bool:
    return any(key.endswith("running_mean") for key in state.tensors)


def _found(state: StateDict) -> tuple[str, ...]:
    return _module(state) + ((f"the weights were found under {state.path!r}",) if state.path else ())


def _module(state: StateDict) -> tuple[str, ...]:
    if not state.module:
        return ()
    return (f"the file holds a whole module, {state.module}: its tensors are read, its code is not run",)


def state_dicts(file: TorchFile) -> list[StateDict]:
    """Every state dict in a file, outer ones first.

    Raises:
        ModelError: There is none; the message says what the file holds.
    """
    found: list[StateDict] = []
    seen: set[int] = set()
    nodes = 0
    queue: list[tuple[object, str, int]] = [(file.content, "", 0)]
    for value, path, depth in queue:
        inside = entries(value)
        if id(value) in seen or inside is None:
            continue
        seen.add(id(value))
        nodes += len(inside)
        if nodes > _MOST_NODES:
            raise ModelError(f"holds more than {_MOST_NODES:,} values", "save model.state_dict() alone")
        if isinstance(value, Record) and isinstance(value.attributes.get("_modules"), dict | Record):
            state = _of_module(file, value, path)
        elif _is_flat(inside):
            state = _of_modules(file, [(part, f"{key}." if key else "") for key, part in inside.items()], path)
        else:
            tensors = {key: tensor for key, part in inside.items() if (tensor := file.tensor(part)) is not None}
            state = StateDict(path, tensors)
            if depth < _DEEPEST:
                queue += [
                    (part, f"{path}.{key}".lstrip("."), depth + 1)
                    for key, part in inside.items()
                    if isinstance(part, dict | Record) and not _NO_NETWORK.search(key)
                ]
        if any(len(tensor.shape) == 4 for tensor in state.tensors.values()):
            found.append(state)
    if not found:
        raise _nothing(file.content)
    return found


def entries(value: object) -> dict[str, object] | None:
    """The entries of a dictionary, or of an object that is one, under string keys; None for other values."""
    if isinstance(value, Record):
        value = value.pairs or value.attributes
    if not isinstance(value, dict):
        return None
    return {str(key): part for key, part in value.items() if isinstance(key, str)}


def _is_flat(inside: Mapping[str, object]) -> bool:
    """Whether a dictionary holds the attributes of every module by its name, as Torch-Pruning stores a network."""
    return any(isinstance(part, dict) and isinstance(part.get("_parameters"), dict) for part in inside.values())


def architecture(content: object) -> str:
    """Name of the network that a training script stored beside its weights; empty without one."""
    inside = entries(content) or {}
    options = entries(inside.get("args")) or {}
    names = (inside.get("arch"), options.get("arch"), options.get("model"))
    return next((name for name in names if isinstance(name, str)), "")


def _nothing(content: object) -> ModelError:
    inside = entries(content)
    if inside is None:
        kind = (content.name or "tensor") if isinstance(content, Record) else type(content).__name__
        return ModelError(f"holds a {kind}, not a state dict", "save model.state_dict() with torch.save, and pass that")
    keys = ", ".join(repr(key[:40]) for key in list(inside)[:5]) or "nothing"
    return ModelError(
        f"holds no tensors of a convolution: {keys}", "save model.state_dict() with torch.save, and pass that"
    )


def _of_module(file: TorchFile, root: Record, path: str) -> StateDict:
    """The state dict of a pickled module, from the parameters, buffers and submodules of its tree.

    Raises:
        ModelError: The tree has no end, or a module computes something else than a ResNet's.
    """
    queue: list[tuple[object, str]] = [(root, "")]
    for module, prefix in queue:
        if len(queue) > _MOST_MODULES or prefix.count(".") > _MODULES_DEEPEST:
            raise ModelError("holds a module that is nested without an end", "the file is damaged")
        parts = entries((entries(module) or {}).get("_modules")) or {}
        queue += [(part, f"{prefix}{key}.") for key, part in parts.items() if isinstance(part, Record)]
    return replace(_of_modules(file, queue, path), module=root.name)


def _of_modules(file: TorchFile, modules: Sequence[tuple[object, str]], path: str) -> StateDict:
    """The state dict of modules by the prefix of their tensors."""
    tensors: dict[str, StoredTensor] = {}
    described = [(module, entries(module) or {}, prefix) for module, prefix in modules]
    for _, attributes, prefix in described:
        skipped = attributes.get("_non_persistent_buffers_set")
        for name in ("_parameters", "_buffers"):
            for key, value in (entries(attributes.get(name)) or {}).items():
                tensor = file.tensor(value)
                if tensor is not None and not (isinstance(skipped, list) and key in skipped):
                    tensors[f"{prefix}{key}"] = tensor
        if len(tensors) > _MOST_MODULES:
            raise ModelError("holds a module of more tensors than any network", "the file is damaged")
    return StateDict(path, tensors, settings=module_settings(described))
