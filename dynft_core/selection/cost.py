"""What a label costs, by the size of its cell: c₀ + c₁ Nᵖ core-seconds, learnt from labels that have been computed.

pw.x on silicon, measured: p = 1.2 from 2 to 64 atoms, where k points fall as 1/N, and 2.4 from 64 to 216. Labels that
were computed twice, or met a slow node, cost more than others of their size: a robust fit of the logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from dynft_core.errors import InputError

USUAL_POWER, POWER_SPREAD = 2.0, 1.0
"""p before there are labels, with its standard deviation: between the N of k points and the N³ of diagonalisation."""
SCATTER = 0.2
"""Scatter assumed of ln(core-seconds) between labels of one size."""
POWERS = (0.0, 4.0)
"""Bounds on p."""
PAYS = 1.3
"""p from which small cells pay: below it the electrons of many small cells cost what those of a large one do."""


@dataclass(frozen=True)
class CostLaw:
    """Core-seconds of a label of N atoms: start_s + per_atoms_s · Nᵖ.

    Attributes:
        start_s, per_atoms_s, power: c₀, c₁ and p.
        sizes: numbers of atoms that it was learnt from, ascending.
    """

    start_s: float
    per_atoms_s: float
    power: float
    sizes: tuple[int, ...] = ()

    def core_seconds(self, n_atoms: float) -> float:
        """Of one label."""
        return self.start_s + self.per_atoms_s * float(n_atoms**self.power)

    @property
    def pays(self) -> bool:
        """Whether labels of small cells are worth their price."""
        return self.power >= PAYS

    def __str__(self) -> str:
        return f"{self.start_s:.3g} + {self.per_atoms_s:.3g} N^{self.power:.2f} core-seconds"


def cost_law(n_atoms: Sequence[int], core_seconds: Sequence[float]) -> CostLaw:
    """The law of labels of so many atoms that cost so much; those that cost nothing are left out.

    Raises:
        InputError: labels of one size alone.
    """
    known = [(n, c) for n, c in zip(n_atoms, core_seconds, strict=True) if n > 0 and c > 0]
    sizes = tuple(sorted({n for n, _ in known}))
    if len(sizes) < 2:
        got = f"labels of {sizes[0]} atoms alone" if sizes else "none"
        raise InputError("labels", "labels of two sizes at least, to tell what others cost", got, "label another cell")
    n, cost = np.array(known, dtype=np.float64).T
    largest, dearest = n.max(), np.log(np.median(cost[n == n.max()]))

    def residuals(x: np.ndarray) -> np.ndarray:
        expected = np.logaddexp(x[0], x[1] + x[2] * np.log(n / largest))
        prior = (x[2] - USUAL_POWER) / POWER_SPREAD
        return np.append((np.log(cost) - expected) / SCATTER, prior)

    cheapest = np.log(np.median(cost[n == n.min()]))
    found = min(
        (
            scipy.optimize.least_squares(
                residuals, [cheapest - start, dearest, power], loss="soft_l1",
                bounds=([cheapest - 12, dearest - 12, POWERS[0]], [cheapest + 3, dearest + 3, POWERS[1]]),
            )
            for power in (1.0, 2.0, 3.0) for start in (1.0, 6.0)
        ),
        key=lambda fitted: fitted.cost,
    )  # fmt: skip
    start, at_largest, power = found.x
    return CostLaw(float(np.exp(start)), float(np.exp(at_largest) / largest**power), float(power), sizes)
