"""Points and meshes of the Brillouin zone as users write them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError

Floats = NDArray[np.float64]


def parse_points(text: str, argument: str = "--points") -> Floats:
    """Points (Q, 3) from '0 0 0; 0.5 0 0.5' or '1/3 1/3 0'.

    Raises:
        InputError: a point that is not three numbers.
    """
    points, remedy = [], 'write "0 0 0; 0.5 0 0.5"' if argument == "--points" else 'for example "1 0 0"'
    for part in (p for p in text.split(";") if p.strip()):
        try:
            point = [float(Fraction(word)) for word in part.replace(",", " ").split()]
        except (ValueError, ZeroDivisionError, OverflowError):
            point = []
        if len(point) != 3:
            raise InputError(argument, "three numbers for each point", f"'{part.strip()}'", remedy)
        points.append(point)
    if not points:
        raise InputError(argument, "at least one point", f"'{text}'", remedy)
    return np.array(points)


def parse_mesh(text: str) -> tuple[int, int, int]:
    """Three positive integers, or one for all three.

    Raises:
        InputError: something else.
    """
    words = text.replace(",", " ").split()
    words = words * 3 if len(words) == 1 else words
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise InputError("--mesh", "three positive integers", f"'{text}'", "for example '20 20 20'")
    return int(words[0]), int(words[1]), int(words[2])
