"""Born charges made symmetric and neutral, and those that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import Crystal
from dynft_core.errors import InputError
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.symmetry.space_group import space_group

ONE = np.eye(3)


def test_noise_is_averaged_over_the_space_group(tin_selenide_born: BornCharges) -> None:
    crystal, rng = tin_selenide_born.crystal, np.random.default_rng(0)
    noisy = tin_selenide_born.charges + 0.01 * rng.normal(size=(crystal.n_atoms, 3, 3))
    found = BornCharges.of(crystal, tin_selenide_born.dielectric + 0.02 * rng.normal(size=(3, 3)), noisy, "test")
    group = space_group(crystal)
    for rotation, images in zip(group.cartesian, group.permutations, strict=True):
        turned = rotation @ found.charges @ rotation.T
        np.testing.assert_allclose(found.charges[images], turned, atol=1e-12)
        np.testing.assert_allclose(rotation @ found.dielectric @ rotation.T, found.dielectric, atol=1e-12)
    assert np.abs(found.charges - tin_selenide_born.charges).max() < 0.02
    np.testing.assert_allclose(found.charges.sum(axis=0), 0, atol=1e-12)


def test_those_of_independent_atoms_say_all(tin_selenide_born: BornCharges) -> None:
    born = tin_selenide_born
    found = BornCharges.of(born.crystal, born.dielectric, born.charges[born.independent], "test")
    np.testing.assert_allclose(found.charges, born.charges, atol=1e-12)


def test_a_small_net_charge_is_shared_out_and_told(rock_salt_born: BornCharges) -> None:
    found = BornCharges.of(rock_salt_born.crystal, 3 * ONE, [2.0 * ONE, -1.94 * ONE], "test")
    assert found.net_charge == pytest.approx(0.06)
    np.testing.assert_allclose(found.charges, [1.97 * ONE, -1.97 * ONE], atol=1e-12)


@pytest.mark.parametrize(
    ("dielectric", "charges", "words"),
    [
        (3 * ONE, [2.0 * ONE, -1.5 * ONE], "sum up to 0"),
        (3 * ONE, [-2.0 * ONE, 2.0 * ONE], "order of the crystal's atoms: Mg, O"),
        (3 * ONE, [2.0 * ONE, -1.0 * ONE, -1.0 * ONE], "independent atoms"),
        (3 * ONE, [np.diag([2.0, 2.0, 3.0]), -np.diag([2.0, 2.0, 3.0])], "symmetry"),
        (np.diag([3.0, 3.0, 5.0]), [2.0 * ONE, -2.0 * ONE], "symmetry"),
        (1e4 * ONE, [2.0 * ONE, -2.0 * ONE], "metal"),
        (-3 * ONE, [2.0 * ONE, -2.0 * ONE], "metal"),
        (np.nan * ONE, [2.0 * ONE, -2.0 * ONE], "finite"),
    ],
)
def test_what_cannot_be_this_crystal_s_is_refused_in_one_line(
    rock_salt_born: BornCharges, dielectric: NDArray[np.float64], charges: list[NDArray[np.float64]], words: str
) -> None:
    crystal: Crystal = rock_salt_born.crystal
    with pytest.raises(InputError, match=words) as refusal:
        BornCharges.of(crystal, dielectric, charges, "BORN")
    assert str(refusal.value).startswith("BORN: expected ") and "\n" not in str(refusal.value)
