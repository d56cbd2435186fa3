"""`dynft conductivity`: the lattice thermal conductivity of a force field, with error bars."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.phono3py import TransportSettings, require_phono3py
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.registry import MOMENT_TENSOR, family_of
from dynft_core.properties.conductivity import Conductivity, conductivity
from dynft_core.reference.born_files import read_born_charges
from dynft_core.storage.files import making_folder
from dynft_core.storage.json_values import json_text
from dynft_core.vocabulary import TransportMethod
from workflows.user_files.born_charges import force_field_note
from workflows.user_files.outputs import check_folder, replaced
from workflows.user_files.q_points import parse_mesh
from workflows.views.conductivity_data import write_data
from workflows.views.progress import Progress, duration

Floats = NDArray[np.float64]

NAMES: dict[TransportMethod, str] = {
    "rta": "relaxation-time approximation",
    "lbte": "linearised Boltzmann equation",
    "wigner": "Wigner's transport equation with relaxation times",
}
NEGLIGIBLE = 1e-3
"""Part of the largest component below which one off the diagonal is not printed."""


@dataclass(frozen=True)
class ConductivityCommand:
    """What the user asks for, temperatures and mesh as they are written."""

    temperatures_K: str = "300"
    mesh: str = "11,11,11"
    method: TransportMethod = "rta"
    isotopes: bool = False
    samples: int = 8
    born: Path | None = None

    def __post_init__(self) -> None:
        if self.samples < 0 or self.samples == 1:
            raise InputError("--samples", "0, or at least 2", str(self.samples), "8 give error bars good to 25 %")

    @property
    def settings(self) -> TransportSettings:
        """The same in numbers.

        Raises:
            InputError: temperatures or a mesh that are none.
        """
        return TransportSettings(_temperatures(self.temperatures_K), parse_mesh(self.mesh), self.method, self.isotopes)


def conductivity_command(force_field: Path, output: Path, asked: ConductivityCommand, as_json: bool) -> str:
    """Compute κ, write data and pictures into `output`; returns what to print.

    Raises:
        InputError: anything unusable among the arguments, no phono3py, imaginary modes; nothing is written then.
        OSError: the folder cannot be written to.
    """
    settings = asked.settings
    require_phono3py()
    before = check_folder(output)
    if family_of(force_field) == MOMENT_TENSOR:
        raise InputError(
            "force field",
            "one of force constants",
            "a moment tensor potential",
            "fit force constants of order 3 to structures that it labels",
        )
    loaded = ForceField.load(force_field)
    found = _compute(loaded, settings, asked)
    with making_folder(output):
        files = write_data(found, output)
        values = {
            "temperatures_K": settings.temperatures_K,
            "kappa_W_per_mK": found.mean.kappa_W_per_mK.tolist(),
            "error_W_per_mK": found.errors_W_per_mK.tolist(),
            "relaxation_time_kappa_W_per_mK": found.mean.relaxation.tolist(),
            "coherences_W_per_mK": found.mean.coherences.tolist(),
            "samples_W_per_mK": [sample.kappa_W_per_mK.tolist() for sample in found.samples],
            "samples_with_imaginary_modes": found.n_imaginary,
            "mesh": settings.mesh,
            "method": settings.method,
            "isotopes": settings.isotopes,
            "files": [str(file) for file in files],
        }
    if as_json:
        return json_text(values)
    note = "" if asked.born else force_field_note(loaded, "give them by --born BORN (dynft born makes it)")
    written = [f"written: {replaced(file, file in before)}" for file in files]
    return "\n".join([*_as_text(found, loaded.basis.crystal.formula), *([note] if note else []), *written])


def _compute(force_field: ForceField, settings: TransportSettings, asked: ConductivityCommand) -> Conductivity:
    """With Born charges from a file, if one is given, and progress on standard error."""
    if asked.born is not None and force_field.baseline is not None:
        raise InputError(
            "--born", "a force field without Born charges of its own", "one with a baseline", "leave --born out"
        )
    born = None if asked.born is None else read_born_charges(asked.born, force_field.basis.crystal)
    bars: list[Progress] = []

    def progress(done: int, total: int) -> None:
        if not bars:  # how many points there are is known now
            bars.append(Progress(total, "points of the mesh, of the mean and of samples", sys.stderr))
        bars[0].update(done)

    try:
        return conductivity(force_field, settings, asked.samples, born=born, progress=progress)
    finally:
        for bar in bars:
            bar.__exit__()


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError("--temperatures", "numbers in K", f"'{text}'", "for example 100,200,300") from None


def _as_text(found: Conductivity, formula: str) -> list[str]:
    settings, errors = found.settings, found.errors_W_per_mK
    mesh = "×".join(map(str, settings.mesh))
    isotopes = ", with natural isotopes" if settings.isotopes else ""
    lines = [f"thermal conductivity of {formula}, W/(m K): {NAMES[settings.method]}, mesh {mesh}{isotopes}"]
    if found.samples or found.n_imaginary:
        lines.append("± is the standard deviation over samples of the posterior: what the labels leave open, not what")
        lines.append("the expansion (higher orders, longer cutoffs) or the mesh leaves out")
    largest = np.abs(found.mean.kappa_W_per_mK).max()
    shown = [(0, 0), (1, 1), (2, 2)]
    shown += [
        (a, b) for a, b in ((1, 2), (0, 2), (0, 1))
        if np.abs(found.mean.kappa_W_per_mK[:, a, b]).max() > NEGLIGIBLE * largest
    ]  # fmt: skip
    for k, temperature in enumerate(settings.temperatures_K):
        parts = [
            f"{'xyz'[a]}{'xyz'[b]} {_with_error(found.mean.kappa_W_per_mK[k, a, b], errors[k, a, b])}" for a, b in shown
        ]
        lines.append(f"{temperature:7g} K   " + "   ".join(parts) + _beside(found, k))
    if found.n_imaginary:
        lines.append(f"{found.n_imaginary} samples have imaginary modes: the error bars are unbounded")
    of_samples = f", each sample {duration(found.seconds[1])}" if found.samples else ""
    return [*lines, f"time: the mean {duration(found.seconds[0])}{of_samples}"]


def _with_error(value: float, error: float) -> str:
    if np.isnan(error):
        return f"{value:.4g}"
    return f"{value:.4g} ± " + (f"{error:.2g}" if np.isfinite(error) else "∞")


def _beside(found: Conductivity, k: int) -> str:
    """What the method tells of κ's parts: a third of their traces."""
    thirds = {
        "lbte": ("relaxation times alone", found.mean.relaxation),
        "wigner": ("of which coherences", found.mean.coherences),
    }
    if found.settings.method not in thirds:
        return ""
    name, tensors = thirds[found.settings.method]
    return f"   ({name}: {np.trace(tensors[k]) / 3:.4g})"
