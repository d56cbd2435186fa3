"""`dynft properties`: what a force field says of the crystal, each number with its error bar."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

from dynft_core.errors import InputError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.properties.thermal import PropertySettings, Value, properties
from dynft_core.storage.json_values import json_text
from dynft_core.vocabulary import PROPERTY_UNITS, PropertyName

TITLES: dict[PropertyName, str] = {
    "phonons": "phonon frequencies at the high-symmetry points (THz)",
    "free_energy": "harmonic free energy (meV/atom)",
    "displacements": "harmonic mean square displacement along one axis (Å²)",
    "sigma_A": "σ_A of structures drawn from the harmonic phonons",
    "conductivity": "thermal conductivity in relaxation times, W/(m K)",
}
ASKED_FOR_ALONE: tuple[PropertyName, ...] = ("conductivity",)
"""What takes minutes or another program; dynft conductivity tells more."""


def properties_command(force_field: Path, names: str | None, settings: PropertySettings, as_json: bool) -> str:
    """Compute properties with error bars; returns what to print. Without `names`: all but ASKED_FOR_ALONE.

    Raises:
        InputError: an unknown property, or a named one that the force field cannot give.
    """
    quick = tuple(name for name in get_args(PropertyName) if name not in ASKED_FOR_ALONE)
    wanted = parse_names(names) if names is not None else quick
    loaded = ForceField.load(force_field)
    found: dict[PropertyName, tuple[Value, ...]] = {}
    missing: dict[PropertyName, str] = {}
    for name in wanted:
        try:
            found[name] = properties(loaded, name, settings)
        except InputError as error:
            if names is not None:
                raise
            missing[name] = str(error)
    if as_json:
        about = {"temperature_K": settings.temperature_K, "units": PROPERTY_UNITS, "missing": missing}
        return json_text(dict(found) | about)
    lines = [
        f"at {settings.temperature_K:g} K; ± is the posterior's standard deviation: what the labels leave open,",
        "not what the expansion leaves out (higher orders, longer cutoffs)",
    ]
    for name, own in found.items():
        unit = f" {PROPERTY_UNITS[name]}".removesuffix(" 1")
        lines.append(f"{TITLES[name]}, largest error bar {_number(max(v.error for v in own))}{unit}")
        lines += [_line(name, value) for value in own]
    return "\n".join([*lines, *(f"not given: {why}" for why in missing.values())])


def _line(name: PropertyName, value: Value) -> str:
    """Frequencies to a fixed place, as `dynft phonons` prints them: those that must be 0 at Γ are it there."""
    if name == "phonons":
        return f"  {value.name:<16s}{value.value:z12.4f} ± {value.error:.4f}"
    return f"  {value.name:<16s}{value.value:12.5g} ± {_number(value.error)}"


def parse_names(text: str) -> tuple[PropertyName, ...]:
    """Names of properties, separated by commas.

    Raises:
        InputError: one that dynft does not know.
    """
    known = get_args(PropertyName)
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names or [text]:
        if name not in known:
            raise InputError("--property", f"names among {', '.join(known)}", f"'{name}'", "choose from them")
    return tuple(names)  # type: ignore[arg-type]


def _number(error: float) -> str:
    return f"{error:.2g}" if math.isfinite(error) else "unbounded (samples with imaginary modes)"
