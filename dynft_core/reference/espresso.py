"""Quantum ESPRESSO's pw.x: its input checked before the first job, its output read anew after each.

    [reference.parameters]
    kpts = [2, 2, 2]                      # mesh, Γ-centred; without: Γ alone, with real wave functions
    command = "mpirun -n 8 pw.x"          # not counted as settings, like pseudo_dir; without: ASE_ESPRESSO_COMMAND,
    pseudo_dir = "/home/me/pseudo"        #   ESPRESSO_PSEUDO, ASE's configuration, then pw.x and Debian's folder

    [reference.parameters.pseudopotentials]
    Si = "Si.pz-vbc.UPF"

    [reference.parameters.input_data.system]
    ecutwfc = 16.0                        # Ry; every key of pw.x, by namelist

Any other parameter is one of ASE's Espresso.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.config import cfg
from ase.io import read
from ase.io.espresso_namelist.keys import pw_keys

from dynft_core.errors import InputError, Problems, in_words, nearest
from dynft_core.reference.dft_code import DftCode, Parameters, Report, Sought, bad_parameter, is_number
from dynft_core.reference.espresso_run import listed_points
from dynft_core.reference.failures import LabelError, Message, named
from dynft_core.reference.k_points import is_list, same_list

SITE = frozenset({"command", "pseudo_dir"})
DEBIAN_PSEUDOPOTENTIALS = Path("/usr/share/espresso/pseudo")
ACCURATE_CONV_THR_RY = 1e-8
"""pw.x's own threshold, 1e-6 Ry, leaves noise of some meV/Å in the forces."""
INPUT, OUTPUT, STDERR = "espresso.pwi", "espresso.pwo", "espresso.err"

MESSAGES: tuple[Message, ...] = (
    ("not converged", r"convergence NOT achieved", "the self-consistency cycle did not converge"),
    ("calculator", r"charge is wrong", "the charge is wrong: are there too few bands, or is this a metal?"),
    ("calculator", r"Error in routine[^\n]*\n\s*([^\n]+)", "pw.x stopped"),
)
"""What pw.x prints when a calculation is of no use."""

_OURS = ("calculation", "tprnfor", "pseudo_dir", "outdir", "wfcdir", "prefix", "restart_mode", "max_seconds")
"""Keys of pw.x that would mix labels with each other, or make them something else than forces of one structure."""
_KEYS = SITE.union(
    ["input_data", "pseudopotentials", "kpts", "kspacing", "koffset", "crystal_coordinates", "additional_cards"]
)
"""What may stand among the parameters."""
_DIGITS = 2e-6
"""pw.x prints positions and cell in lattice constants, to six decimals at least."""


def make_espresso(parameters: Parameters, directory: Path) -> Any:
    """ASE's Espresso in `directory`, every label with a scratch folder of its own, nothing big left there."""
    given = {name: value for name, value in parameters.items() if name not in SITE}
    data = namelists(given.pop("input_data", {}))
    data["control"] = {"disk_io": "none", **data["control"], "calculation": "scf", "tprnfor": True, "outdir": "./"}
    if is_list(given.get("kpts")):
        given["kpts"] = np.array(given["kpts"], dtype=np.float64)
    profile = EspressoProfile(pw_command(parameters), str(_folder(parameters)))
    make: Any = _FromMoments  # its constructor has no types
    return make(profile=profile, directory=str(directory), input_data=data, **given)


class _FromMoments(Espresso):
    """ASE's Espresso, which would write moments in μ_B where every pw.x reads fractions of the valence electrons."""

    def write_inputfiles(self, atoms: Atoms, properties: Any) -> None:
        moments = atoms.get_initial_magnetic_moments()
        if moments.any():
            folder, files = Path(self.profile.pseudo_dir), self.parameters["pseudopotentials"]
            valence = [_valence(folder / files[symbol]) for symbol in atoms.symbols]
            atoms = atoms.copy()
            atoms.set_initial_magnetic_moments(np.clip(moments / valence, -1, 1))
        super().write_inputfiles(atoms, properties)  # type: ignore[no-untyped-call]


