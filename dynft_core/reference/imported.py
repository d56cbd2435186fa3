"""Labels that were computed before, elsewhere: what their files say, and how they are kept beside a campaign's own.

Read are VASP's vasprun.xml or OUTCAR, output of Quantum ESPRESSO's pw.x, labels of another run folder (label.h5),
phonopy's FORCE_SETS and phonopy_params.yaml, ALAMODE's DFSET, and every file with forces that ASE reads (extended xyz).
A file of many ionic steps gives those that are whole and converged as many structures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.errors import FileFormatError, in_words
from dynft_core.lattice.cells import Frame
from dynft_core.reference.calculators import calculator_name, complete_parameters, settings_hash
from dynft_core.reference.dft_code import Difference
from dynft_core.reference.displacement_sets import read_dfset, read_force_sets, read_phonopy_yaml
from dynft_core.reference.espresso_run import EspressoRun, read_espresso
from dynft_core.reference.espresso_settings import espresso_differences
from dynft_core.reference.failures import Failure
from dynft_core.reference.finished_files import kind_of, opened
from dynft_core.reference.label import IMPORTED, KIND, read_label, relative_label_path
from dynft_core.reference.outcar import read_outcar
from dynft_core.reference.vasp_run import VaspRun
from dynft_core.reference.vasp_settings import vasp_differences
from dynft_core.reference.vasprun import read_vasprun
from dynft_core.storage.segments import Attribute, write_segment
from dynft_core.vocabulary import ReferenceSettings, StructureRef


@dataclass(frozen=True, eq=False)
class Finished:
    """One run of a code in a file of finished calculations, or a file of structures that does not tell its code.

    Attributes:
        path: the file.
        code: 'vasp', 'espresso', the calculator of a label, or ''.
        frames: structures with forces, by their number in the file.
        left_out: steps that are no labels, by the sentence why.
        cut_off: whether the file ends before it should.
        run: what it tells of its settings; of a label, their hash; None: nothing.
    """

    path: Path
    code: str
    frames: dict[int, Atoms]
    left_out: dict[int, Failure]
    cut_off: bool = False
    run: VaspRun | EspressoRun | str | None = None

    @property
    def omissions(self) -> str:
        """What of the file is no label, in one sentence; '' when all of it is."""
        steps: dict[str, list[int]] = {}
        for number, failure in self.left_out.items():
            steps.setdefault(str(failure), []).append(number)
        parts = [f"left out step {_few(numbers)}: {why}" for why, numbers in steps.items()]
        if self.cut_off:
            n = len(self.frames) + len(self.left_out)
            parts.append(f"the file is cut off behind {n} whole step{'' if n == 1 else 's'}")
        return "; ".join(parts)


def read_finished(path: Path, supercell: Atoms | None = None, forces_key: str | None = None) -> tuple[Finished, ...]:
    """Read a file of finished calculations: each run in it, with the steps that are whole and converged.

    Args:
        path: the file.
        supercell: the perfect one of displacements whose file does not hold it.
        forces_key: the column of extended xyz that has the forces; None: 'forces'.

    Raises:
        FileFormatError: missing, unreadable, or without any step that can be a label.
    """
    try:
        found = tuple(_read(path, supercell, forces_key))
    except FileFormatError:
        raise
    except Exception as error:  # readers raise whatever comes: ValueError, KeyError, IndexError, XYZError, …
        raise _unusable(path, "finished calculations, or structures that ASE can read", in_words(error)) from error
    if not any(part.frames for part in found):
        why = [part.omissions for part in found if part.omissions]
        raise _unusable(path, "at least one whole and converged step", "; ".join(why) or "none")
    return found


def other_settings(found: Finished, settings: ReferenceSettings) -> list[Difference]:
    """How the settings that a file tells differ from the campaign's, as far as it tells them."""
    if not found.code:
        return []
    name = calculator_name(settings)
    if name != found.code:
        return [Difference("calculator", found.code, name)]
    if isinstance(found.run, str):
        return [] if found.run == settings_hash(settings) else [Difference("parameters", "others", f"those of {name}")]
    parameters = complete_parameters(settings)
    if isinstance(found.run, VaspRun):
        written = {str(name).lower() for name in (*settings.parameters, *(parameters.get("custom") or ()))}
        return vasp_differences(found.run, parameters, frozenset(written))
    return espresso_differences(found.run, parameters) if isinstance(found.run, EspressoRun) else []


