"""Whether a finished run of pw.x was computed with a campaign's settings, as far as its output tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.espresso import kspacing_to_grid

from dynft_core.reference.dft_code import Difference, Parameters
from dynft_core.reference.espresso import namelists
from dynft_core.reference.espresso_run import EspressoRun, smearing_name
from dynft_core.reference.k_points import KPoints

CONV_THR_RY = 1e-6
"""pw.x's own."""

FUNCTIONALS = {
    "LDA": (1, 1), "PZ": (1, 1), "PBE": (1, 4, 3, 4), "PBESOL": (1, 4, 10, 8), "PW91": (1, 4, 2, 2),
    "BLYP": (1, 3, 1, 3), "REVPBE": (1, 4, 4, 4), "WC": (1, 4, 11, 4), "BP": (1, 1, 1, 1), "PBE0": (6, 4, 8, 4),
    "HSE": (1, 4, 12, 4),
}  # fmt: skip
"""pw.x's numbers of exchange, correlation and their gradient corrections, by short name."""

DISPERSION = {
    "DFT-D": "d2", "GRIMME-D2": "d2", "DFT-D3": "d3", "GRIMME-D3": "d3", "TS": "ts", "TS-VDW": "ts", "XDM": "xdm",
    "TKATCHENKO-SCHEFFLER": "ts", "MBD": "mbd", "MBD_VDW": "mbd", "MANY-BODY DISPERSION": "mbd",
}  # fmt: skip
"""One name for each `vdw_corr`."""


def espresso_differences(run: EspressoRun, parameters: Parameters) -> list[Difference]:
    """How the settings of a run differ from complete `parameters`."""
    data = namelists(parameters.get("input_data", {}))
    cards = parameters.get("additional_cards") or ""
    text = cards if isinstance(cards, str) else "\n".join(map(str, cards))
    ours = _ours(data["system"], parameters.get("pseudopotentials", {}), text)
    found = [
        Difference(name, _shown(theirs), _shown(ours[name])) for name, theirs in run.settings.items()
        if name in ours and not _equal(theirs, ours[name])
    ]  # fmt: skip
    found += [*_of_functional(run, data["system"]), *_of_threshold(run, data["electrons"])]
    return [*found, *_of_k_points(run, parameters)]


def _ours(keys: Mapping[str, Any], files: Mapping[str, Any], cards: str) -> dict[str, Any]:
    """The campaign's settings by the names that a run's have, pw.x's defaults filled in."""
    smears = str(keys.get("occupations", "fixed")).lower()
    noncollinear = bool(keys.get("noncolin")) or bool(keys.get("lspinorb"))
    correction = str(keys.get("vdw_corr", "none")).upper()
    if keys.get("london") or keys.get("xdm"):
        correction = "DFT-D" if keys.get("london") else "XDM"
    found = {
        "ecutwfc": keys.get("ecutwfc"), "ecutrho": keys.get("ecutrho", 4 * float(keys.get("ecutwfc", np.nan))),
        "vdw_corr": DISPERSION.get(correction, correction.lower()),
        "nspin": 4 if noncollinear else int(keys.get("nspin", 1)),
        "lspinorb": bool(keys.get("lspinorb")), "tot_charge": float(keys.get("tot_charge", 0.0)),
        "smearing": smearing_name(str(keys.get("smearing", "gaussian"))) if smears == "smearing"
        else "tetrahedra" if smears.startswith("tetrahedra") else "none",
        "degauss": float(keys.get("degauss", 0.0)) if smears == "smearing" else 0.0,
        "hubbard": _hubbard(cards), **{f"pseudopotential of {symbol}": file for symbol, file in files.items()},
    }  # fmt: skip
    if "exx_fraction" in keys:
        found["exx_fraction"] = float(keys["exx_fraction"])
    return {name: value for name, value in found.items() if value is not None}


def _hubbard(cards: str) -> tuple[tuple[str, float], ...]:
    """U (eV) by species, from the card HUBBARD: 'U Fe-3d 4.0'."""
    rows = re.findall(r"^\s*U\s+([A-Z][a-z]?)\d*-\w+\s+(\S+)", cards, re.MULTILINE)
    return tuple(sorted({(symbol, float(u)) for symbol, u in rows}))


def _of_functional(run: EspressoRun, system: Mapping[str, Any]) -> Iterator[Difference]:
    name, numbers = run.settings.get("input_dft", ("", ()))
    wanted = str(system.get("input_dft", "")).upper()
    if not name or (not wanted and not run.enforced):
        return  # that of the pseudopotentials, whose names are compared
    known = FUNCTIONALS.get(wanted)
    same = name.upper() == wanted or (known is not None and _padded(numbers) == _padded(known))
    if not same:
        yield Difference("input_dft", name, wanted or "that of its pseudopotentials")


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([*numbers, *[0] * 8][:8])


def _of_threshold(run: EspressoRun, electrons: Mapping[str, Any]) -> Iterator[Difference]:
    theirs, ours = run.settings.get("conv_thr"), float(electrons.get("conv_thr", CONV_THR_RY))
    if theirs is not None and theirs > ours * (1 + 1e-6):
        yield Difference("conv_thr", f"{theirs:g}", f"{ours:g}")


def _of_k_points(run: EspressoRun, parameters: Parameters) -> Iterator[Difference]:
    atoms = next((step for step in run.steps if isinstance(step, Atoms)), None)
    if atoms is None or run.k_points is None:
        return
    spacing = parameters.get("kspacing")
    a, b, c = kspacing_to_grid(atoms, spacing) if spacing else parameters.get("kpts") or (1, 1, 1)
    x, y, z = (0.5 * float(s) for s in parameters.get("koffset") or (0, 0, 0))
    ours = KPoints((int(a), int(b), int(c)), (x, y, z))
    if not run.k_points.same_points(ours, atoms.cell[:]):
        yield Difference("kpts", str(run.k_points), str(ours))


def _equal(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, float) and isinstance(ours, int | float):
        return abs(theirs - ours) <= 1e-4 * max(1.0, abs(ours))
    return bool(theirs == ours)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"U({symbol}) {u:g} eV" for symbol, u in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
