"""Makes the fake tasks of tests/campaign importable: by the tests when they are collected, and by workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAKES = str(HERE.parent / "campaign")
sys.path[:0] = [str(HERE), FAKES]


@pytest.fixture(autouse=True)
def _workers_find_the_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([FAKES, os.environ.get("PYTHONPATH", "")]))
