"""The second order against matscipy's analytic Hessians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber, TersoffBrenner
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si
from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Tersoff_PRB_39_5566_Si_C
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell, fit

pytestmark = pytest.mark.filterwarnings("ignore:'where' used without 'out':UserWarning")  # matscipy's Tersoff

Floats = NDArray[np.float64]
CALCULATORS = {
    "tersoff": lambda: Manybody(**TersoffBrenner(Tersoff_PRB_39_5566_Si_C)),
    "stillinger-weber": lambda: Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si)),
}


def analytic_hessian(calculator: Any, supercell: Supercell) -> Floats:
    """(3N, 3N) eV/Å² of the perfect crystal."""
    return np.asarray(calculator.get_hessian(supercell.atoms(), "sparse").todense())


@pytest.mark.parametrize("name", CALCULATORS)
@pytest.mark.parametrize("matrix", [[3, 3, 3], [[2, 1, 0], [0, 2, 1], [1, 0, 2]]], ids=["54 atoms", "non-diagonal"])
def test_the_basis_holds_the_analytic_hessian(silicon: Crystal, name: str, matrix: object) -> None:
    basis = ForceConstantBasis.build(silicon, {2: 4.0})  # these potentials reach to second neighbours, 3.84 Å
    supercell = Supercell.build(basis.crystal, matrix)
    hessian = analytic_hessian(CALCULATORS[name](), supercell)
    u = np.random.default_rng(0).normal(0, 0.1, (4, supercell.n_atoms, 3))
    found = fit(basis, supercell, u, -(u.reshape(4, -1) @ hessian).reshape(u.shape))
    np.testing.assert_allclose(found.hessian(), hessian, atol=1e-6 * np.abs(hessian).max())


def test_small_displacements_of_tersoff_silicon_teach_its_hessian(silicon: Crystal) -> None:
    """From the calculator's forces, through all orders."""
    basis = ForceConstantBasis.build(silicon, {2: 4.0, 3: 4.0, 4: 4.0})
    supercell = Supercell.build(basis.crystal, [2, 2, 2])
    calculator = CALCULATORS["tersoff"]()
    u = np.random.default_rng(1).normal(0, 0.01, (12, supercell.n_atoms, 3))
    forces = []
    for x in u:
        atoms = supercell.atoms(x)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    hessian = analytic_hessian(calculator, supercell)
    found = fit(basis, supercell, u, forces).hessian()
    assert np.abs(found - hessian).max() < 3e-3 * np.abs(hessian).max()
