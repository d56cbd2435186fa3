"""`dynft phonons` and `anharmonicity`: what a force field says about the crystal's vibrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.force_constants.expansion.images import shortest_vector
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.anharmonicity import Anharmonicity, ModeAnharmonicity, anharmonicity, mode_anharmonicity
from dynft_core.phonons.bands import BandPath, band_path, point_name
from dynft_core.phonons.density_of_states import density_of_states
from dynft_core.phonons.dynamical_matrix import Images, folds, frequencies, frequency_errors
from dynft_core.phonons.group_velocities import group_velocities
from dynft_core.phonons.harmonic import harmonic_forces
from dynft_core.phonons.imaginary import ImaginaryMode, imaginary_modes
from dynft_core.phonons.long_range import going_on
from dynft_core.reference.born_files import read_born_charges
from dynft_core.storage.files import making_folder, replacing
from dynft_core.storage.json_values import json_text
from workflows.user_files.born_charges import force_field_note
from workflows.user_files.outputs import check_folder, replaced
from workflows.user_files.q_points import parse_mesh, parse_points
from workflows.user_files.structures import one_supercell, read_labelled_frames

Floats = NDArray[np.float64]

DENSITY_SAMPLES = 20
MODES_SHOWN = 5


@dataclass(frozen=True)
class PhononSettings:
    """What `dynft phonons` computes: points and mesh as the user writes them, samples of the posterior for errors.

    `born`: Born charges for a force field without; `direction`: along which Γ is approached.
    """

    points: str | None = None
    bands: bool = False
    dos: bool = False
    mesh: str = "20 20 20"
    samples: int = 50
    images: Images = "shortest"
    born: Path | None = None
    direction: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError("--samples", "at least 2", str(self.samples), "50 give error bars good to 10 %")


@dataclass(frozen=True, eq=False)
class _Phonons:
    """Frequencies and errors (Q, 3n) THz at named points, and files written; `direction` (3,) of approach to Γ.

    `velocities`: (Q, 3n, 3) km/s.
    """

    q_points: Floats
    direction: Floats | None
    labels: list[str]
    found: Floats
    errors: Floats
    velocities: Floats
    imaginary: tuple[ImaginaryMode, ...]
    files: list[str] = field(default_factory=list)


def phonons_command(force_field: Path, output: Path | None, settings: PhononSettings, as_json: bool) -> str:
    """Compute what `settings` ask for, write bands and density of states into `output` (default: phonons).

    With neither of them nothing is written, unless `output` is given: then points.json, what --json prints.

    Returns what to print.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
        OSError: the folder cannot be written to.
    """
    wanted = None if settings.points is None else parse_points(settings.points)
    repeats = parse_mesh(settings.mesh)
    writes = settings.bands or settings.dos or output is not None
    output = output or Path("phonons")
    before = check_folder(output) if writes else set()
    loaded = _polar(ForceField.load(force_field), settings.born)
    direction = _direction(settings.direction, loaded)
    path = band_path(loaded.basis.crystal)
    q = np.array(list(path.points.values())) if wanted is None else wanted
    errors = frequency_errors(loaded, q, settings.samples, images=settings.images, directions=direction)
    result = _Phonons(
        q,
        direction,
        [point_name(x, path.points) for x in q],
        frequencies(loaded, q, images=settings.images, directions=direction),
        errors,
        group_velocities(loaded, q, settings.images),
        imaginary_modes(loaded, q, errors, settings.images, direction),
    )
    on_path: tuple[ImaginaryMode, ...] = ()
    if writes:
        with making_folder(output):
            on_path = _write_bands(loaded, path, output, settings, result.files) if settings.bands else ()
            if settings.dos:
                _write_density(loaded, repeats, output, settings, result.files)
            if not result.files:
                result.files.append(str(output / "points.json"))
                with replacing(output / "points.json") as temporary:
                    temporary.write_text(json_text(_as_values(result, on_path, settings)) + "\n", encoding="utf-8")
    if as_json:
        return json_text(_as_values(result, on_path, settings))
    return "\n".join(_as_text(result, on_path, loaded, settings) + _files(result, before))


def _polar(force_field: ForceField, born: Path | None) -> ForceField:
    """With the non-analytic term of Born charges in a file, for a force field that was fitted without.

    Raises:
        InputError: it has charges of its own, or there are none for it in the file.
    """
    if born is None:
        return force_field
    if force_field.baseline is not None:
        raise InputError(
            "--born", "a force field without Born charges of its own", "one with a baseline", "leave --born out"
        )
    return going_on(force_field, Dipoles(read_born_charges(born, force_field.basis.crystal)))


def _direction(text: str | None, force_field: ForceField) -> Floats | None:
    """(3,) of `--direction`.

    Raises:
        InputError: no direction, or a force field to which all are one.
    """
    if text is None:
        return None
    found = parse_points(text, "--direction")
    if len(found) != 1 or not found.any():
        raise InputError("--direction", "three numbers, not all zero", f"'{text}'", 'for example "1 0 0"')
    if force_field.baseline is None:
        raise InputError(
            "--direction", "Born charges", "a force field without", "give them by --born, or fit with --born"
        )
    return np.asarray(found[0])


def _write_bands(
    force_field: ForceField, path: BandPath, folder: Path, settings: PhononSettings, files: list[str]
) -> tuple[ImaginaryMode, ...]:
    from workflows.views.phonon_figures import draw_bands

    q, along = path.q_points, path.directions
    found = frequencies(force_field, q, images=settings.images, directions=along)
    errors = frequency_errors(force_field, q, settings.samples, images=settings.images, directions=along)
    m = found.shape[1]
    names = ["distance_1/A", "q1", "q2", "q3", *[f"f{k}_THz" for k in range(1, m + 1)]]
    names += [f"error{k}_THz" for k in range(1, m + 1)]
    _write_columns(folder / "bands.dat", names, np.column_stack([path.distances, q, found, errors]))
    draw_bands(path, found, errors, folder / "bands.png")
    names = [f"v{k}{axis}_km/s" for k in range(1, m + 1) for axis in "xyz"]
    velocities = group_velocities(force_field, q, settings.images).reshape(len(q), -1)
    _write_columns(
        folder / "velocities.dat",
        ["distance_1/A", "q1", "q2", "q3", *names],
        np.column_stack([path.distances, q, velocities]),
    )
    files += [str(folder / name) for name in ("bands.dat", "bands.png", "velocities.dat")]
    return _worth_naming(imaginary_modes(force_field, q, errors, settings.images, along))


def _worth_naming(modes: Sequence[ImaginaryMode]) -> tuple[ImaginaryMode, ...]:
    """Of the imaginary modes along a path, those at named points, each once, and the deepest of all."""
    if not modes:
        return ()
    named = {(mode.label, mode.first): mode for mode in modes if mode.label}
    deepest = min(modes, key=lambda mode: mode.frequency_THz)
    return (*named.values(), *(() if deepest.label else (deepest,)))


def _write_density(
    force_field: ForceField, repeats: tuple[int, int, int], folder: Path, settings: PhononSettings, files: list[str]
) -> None:
    from workflows.views.phonon_figures import draw_density

    found = density_of_states(force_field, repeats, samples=DENSITY_SAMPLES, images=settings.images)
    columns = np.column_stack([found.frequencies_THz, found.density, found.errors])
    _write_columns(folder / "dos.dat", ["frequency_THz", "density_1/THz", "error_1/THz"], columns)
    draw_density(found, folder / "dos.png")
    files += [str(folder / "dos.dat"), str(folder / "dos.png")]


def _write_columns(file: Path, names: Sequence[str], values: Floats) -> None:
    with replacing(file) as temporary:
        np.savetxt(temporary, values, fmt="%.9g", header=" ".join(names))


def _as_values(result: _Phonons, on_path: tuple[ImaginaryMode, ...], settings: PhononSettings) -> dict[str, Any]:
    return {
        "points": result.q_points.tolist(),
        "labels": result.labels,
        "frequencies_THz": result.found.tolist(),
        "errors_THz": result.errors.tolist(),
        "group_velocities_km_per_s": result.velocities.tolist(),
        "imaginary": [{"name": mode.name, **asdict(mode)} for mode in (*result.imaginary, *on_path)],
        "images": settings.images,
        "direction": None if result.direction is None else result.direction.tolist(),
        "files": result.files,
    }


def _as_text(
    result: _Phonons, on_path: tuple[ImaginaryMode, ...], force_field: ForceField, settings: PhononSettings
) -> list[str]:
    lines = [
        "frequencies in THz ± posterior standard deviation, imaginary ones negative; the bars hold what the labels",
        "leave open, not what the expansion leaves out (higher orders, longer cutoffs)",
    ]
    for x, label, found, errors in zip(result.q_points, result.labels, result.found, result.errors, strict=True):
        place = f"{label:<3s}({' '.join(f'{round(c, 6) + 0.0:.4g}' for c in x)})"
        lines.append(f"{place:<24s} " + "  ".join(f"{f:z8.4f} ± {e:.4f}" for f, e in zip(found, errors, strict=True)))
    named = {mode.name: None for mode in (*result.imaginary, *on_path)}
    lines += [f"imaginary: {name}" for name in named]
    if not named:
        lines.append("no imaginary modes there")
    if folds(force_field):
        lines.append(_folding_note(force_field, settings.images))
    return [*lines, *_polar_lines(result, force_field)]


def _polar_lines(result: _Phonons, force_field: ForceField) -> list[str]:
    """What Γ is in a polar crystal, or may be."""
    if force_field.baseline is None:
        note = force_field_note(force_field, "give them by --born BORN (dynft born makes it), or fit with --metal")
        return [note] if note else []
    if "Γ" not in result.labels:
        return []
    if result.direction is None:
        return ['Γ is without the macroscopic field: --direction "1 0 0" approaches it along a direction']
    return [f"Γ is approached along ({' '.join(f'{x:g}' for x in result.direction)}), with the non-analytic term"]


def _files(result: _Phonons, before: set[Path]) -> list[str]:
    return [f"written: {replaced(Path(file), Path(file) in before)}" for file in result.files]


def _folding_note(force_field: ForceField, images: Images) -> str:
    """What the training supercell cannot tell, and what is assumed about it."""
    choice = {
        "shortest": "the constants are taken to sit on the shortest images, as phonopy has it, "
        "and the errors do not hold that choice (--images all: as the posterior left them)",
        "all": "the posterior spreads the constants over all images, and the errors say how unsure that is",
    }[images]
    return (
        f"note: the second-order cutoff, {force_field.basis.cutoffs[2]:g} Å, reaches beyond half the distance of "
        f"images in the training supercell, {shortest_vector(force_field.supercell) / 2:.2f} Å: between the points "
        f"commensurate with it {choice}"
    )


def anharmonicity_command(force_field: Path, data: Path, reference: Path | None, as_json: bool) -> str:
    """σ_A of the structures in `data` against the force field's second order; returns what to print.

    Raises:
        InputError: anything unusable among the arguments.
    """
    loaded = ForceField.load(force_field)
    frames = one_supercell(read_labelled_frames(data, loaded.basis.crystal, reference, loaded.supercell), "DATA")
    if not frames.forces.any():
        raise InputError("DATA", "forces that are not all zero", "zeros alone", "σ_A needs displaced atoms' forces")
    moved = loaded.on(frames.supercell)
    harmonic = harmonic_forces(moved, frames.displacements)
    whole = anharmonicity(frames.forces, harmonic, frames.supercell.numbers)
    modes = mode_anharmonicity(frames.forces, harmonic, moved.hessian(), frames.supercell.masses)
    if as_json:
        return json_text(
            {
                "sigma": whole.sigma,
                "per_species": whole.per_species,
                "per_structure": whole.per_structure.tolist(),
                "modes": {"frequencies_THz": modes.frequencies_THz.tolist(), "sigma": modes.sigma.tolist()},
                "n_structures": len(whole.per_structure),
            }
        )
    return "\n".join(_anharmonicity_text(whole, modes))


def _anharmonicity_text(whole: Anharmonicity, modes: ModeAnharmonicity) -> list[str]:
    values = whole.per_structure
    lines = [
        f"σ_A                 {whole.sigma:.6f} over {len(values)} structures "
        f"(each alone: {np.nanmin(values):.4f} to {np.nanmax(values):.4f})",
        *(f"σ_A of {species:<13s}{sigma:.6f}" for species, sigma in sorted(whole.per_species.items())),
        "most anharmonic modes of the supercell, harmonic frequency (imaginary negative) and σ_A:",
    ]
    levels = {round(float(s), 9): k for k, s in enumerate(modes.sigma) if np.isfinite(s)}
    strongest = sorted(levels, reverse=True)[:MODES_SHOWN]
    return lines + [f"  {modes.frequencies_THz[levels[s]]:9.4f} THz   {s:.4f}" for s in strongest]
