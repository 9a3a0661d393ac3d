"""Frozen, validated settings classes with canonical JSON and a digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from edgeres.errors import EdgeresError, UsageError, did_you_mean, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

T = TypeVar("T")

_SHOWN = 60
"""Most characters of a wrong value in a message."""

_CONFIG = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turns a class into a frozen, keyword-only value that refuses unknown keys at every level."""
    return dataclass(config=_CONFIG, frozen=True, kw_only=True, slots=True)(cls)  # type: ignore[return-value]  # pydantic types its decorator by protocol


def parse(cls: type[T], data: object, where: str, error: type[EdgeresError] = UsageError) -> T:
    """Reads plain data (from YAML or JSON) into a settings class.

    Args:
        cls: A class made by ``settings``.
        data: Nested dicts, lists and scalars.
        where: The file or key the data comes from, for the message.
        error: The error class to raise.

    Raises:
        EdgeresError: Of class ``error``, with the key, the error and the nearest known key.
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as failure:
        first = failure.errors()[0]
        if choices := _choices(failure.errors()):
            path = ".".join(str(part) for part in first["loc"] if not str(part).startswith("literal["))
            what = f"{where}: {path}: {_shown(first['input'])} is not one of {', '.join(choices)}"
            close = did_you_mean(str(first["input"]), [choice.strip("'") for choice in choices])
            raise error(what, _renamed(cls, first["input"]) or close or "correct the value") from failure
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            known = _fields_at(cls, first["loc"][:-1])
            hint = nearest(str(first["loc"][-1]), known) if known else "remove it"
            hint = _renamed(cls, first["loc"][-1]) or hint
            raise error(f"{where}: unknown key {path!r}", hint) from failure
        raise error(f"{where}: {path or cls.__name__}: {_mismatch(first)}", "correct the value") from failure


def read_text(path: Path, hint: str, error: type[EdgeresError] = UsageError) -> str:
    """The text of a UTF-8 file.

    Args:
        path: The file.
        hint: What to do where it cannot be read.
        error: The error class to raise.

    Raises:
        EdgeresError: Of class ``error``, naming the file and the reason.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise error(f"cannot read {path}: {getattr(failure, 'strerror', None) or failure}", hint) from failure


def parse_json(text: str, where: object, hint: str, error: type[EdgeresError] = UsageError) -> Any:
    """The data of a JSON text.

    Args:
        text: The text.
        where: The file it comes from, for the message.
        hint: What to do where it is no JSON.
        error: The error class to raise.

    Raises:
        EdgeresError: Of class ``error``, naming the file and the place in it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise error(f"{where} is no JSON: {failure}", hint) from failure


def _renamed(cls: type, word: object) -> str:
    """Present name of a former key or value; empty where it is none."""
    name = getattr(cls, "renamed", {}).get(word) if isinstance(word, str) else None
    return f"{word} is called {name} now" if name else ""


def _mismatch(failure: ErrorDetails) -> str:
    """A wrong value and its constraint: ``2 should be less than or equal to 1``."""
    text = failure["msg"].partition(", unable to parse")[0].removeprefix("Value error, ")
    return f"{_shown(failure['input'])}{text.removeprefix('Input')}" if text.startswith("Input ") else text


def _shown(value: object) -> str:
    """A wrong value, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _choices(failures: list[ErrorDetails]) -> list[str]:
    """Every accepted name of a choice; a union of choices fails once for each."""
    same = [failure for failure in failures if failure["input"] is failures[0]["input"]]
    if any(failure["type"] != "literal_error" for failure in same):
        return []
    return [
        choice.strip() for failure in same for choice in failure["ctx"]["expected"].replace(" or ", ", ").split(",")
    ]


def _fields_at(cls: Any, path: tuple[int | str, ...]) -> list[str]:
    """Field names of the dataclass that a validation path ends in; empty when it leaves dataclasses."""
    for part in path:
        if not dataclasses.is_dataclass(cls) or not isinstance(part, str):
            return []
        hint = get_type_hints(cls).get(part)
        cls = next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def plain(value: Any) -> Any:
    """Nested dataclasses, tuples and paths as plain JSON data."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, floats in Python's shortest round-trip form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a settings value or of plain data, as 64 hex digits."""
    data = plain(value) if dataclasses.is_dataclass(value) else value
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits, read in 1 MiB blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