def write_imported_label(run_dir: Path, frame: Frame, ref: StructureRef, found: Finished) -> None:
    """Write labels/<key>/label.h5 of a frame with forces that were computed elsewhere, in the file `found`.

    In the place of the settings' hash stands 'imported:' and the hash of what the file tells of its settings.
    """
    told = json.dumps({"code": found.code, "settings": _told(found.run)}, sort_keys=True, default=str)
    arrays = {
        "displacements": frame.displacements, "positions": frame.cell.sites + frame.displacements,
        "cell": frame.cell.cell, "numbers": frame.cell.numbers, "forces": frame.labelled_forces,
    }  # fmt: skip
    if frame.stress is not None:
        arrays["stress"] = frame.stress
    path = run_dir / relative_label_path(ref.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Attribute] = {
        "kind": KIND, "key": ref.key, "role": ref.role, "energy_eV": frame.energy_eV,
        "calculator": found.code or "unknown", "reference_cell": ref.cell,
        "settings_hash": f"{IMPORTED}{hashlib.sha256(told.encode()).hexdigest()[:16]}", "seconds": 0.0,
    }  # fmt: skip
    write_segment(path, arrays, attributes)


def _read(path: Path, supercell: Atoms | None, forces_key: str | None) -> Iterator[Finished]:
    kind = kind_of(path)
    if kind == "label":
        yield _of_label(path)
    elif kind in ("vasprun", "outcar"):
        with opened(path) as file:
            run = read_vasprun(file) if kind == "vasprun" else read_outcar(file)
        failures = {number: run.failure_of(step) for number, step in enumerate(run.steps)}
        frames = {n: run.atoms(s) for n, s in enumerate(run.steps) if not (isinstance(s, str) or failures[n])}
        yield Finished(path, "vasp", frames, {n: x for n, x in failures.items() if x}, run.cut_off, run)
    elif kind == "espresso":
        with opened(path) as file:
            runs = read_espresso(file)
        for part in runs:
            failed = {n: step for n, step in enumerate(part.steps) if isinstance(step, Failure)}
            whole = {n: step for n, step in enumerate(part.steps) if isinstance(step, Atoms)}
            yield Finished(path, "espresso", whole, failed, part.cut_off, part)
    else:
        if kind == "force sets":
            structures = read_force_sets(path, supercell)
        elif kind == "dfset":
            structures = read_dfset(path, supercell)
        else:
            structures = read_phonopy_yaml(path) if kind == "phonopy" else _structures(path, forces_key)
        yield Finished(path, "", dict(enumerate(structures)), {})


def _of_label(path: Path) -> Finished:
    label = read_label(path)
    frame = Atoms(label.numbers, label.positions, cell=label.cell, pbc=True)
    known: dict[str, Any] = {"energy": label.energy_eV} if np.isfinite(label.energy_eV) else {}
    known |= {"stress": label.results["stress"]} if "stress" in label.results else {}
    frame.calc = SinglePointCalculator(frame, forces=label.forces, **known)
    if label.settings_hash.startswith(IMPORTED):  # what its file told of its settings is not known any more
        return Finished(path, "", {0: frame}, {})
    return Finished(path, label.calculator, {0: frame}, {}, run=label.settings_hash)


def _structures(path: Path, forces_key: str | None) -> list[Atoms]:
    """What ASE reads; with forces from the column that was asked for, and the energy that is called alike."""
    frames: list[Atoms] = list(ase.io.read(path, index=":"))
    for frame in frames if forces_key else ():
        if forces_key in frame.arrays:
            energy_key = str(forces_key).replace("forces", "energy").replace("force", "energy")
            energy = {"energy": float(frame.info[energy_key])} if energy_key in frame.info else {}
            frame.calc = SinglePointCalculator(frame, forces=frame.arrays[forces_key], **energy)
    return frames


def _told(run: VaspRun | EspressoRun | str | None) -> Any:
    """What a file told of its settings, for the hash in the label."""
    if isinstance(run, VaspRun):
        return [dict(run.tags), [species.title for species in run.species], str(run.k_points)]
    return dict(run.settings) if isinstance(run, EspressoRun) else run


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f", … ({len(numbers)} in all)" if len(numbers) > 5 else "")


def _unusable(path: Path, expected: str, got: str) -> FileFormatError:
    return FileFormatError(str(path), expected, got, "leave it out, or compute it again")
