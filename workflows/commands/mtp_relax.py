"""`dynft mtp relax` and `init`: relaxations with a potential, and potentials that are not trained yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms

from dynft_core.dynamics.relaxation import relax
from dynft_core.dynamics.relaxation_settings import RelaxationSettings
from dynft_core.errors import InputError
from dynft_core.interop.mtp import write_mtp
from dynft_core.models.moment_tensor.calculator import MomentTensorCalculator
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.settings import BasisSettings
from workflows.commands.mtp_files import (
    Loaded,
    grades_by,
    load_potential,
    numbers_of,
    read_structures,
    write_structures,
)


def relax_structures(
    potential: Path, structures: Path, output: Path, species: str | None, settings: RelaxationSettings,
    training: Path | None, break_grade: float, unrelaxed: Path | None,
) -> str:  # fmt: skip
    """Relax each structure; those broken off, as they were then, go to `unrelaxed`. Returns what to print.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
    """
    loaded = load_potential(potential, species)
    frames = read_structures(structures, loaded.species)
    why_break = _judge(loaded, grades_by(loaded, potential, training), break_grade)
    calculator = MomentTensorCalculator(loaded.potential)
    found = [relax(atoms, calculator, settings, why_break) for atoms in frames]
    done = [x.atoms for x in found if x.ended == "relaxed"]
    left = [x.atoms for x in found if x.ended != "relaxed"]
    lines = [f"{i:6d} {x.ended} after {x.steps} steps{': ' * bool(x.reason)}{x.reason}" for i, x in enumerate(found)]
    if done:
        write_structures(done, output, loaded.species)
    if left and unrelaxed is not None:
        write_structures(left, unrelaxed, loaded.species)
    counts = Counter(x.ended for x in found)
    lines.append(", ".join(f"{counts[name]} {name}" for name in ("relaxed", "broken", "unfinished")))
    lines += [f"relaxed: {output}"] * bool(done)
    lines += [f"others, as they were left: {unrelaxed}"] * bool(left and unrelaxed is not None)
    return "\n".join(lines)


def _judge(loaded: Loaded, grades: Callable[[Atoms], float] | None, break_grade: float) -> Callable[[Atoms], str]:
    least_A = loaded.potential.basis.radial.min_distance_A

    def why_break(atoms: Atoms) -> str:
        shortest_A = loaded.pairs(atoms).shortest_A
        if shortest_A < least_A:
            return f"two atoms {shortest_A:.2f} Å apart, nearer than {least_A:g} Å"
        if grades is not None and (grade := grades(atoms)) > break_grade:
            return f"grade {grade:.3g}, beyond {break_grade:g}"
        return ""

    return why_break


def write_initial(output: Path, level: int, species: str, cutoff_A: float, min_distance_A: float) -> str:
    """Write a potential with trained radial functions as training begins; returns what to print.

    Raises:
        InputError: no element, or a level or lengths out of range.
    """
    numbers = numbers_of(species)
    if numbers is None:
        raise InputError("--species", "elements, for example Mo,Al", "none", "name them")
    if output.suffix != ".mtp":
        raise InputError("OUTPUT", "a name that ends in .mtp", f"'{output}'", "change it")
    basis = BasisSettings(cutoff_A, min_distance_A, level, "trained").basis(numbers)
    n = len(numbers)
    write_mtp(MomentTensorPotential(basis, np.zeros(n), np.zeros((n, basis.n_functions))), output)
    return f"{basis.n_functions} functions of {species}, not trained: {output}"
