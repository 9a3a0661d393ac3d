"""``Keep``: finished rows in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.row import Row
from edgeres.settings import canonical, digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CODE = ("edgeres", "settings", "versions", "wanted")
"""Parts of a key that say what quantized: the code of edgeres, a contender's settings and packages, its scheme."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The folder.

    A row is found again by everything that decides it: contender, seed, counts of images, the float network, the
    scheme, the code and the versions of the packages that quantized. It is written beside its name and renamed: whole
    or absent.
    """

    folder: Path

    def find(self, key: Mapping[str, Any]) -> Row | None:
        """The row of exactly this key, or None."""
        path = self._path(key)
        if not path.is_file():
            return None
        return Row.of(json.loads(path.read_text(encoding="utf-8"))["row"])

    def find_older(self, key: Mapping[str, Any]) -> Row | None:
        """The last row that differs from this key in ``CODE`` alone, marked as older; None where there is none."""
        wanted = _without_code(key)
        for path in sorted(self.folder.glob(f"rows/{_stem(key)}-*.json"), key=lambda path: -path.stat().st_mtime_ns):
            document = json.loads(path.read_text(encoding="utf-8"))
            if _without_code(document["key"]) == wanted:
                return replace(Row.of(document["row"]), older=True)
        return None

    def put(self, key: Mapping[str, Any], row: Row) -> None:
        """Keeps a row that has figures; one without is measured again, as its reason may have gone."""
        if row.failure:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".partial")
        draft.write_text(json.dumps({"key": dict(key), "row": row.plain()}, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self.folder / "rows" / f"{_stem(key)}-{digest(json.loads(canonical(dict(key))))[:16]}.json"


def _stem(key: Mapping[str, Any]) -> str:
    return "-".join(str(key[part]) for part in ("task", "scheme", "quantizer", "seed"))


def _without_code(key: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in json.loads(canonical(dict(key))).items() if name not in CODE}
