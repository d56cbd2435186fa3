"""Whether a finished run of VASP was computed with a campaign's settings: what changes forces, not how it was done.

Functional, charge and POTCARs are compared by what they are, k-points by their places, all other tags by `vasp_tags`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from dynft_core.errors import InputError
from dynft_core.reference.dft_code import Difference, Parameters
from dynft_core.reference.k_points import KPoints
from dynft_core.reference.vasp import make_vasp, mesh, read_potcars
from dynft_core.reference.vasp_run import Species, VaspRun
from dynft_core.reference.vasp_tags import read_incar, tag_differences

_BY_PP = {"PBE": "PAW_PBE", "LDA": "PAW", "GGA": "PAW_GGA"}
"""How the titles of POTCARs begin, by ASE's `pp`."""


def vasp_differences(run: VaspRun, parameters: Parameters, given: frozenset[str]) -> list[Difference]:
    """How the settings of a run differ from complete `parameters`, of which the campaign file has those `given`."""
    ours = incar_of(parameters, list(dict.fromkeys(run.symbols)))
    compared = (
        tag_differences(run, ours, given, _family(parameters)), _of_charge(run, parameters),
        _of_potcars(run, parameters), _of_k_points(run, parameters, given),
    )  # fmt: skip
    return [difference for some in compared for difference in some]


def incar_of(parameters: Parameters, symbols: Sequence[str]) -> dict[str, str]:
    """The tags of INCAR that ASE writes for these parameters and species, but what depends on atoms and POTCARs."""
    left_out = {"kpts", "gamma", "command", "setups", "magmom", "charge", "net_charge", "nelect", "pp_version"}
    plain = {name: value for name, value in parameters.items() if name not in left_out and value != ""}
    with tempfile.TemporaryDirectory() as folder:
        calculator = make_vasp(plain, Path(folder))
        # What ASE finds out of atoms and POTCARs before it writes.
        calculator.spinpol, calculator.sort = False, list(range(len(symbols)))
        calculator.symbol_count = [(symbol, 1) for symbol in symbols]
        calculator.write_incar(Atoms(symbols), directory=folder)
        return read_incar((Path(folder) / "INCAR").read_text())


def _of_charge(run: VaspRun, parameters: Parameters) -> Iterator[Difference]:
    """Electrons against those of the neutral cell."""
    neutral = sum(species.count * species.valence for species in run.species)
    if "NELECT" not in run.tags or not neutral:
        return
    there = neutral - float(run.tags["NELECT"])
    here = -float(parameters.get("net_charge") or 0) or float(parameters.get("charge") or 0)
    if parameters.get("nelect"):
        here = neutral - float(parameters["nelect"])
    if abs(there - here) > 1e-3:
        yield Difference("charge", f"{there:g} e (NELECT = {float(run.tags['NELECT']):g})", f"{here:g} e")


def _family(parameters: Parameters) -> str:
    """How the titles of the campaign's POTCARs begin."""
    pp = str(make_vasp({k: parameters[k] for k in ("xc", "pp") if k in parameters}, Path()).input_params["pp"] or "PBE")
    return next((family for key, family in _BY_PP.items() if key in pp.upper()), "")


def _of_potcars(run: VaspRun, parameters: Parameters) -> Iterator[Difference]:
    from ase.calculators.vasp.create_input import get_pp_setup

    setups, _ = get_pp_setup(parameters.get("setups"))
    family = _family(parameters)
    theirs, ours = list[str](), list[str]()
    for species in {species.symbol: species for species in run.species}.values():
        words = species.title.split()
        if len(words) < 2:
            continue
        wanted = _known_title(species, parameters)
        variant = str(setups.get(species.symbol, ""))
        name = variant if variant.startswith(species.symbol) else species.symbol + variant
        same = wanted.split() == words if wanted else words[1] == name and family in ("", words[0])
        if not same:
            theirs.append(species.title)
            ours.append(wanted or f"{family} {name}".strip())
    if theirs:
        yield Difference("potcar", ", ".join(theirs), ", ".join(ours))


def _known_title(species: Species, parameters: Parameters) -> str:
    """Title of the campaign's POTCAR; '' where it is not installed."""
    try:
        return read_potcars(parameters, Atoms(species.symbol))[species.symbol].title
    except InputError:
        return ""


def _of_k_points(run: VaspRun, parameters: Parameters, given: frozenset[str]) -> Iterator[Difference]:
    step = next((step for step in run.steps if not isinstance(step, str)), None)
    if step is None or run.k_points is None:
        return
    if parameters.get("kspacing") is not None:
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(step.cell), axis=0)
        a, b, c = (max(1, int(np.ceil(n))) for n in lengths / float(parameters["kspacing"]))
        centred, written = bool(parameters.get("kgamma", True)), "kgamma" in given
    else:
        a, b, c = mesh(parameters.get("kpts") or (1, 1, 1), Atoms(cell=step.cell, pbc=True))
        centred, written = bool(parameters.get("gamma", False)), "gamma" in given
    even = [n % 2 == 0 for n in (a, b, c)]
    meshes = []
    for off in (not centred, centred):  # the campaign's, and the other kind
        x, y, z = (0.5 if off and is_even else 0.0 for is_even in even)
        meshes.append(KPoints((a, b, c), (x, y, z)))
    if not run.k_points.same_points(meshes[0], step.cell):
        preset = not written and run.k_points.same_points(meshes[1], step.cell)
        yield Difference("kpts", str(run.k_points), str(meshes[0]), preset)
