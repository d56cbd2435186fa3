"""The numbers of docs/kernels.md are what the code computes."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[4] / "docs" / "kernels.md"


def test_the_page_shows_what_the_code_computes() -> None:
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert attempted > 20
    assert failed == 0
