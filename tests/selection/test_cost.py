import numpy as np
import pytest

from dynft_core.errors import InputError
from dynft_core.selection.cost import cost_law


@pytest.mark.parametrize(("start", "per_atoms", "power"), [(0.5, 0.02, 1.0), (2.0, 0.01, 2.0), (5.0, 1e-4, 3.0)])
def test_a_law_is_recovered_from_noisy_records(start, per_atoms, power):
    rng = np.random.default_rng(3)
    atoms = np.repeat([2, 4, 6, 12, 36, 216], 8)
    cost = (start + per_atoms * atoms**power) * rng.lognormal(0.0, 0.15, len(atoms))
    cost[::11] *= 2.1  # computed twice
    law = cost_law(atoms.tolist(), cost.tolist())
    assert law.power == pytest.approx(power, abs=0.15)
    for n in (2, 24, 108, 216):
        assert law.core_seconds(n) == pytest.approx(start + per_atoms * n**power, rel=0.3)
    assert law.pays == (power > 1.3)


def test_two_sizes_tell_what_labels_of_these_sizes_cost():
    law = cost_law([2, 2, 216, 216], [1.0, 1.1, 900.0, 1000.0])
    assert law.core_seconds(216) == pytest.approx(950, rel=0.1)
    assert law.core_seconds(2) == pytest.approx(1.05, rel=0.2)


def test_one_size_tells_no_law():
    with pytest.raises(InputError, match="216 atoms alone"):
        cost_law([216, 216, 2], [900.0, 1000.0, 0.0])
    with pytest.raises(InputError, match="got none"):
        cost_law([], [])
