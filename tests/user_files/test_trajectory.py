"""Frames against ASE's own writer, read by ASE."""

from __future__ import annotations

import io

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import fs

from dynft_core import Crystal, Supercell
from workflows.user_files.trajectory import FrameFormat


@pytest.mark.parametrize("matrix", [[2, 1, 1], [[2, 1, 0], [0, 1, 0], [-1, 0, 2]]])
def test_a_frame_is_what_ase_writes(tin_selenide: Crystal, matrix: list[object]) -> None:
    cell = Supercell.build(tin_selenide, np.array(matrix))
    rng = np.random.default_rng(2)
    u, v, f = rng.normal(0, [[[0.1]], [[1e-3]], [[1.0]]], (3, cell.n_atoms, 3))
    header = {"time_ps": 0.30000000000000004, "temperature_K": 1 / 3, "bayesian_error": 1.5e-7}
    atoms = cell.atoms(u)
    atoms.set_momenta(cell.masses[:, None] * v / fs)
    atoms.calc = SinglePointCalculator(atoms, energy=-1 / 7, forces=f)
    atoms.info |= header
    theirs = io.StringIO()
    ase.io.write(theirs, atoms, format="extxyz")
    ours = FrameFormat(cell).frame(u, v, f, {"energy": -1 / 7, **header})
    frames = ase.io.read(io.StringIO(ours + ours), ":", format="extxyz")
    expected = ase.io.read(io.StringIO(theirs.getvalue()), format="extxyz")
    assert len(frames) == 2
    for frame in frames:
        assert frame == expected  # positions, species, cell, periodicity
        assert frame.info == expected.info and frame.info.keys() == header.keys()
        for name, array in expected.arrays.items():
            assert np.array_equal(frame.arrays[name], array), name
        assert frame.arrays.keys() == expected.arrays.keys()
        assert np.array_equal(frame.get_forces(), expected.get_forces())
        assert frame.get_potential_energy() == expected.get_potential_energy()
        assert frame.get_kinetic_energy() == expected.get_kinetic_energy()