def check_espresso(parameters: Parameters, atoms: Atoms) -> list[str]:
    """Refuse settings that cannot give labels of the supercell `atoms`, all at once; notes on what is doubtful.

    Raises:
        InputError: a key that is not known, no command, a pseudopotential missing, no plane-wave cutoff, k-points that
            are no mesh.
    """
    problems, data, files = Problems(), dict[str, dict[str, Any]](), dict[str, Path]()
    for key in sorted(parameters.keys() - _KEYS):
        with problems:
            remedy = nearest(key, _KEYS, "keys of pw.x go to input_data")
            raise bad_parameter(key, "keys of ASE's Espresso", f"'{key}'", remedy)
    with problems:
        data = namelists(parameters.get("input_data", {}))
        cutoff = data["system"].get("ecutwfc")
        if not (is_number(cutoff) and cutoff > 0):
            key = "input_data.system.ecutwfc"
            raise bad_parameter(key, "the plane-wave cutoff in Ry", repr(cutoff), "for example 40.0")
    with problems:
        _check_k_points(parameters)
    with problems:
        _check_command(pw_command(parameters))
    with problems:
        _check_spin(data, atoms)
    with problems:
        files = _potential_files(parameters, atoms)
        if atoms.has("initial_magmoms"):
            for path in files.values():
                _valence(path)
    problems.refuse()
    notes = [f"pseudopotentials: {', '.join(path.name for path in files.values())}"]
    threshold = data["electrons"].get("conv_thr", 1e-6)
    if not is_number(threshold) or threshold > ACCURATE_CONV_THR_RY:
        notes.append(f"input_data.electrons.conv_thr is {threshold}: 1e-9 Ry gives forces without noise")
    return notes


def espresso_potentials(parameters: Parameters, atoms: Atoms) -> dict[str, str]:
    """Name and hash of each species' pseudopotential."""
    files = _potential_files(parameters, atoms).items()
    return {s: f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for s, path in files}


