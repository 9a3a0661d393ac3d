from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from smalltraining import METHOD, Training

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "scratch", METHOD)
