"""Makes tests/reference/fake_calculators.py importable, as a user's module on PYTHONPATH would be."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _fake_calculators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
