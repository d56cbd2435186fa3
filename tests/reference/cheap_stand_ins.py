"""Cheap potentials for tests: right, useless and broken ones, each by 'cheap_stand_ins:name'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings


class _Changed(Calculator):
    """Tersoff's silicon, its forces changed."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._tersoff, self._change = make_calculator(ReferenceSettings("tersoff-si"), "."), change

    def calculate(self, atoms: Any = None, properties: Any = ("forces",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        forces = self._change(self._tersoff.get_forces(atoms))
        self.results = {"energy": self._tersoff.get_potential_energy(atoms), "forces": forces}


def wrong_sign() -> Calculator:
    return _Changed(lambda forces: -forces)


def softened() -> Calculator:
    return _Changed(lambda forces: 0.7 * forces)


def noise() -> Calculator:
    """Forces that have nothing to do with the structure."""
    rng = np.random.default_rng(0)
    return _Changed(lambda forces: rng.normal(0.0, 0.5, forces.shape))


def metals() -> Calculator:
    return EMT()


def too_few() -> Calculator:
    return _Changed(lambda forces: forces[1:])


def not_finite() -> Calculator:
    return _Changed(lambda forces: forces * np.nan)


def zeros() -> Calculator:
    return _Changed(lambda forces: 0.0 * forces)


def raises() -> Calculator:
    def fail(forces: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of\nmemory")

    return _Changed(fail)