def espresso_report(directory: Path, calculator: Any, atoms: Atoms) -> Report:
    """Read a finished calculation of `atoms` in `directory`.

    Raises:
        LabelError: 'incomplete', 'not converged', 'moved', 'settings', or what pw.x printed.
    """
    path = directory / OUTPUT
    text = path.read_text(errors="replace") if path.exists() else ""
    failure = named([text], MESSAGES)
    if failure is not None:
        raise failure
    if "JOB DONE." not in text:
        raise LabelError("incomplete", f"{OUTPUT} does not close with 'JOB DONE.'")
    if text.count("convergence has been achieved") != 1 or text.count("Forces acting on atoms") != 1:
        raise LabelError("incomplete", f"{OUTPUT} is not of one self-consistency cycle with forces")
    try:
        found: Any = read(path, format="espresso-out")
        alat_A = float(re.findall(r"celldm\(1\)=\s*(\S+)", text)[0]) * 0.529177210903
        version = re.findall(r"Program PWSCF v\.?(\S+)", text)[0]
        _check_settings(text, calculator)
    except (ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        raise LabelError("incomplete", f"{OUTPUT} lacks something ({in_words(error)})") from error
    if len(found) != len(atoms):
        raise LabelError("moved", f"{len(found)} atoms came back, {len(atoms)} were sent")
    return Report(
        positions=_to_printed_digits(found.positions, atoms.positions, alat_A),
        cell=_to_printed_digits(found.cell[:], atoms.cell[:], alat_A),
        numbers=np.array(found.numbers, dtype=np.int64),
        version=version,
    )


def other_cycle(parameters: Parameters) -> dict[str, Any]:
    """Slower mixing, conjugate gradients, more steps."""
    data = namelists(parameters.get("input_data", {}))
    beta = 0.5 * float(data["electrons"].get("mixing_beta", 0.7))
    changed = {"mixing_beta": beta, "diagonalization": "cg", "electron_maxstep": 300}
    return {"input_data": {**data, "electrons": {**data["electrons"], **changed}}}


def espresso_needs() -> tuple[Sought, ...]:
    """pw.x and pseudopotentials where they are looked for when the campaign names no place of its own."""
    program, folder = next(iter(shlex.split(pw_command({}))), ""), _folder({})
    files = len([path for path in folder.glob("*") if path.suffix.lower() == ".upf"])
    there = f"{files} files in {folder}" if files else ""
    return (
        Sought("pw.x", shutil.which(program) or "", "install Quantum ESPRESSO, or export ASE_ESPRESSO_COMMAND"),
        Sought("pseudopotentials", there, "export ESPRESSO_PSEUDO: their folder"),
    )


ESPRESSO = DftCode(
    make_espresso, {}, SITE, check_espresso, espresso_potentials, espresso_report, other_cycle, (OUTPUT, STDERR),
    MESSAGES, espresso_needs,
)  # fmt: skip


def namelists(given: object) -> dict[str, dict[str, Any]]:
    """The keys of pw.x's input by namelist, given that way or all in one table.

    Raises:
        InputError: no table, an unknown key, or one that dynft sets.
    """
    if not isinstance(given, Mapping):
        raise bad_parameter("input_data", "a table", repr(given), "write pw.x's keys in it")
    problems = Problems()
    data: dict[str, dict[str, Any]] = {"control": {}, "system": {}, "electrons": {}}
    for name, value in given.items():
        keys = value if isinstance(value, Mapping) else {name: value}
        for key, content in keys.items():
            with problems:
                namelist = _namelist_of(str(key), str(name).lower() if isinstance(value, Mapping) else None)
                data.setdefault(namelist, {})[str(key).lower()] = content
    problems.refuse()
    return data


def _namelist_of(key: str, namelist: str | None) -> str:
    """Where a key belongs, which is where it stands if it stands in a namelist."""
    where, plain = f"input_data.{namelist}" if namelist else "input_data", key.partition("(")[0].lower()
    if plain in _OURS:
        raise bad_parameter(where, "keys that dynft does not set itself", f"'{key}'", "leave it out")
    if namelist is not None and namelist not in pw_keys:
        raise bad_parameter("input_data", f"namelists of pw.x: {', '.join(pw_keys)}", f"'{namelist}'", "correct it")
    candidates = pw_keys if namelist is None else {namelist: pw_keys[namelist]}
    for found, keys in candidates.items():
        if plain in keys:
            return str(found)
    right = next((other for other, keys in pw_keys.items() if plain in keys), None)
    known = [k for keys in candidates.values() for k in keys]
    remedy = f"it belongs to {right}" if right else nearest(plain, known, "leave it out")
    raise bad_parameter(where, "keys of pw.x", f"'{key}'", remedy)


def _check_spin(data: Mapping[str, Mapping[str, Any]], atoms: Atoms) -> None:
    system = data.get("system", {})
    if atoms.has("initial_magmoms") and system.get("nspin") != 2:
        raise bad_parameter(
            "input_data.system.nspin",
            "2: the structure has magnetic moments",
            repr(system.get("nspin", 1)),
            "set it, or take the column initial_magmoms out of the structure",
        )
    if given := next((key for key in system if key.startswith("starting_magnetization")), None):
        raise bad_parameter(
            "input_data.system",
            "moments in the structure, which tell atoms of one species apart",
            f"'{given}'",
            "write them there as a column initial_magmoms:R:1 (μ_B)",
        )


@cache
def _valence(path: Path) -> float:
    """Valence electrons of a pseudopotential.

    Raises:
        InputError: a file in another format than UPF.
    """
    text = path.read_text(errors="replace")
    found = re.search(r'z_valence\s*=\s*"\s*([^"\s]+)|([\d.]+)\s+Z valence', text)
    if found is None:
        raise InputError(
            "reference.parameters.pseudopotentials",
            "UPF files, which tell the valence electrons that carry moments",
            f"'{path.name}'",
            "choose a pseudopotential in UPF",
        )
    return float(found[1] or found[2])


def _check_k_points(parameters: Parameters) -> None:
    kpts, spacing = parameters.get("kpts"), parameters.get("kspacing")
    mesh = isinstance(kpts, list | tuple) and len(kpts) == 3 and all(type(n) is int and n > 0 for n in kpts)
    if kpts is not None and not mesh:
        raise bad_parameter("kpts", "a mesh of three integers from 1 up", repr(kpts), "leave it out for Γ alone")
    if spacing is not None and not (is_number(spacing) and spacing > 0):
        raise bad_parameter("kspacing", "a spacing above 0 Å⁻¹", repr(spacing), "correct it, or give kpts")


def pw_command(parameters: Parameters) -> str:
    """pw.x, with what launches it: of the parameters, the environment or ASE's configuration.

    Raises:
        InputError: a command in the form of older versions of ASE.
    """
    if parameters.get("command"):
        return str(parameters["command"])
    command = os.environ.get("ASE_ESPRESSO_COMMAND", "")
    if ">" in command or "PREFIX" in command:
        raise InputError(
            "ASE_ESPRESSO_COMMAND",
            "launcher and program alone, as 'mpirun -n 8 pw.x'",
            f"'{command}'",
            "leave out input and output: this form was that of older versions of ASE",
        )
    return command or str(cfg.parser.get("espresso", "command", fallback="pw.x"))


def _check_command(command: str) -> None:
    program = next(iter(shlex.split(command)), "")
    if shutil.which(program) is None:
        raise bad_parameter(
            "command",
            "pw.x, with its launcher if it has one",
            f"'{command}', which is not found",
            "install Quantum ESPRESSO, load its module, or give its path",
        )


def _folder(parameters: Parameters) -> Path:
    configured = cfg.parser.get("espresso", "pseudo_dir", fallback=str(DEBIAN_PSEUDOPOTENTIALS))
    return Path(str(parameters.get("pseudo_dir") or os.environ.get("ESPRESSO_PSEUDO") or configured)).expanduser()


def _potential_files(parameters: Parameters, atoms: Atoms) -> dict[str, Path]:
    given, folder = parameters.get("pseudopotentials", {}), _folder(parameters)
    found = {}
    for symbol in sorted(set(atoms.symbols)):
        if not isinstance(given, Mapping) or symbol not in given:
            got, remedy = f"{given or 'none'}", f'add {symbol} = "FILE.UPF"'
            raise bad_parameter("pseudopotentials", f"a file for {symbol}", got, remedy)
        found[symbol] = folder / str(given[symbol])
        if not found[symbol].is_file():
            raise bad_parameter(
                f"pseudopotentials.{symbol}",
                f"a file in {folder}",
                f"'{given[symbol]}', which is not there",
                "put it there, or name its folder with pseudo_dir or ESPRESSO_PSEUDO",
            )
    return found


def _check_settings(text: str, calculator: Any) -> None:
    """Refuse output that was computed with another cutoff, or other pseudopotentials, than those sent."""
    sent = float(calculator.parameters["input_data"]["system"]["ecutwfc"])
    found = float(re.findall(r"kinetic-energy cutoff\s*=\s*(\S+)", text)[0])
    if abs(found - sent) > 1e-3:
        raise LabelError("settings", f"computed with ecutwfc = {found:g} Ry, sent was {sent:g} Ry")
    points, listed = calculator.parameters.get("kpts"), listed_points(text)
    if is_list(points) and listed is not None and not same_list(points, listed.points):
        raise LabelError("settings", f"computed with {listed}, sent was a list of {len(points)} points")
    files = {Path(calculator.profile.pseudo_dir) / name for name in calculator.parameters["pseudopotentials"].values()}
    known = {hashlib.md5(path.read_bytes()).hexdigest() for path in files if path.is_file()}
    used = set(re.findall(r"MD5 check sum:\s*(\w+)", text))
    if not used <= known:
        raise LabelError("settings", "computed with other pseudopotential files than those there now")


def _to_printed_digits(found: Any, sent: Any, alat_A: float) -> Any:
    """What was sent, where the output is the same to the digits printed; else what the output says."""
    return sent if np.abs(found - sent).max() < _DIGITS * alat_A else found
