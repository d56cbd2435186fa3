"""Eight rattled supercells of silicon with forces, and the perfect one."""

import ase.io
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings

supercell = bulk("Si", "diamond", a=5.432, cubic=True).repeat(2)
ase.io.write("supercell.xyz", supercell)
calculator, frames = make_calculator(ReferenceSettings("tersoff-si"), "."), []
for seed in range(8):
    atoms = supercell.copy()
    atoms.rattle(0.06, seed=seed)
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    frames.append(atoms)
ase.io.write("data.xyz", frames)
