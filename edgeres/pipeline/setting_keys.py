"""``SettingKey``: a setting of ``--set`` with its type, default and choices, from the stage classes."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from edgeres.pipeline.recipe import STAGES
from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", NoneType: "none"}


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One setting of one stage.

    Attributes:
        name: ``stage.key``, as ``--set`` takes it.
        type: Accepted type: ``choice``, ``whole number >= 1``, ``number or none``.
        default: Default as plain JSON data.
        choices: Accepted words; empty where the type is no choice.
        about: Description from the stage's documentation, or empty.
    """

    name: str
    type: str
    default: Any
    choices: tuple[str, ...]
    about: str

    @property
    def shown_default(self) -> str:
        """The default in the syntax of ``--set``."""
        return _written(self.default)

    @property
    def shown_type(self) -> str:
        """The type, with the choices in place of the word ``choice``."""
        return self.type.replace("choice", " | ".join(self.choices), 1) if self.choices else self.type


def setting_keys() -> tuple[SettingKey, ...]:
    """Every setting of every stage, in the order of ``STAGES`` and of the class's fields."""
    return tuple(key for name, stage in STAGES.items() for key in _keys_of(name, stage()))


def _keys_of(prefix: str, defaults: Any) -> Iterator[SettingKey]:
    """The settings of a settings value with its defaults; those of a nested one are listed individually."""
    hints = get_type_hints(type(defaults), include_extras=True)
    about = _documented(type(defaults).__doc__ or "")
    for field in dataclasses.fields(defaults):
        name, hint, default = f"{prefix}.{field.name}", hints[field.name], getattr(defaults, field.name)
        if dataclasses.is_dataclass(default):
            yield from _keys_of(name, default)
            continue
        yield SettingKey(
            name=name,
            type=" or ".join(dict.fromkeys(_described(hint))),
            default=plain(default),
            choices=tuple(dict.fromkeys(_choices(hint))),
            about=about.get(field.name, ""),
        )


def _described(hint: Any, bound: str = "") -> Iterator[str]:
    """The alternatives of a type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _described(arguments[0], _bounded(arguments[1:]))
    elif origin in (Union, UnionType):
        for alternative in arguments:
            yield from _described(alternative, bound)
    elif origin is Literal:
        yield from ("choice" if isinstance(value, str) else _written(value) for value in arguments)
    elif origin in (tuple, list):
        yield f"list of {next(_described(arguments[0]))}"
    elif dataclasses.is_dataclass(hint):
        yield f"{{{', '.join(field.name for field in dataclasses.fields(hint))}}}"
    else:
        yield f"{_WORDS.get(hint, getattr(hint, '__name__', str(hint)))}{bound if hint in (int, float) else ''}"


def _bounded(metadata: tuple[Any, ...]) -> str:
    """Bounds in words, `` >= 0, < 1``, from pydantic's metadata."""
    marks = [part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else (one,))]
    return ",".join(
        f" {sign} {getattr(mark, name):g}" for mark in marks for name, sign in _BOUNDS if hasattr(mark, name)
    )


def _choices(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (value for value in get_args(hint) if isinstance(value, str))
    elif get_origin(hint) is not None:
        for argument in get_args(hint):
            yield from _choices(argument)


def _written(value: Any) -> str:
    """Plain data in the syntax of ``--set``."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_written(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


def _documented(doc: str) -> dict[str, str]:
    """First sentences of the ``Attributes:`` section of a docstring, by attribute."""
    _, _, section = doc.partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, flags=re.MULTILINE)
    return {name: re.split(r"(?<=\w\.) (?=[A-Z`])|; ", " ".join(text.split()))[0].rstrip(".") for name, text in entries}
