"""VASP: settings for accurate forces, POTCARs and k-points checked before the first job, ASE's calculator made safe.

    [reference.parameters]
    encut = 350.0                 # eV, at least the POTCARs' ENMAX
    kpts = [2, 2, 2]              # mesh, or {density = 4.0}: k-points per Å⁻¹ along each reciprocal vector
    setups = {Sn = "_d"}          # POTCAR variants; without: the plain ones
    command = "srun vasp_std"     # or ASE_VASP_COMMAND; vasp_gam takes its place for Γ alone, where it is installed
    kpar = 2                      # not counted as settings: command, kpar, ncore, npar, nsim, lplane, lscalapack

Every other key is ASE's lower-case name of an INCAR tag, and takes the place of the default below.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase.calculators.calculator
from ase import Atoms

from dynft_core.errors import InputError, Problems, in_words, nearest
from dynft_core.reference.dft_code import DftCode, Parameters, Sought, bad_parameter, is_number
from dynft_core.reference.k_points import is_list
from dynft_core.reference.vasp_output import MESSAGES, OUTPUT, STDERR, vasp_report

ase_calculators: Any = ase.calculators.calculator

ACCURATE_FORCES: dict[str, Any] = {
    "xc": "pbesol", "prec": "Accurate", "ediff": 1e-8, "nelm": 100, "nelmin": 5, "algo": "Normal", "ismear": 0,
    "sigma": 0.05, "lreal": False, "addgrid": True, "lasph": True, "isym": 0, "ispin": 1, "ibrion": -1, "nsw": 0,
    "lwave": False, "lcharg": False, "lorbit": 0, "gamma": True,
}  # fmt: skip

SITE = frozenset({"command", "kpar", "ncore", "npar", "nsim", "lplane", "lscalapack"})
COMMANDS = ("ASE_VASP_COMMAND", "VASP_COMMAND", "VASP_SCRIPT")
"""Where ASE looks for the command, in the environment and in its configuration file."""
POTCAR_ERRORS = (KeyError, RuntimeError)
"""What ASE raises for a POTCAR, or a folder of them, that it does not find."""

NO_METALS = frozenset(
    ["H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br", "Kr", "Sb", "Te",
     "I", "Xe", "At", "Rn"]
)  # fmt: skip


@dataclass(frozen=True)
class Potcar:
    """The head of a POTCAR: its title, its functional (LEXCH), its cutoff (ENMAX, eV), and the hash of the file."""

    title: str
    functional: str
    enmax_eV: float
    sha256: str


def make_vasp(parameters: Parameters, directory: Path) -> Any:
    """ASE's VASP, which writes the mesh of any supercell, starts vasp_gam for Γ alone, and keeps what VASP prints."""
    # txt="-" keeps ASE from writing the output, which the command does: ASE would write it when VASP has ended.
    return _vasp_class()(directory=str(directory), txt="-", **parameters)


def check_vasp(parameters: Parameters, atoms: Atoms) -> list[str]:
    """Refuse settings that cannot give labels of the supercell `atoms`, all at once; notes on what is doubtful.

    Raises:
        InputError: a key that is not known, no command, POTCAR missing or of another functional, ENCUT, k-points, or
            ions that would move.
    """
    problems, known, potcars = Problems(), _known_keys(), dict[str, Potcar]()
    for key in sorted(parameters.keys() - known):
        with problems:
            raise bad_parameter(key, "keys of ASE's Vasp, the tags of INCAR in lower case", f"'{key}'",
                       nearest(key, known, "newer tags of VASP go into the table custom"))  # fmt: skip
    parameters = {key: value for key, value in parameters.items() if key in known}
    for check in (_check_ions, _check_encut, _check_command):
        with problems:
            check(parameters)
    with problems:
        _check_spin(parameters, atoms)
    with problems:
        _check_kpoints(parameters, atoms)
    with problems:
        potcars = read_potcars(parameters, atoms)
        with problems:
            _check_enmax(parameters, potcars)
        _check_functional(parameters, potcars)
    problems.refuse()
    notes = ["POTCARs: " + ", ".join(potcar.title for potcar in potcars.values())]
    if parameters.get("ispin") == 2 and not atoms.has("initial_magmoms") and "magmom" not in parameters:
        notes.append(
            "reference.parameters.ispin is 2, and the structure has no magnetic moments: VASP starts with 1 μ_B on "
            "each atom; a column initial_magmoms:R:1 in the structure gives others"
        )
    if parameters.get("ispin") == 2 and parameters.get("lorbit", 0) < 10:
        notes.append("reference.parameters.lorbit = 11 would keep the magnetic moment of each atom with its label")
    if parameters.get("ismear") == 0 and not NO_METALS & set(atoms.symbols):
        notes.append(
            f"reference.parameters.ismear is 0, but {atoms.symbols.formula.reduce()[0]} may be a metal: ismear = 1 and "
            "sigma = 0.2 suit metals better"
        )
    return notes


def mesh(kpts: Any, atoms: Atoms) -> tuple[int, int, int]:
    """The Γ-centred mesh for a cell: `kpts` itself, or from {'density': k-points per Å⁻¹}."""
    if isinstance(kpts, dict):
        found = ase_calculators.kptdensity2monkhorstpack(atoms, kpts["density"], False)
        return int(found[0]), int(found[1]), int(found[2])
    a, b, c = kpts
    return a, b, c


def gamma_command(command: str) -> str:
    """The command with vasp_gam in the place of vasp_std, where that is installed beside it."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    for word in words:
        if Path(word).name == "vasp_std":
            gamma = str(Path(word).with_name("vasp_gam"))
            return command.replace(word, gamma) if shutil.which(gamma) else command
    return command


def read_potcars(parameters: Parameters, atoms: Atoms) -> dict[str, Potcar]:
    """The POTCAR of each species, as ASE finds them.

    Raises:
        InputError: VASP_PP_PATH is not set, a file is missing or is no POTCAR.
    """
    without = {k: v for k, v in parameters.items() if k not in ("kpts", "command")}
    try:
        ase_calculator = make_vasp(without, Path())
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        # ASE raises each of these for a keyword or value that it does not take, and no class of its own.
        raise InputError("reference.parameters", "what ASE's Vasp accepts", in_words(error), "correct it") from error
    try:
        _find_potcars(ase_calculator, atoms)
    except POTCAR_ERRORS as error:
        unset = "" if "VASP_PP_PATH" in os.environ else "VASP_PP_PATH is not set; "
        raise InputError(
            "VASP_PP_PATH",
            f"a folder with the POTCARs of {', '.join(sorted(set(atoms.symbols)))}",
            unset + _missing_potcars(without, atoms, error),
            "set it to the folder that holds potpaw_PBE, and choose variants with setups",
        ) from error
    found = {}
    for (symbol, _), path in zip(ase_calculator.symbol_count, ase_calculator.ppp_list, strict=True):
        found[symbol] = _read_potcar(path, symbol)
    return found


def _find_potcars(ase_calculator: Any, atoms: Atoms) -> None:
    with warnings.catch_warnings(action="ignore"):  # of LDA with other POTCARs, which `_check_functional` refuses
        ase_calculator.initialize(atoms)


def _missing_potcars(parameters: Parameters, atoms: Atoms, first: Exception) -> str:
    """The files that ASE looks for in vain: it names the first, so each species is tried alone."""
    errors = [first]
    for symbol in sorted(set(atoms.symbols)):
        try:
            _find_potcars(make_vasp(parameters, Path()), Atoms(symbol))
        except POTCAR_ERRORS as error:
            errors.append(error)
    files = [match[1] for error in errors if (match := re.search(r"Looking for (\S+)", str(error)))]
    return f"no file {', '.join(dict.fromkeys(files))}" if files else " ".join(str(first).split())[:150]


def vasp_potentials(parameters: Parameters, atoms: Atoms) -> dict[str, str]:
    """Title and hash of each species' POTCAR."""
    return {s: f"{p.title}, sha256 {p.sha256[:16]}" for s, p in read_potcars(parameters, atoms).items()}


def other_cycle(parameters: Parameters) -> dict[str, Any]:
    """Conjugate gradients without charge mixing; or, where they are in use, damped mixing. Both with more steps."""
    more = 3 * int(parameters.get("nelm", 100))
    if str(parameters.get("algo", "Normal")).lower().startswith("a"):
        return {"algo": "Normal", "amix": 0.1, "bmix": 0.01, "nelm": more}
    return {"algo": "All", "nelm": more}


def vasp_needs() -> tuple[Sought, ...]:
    """VASP's command and its POTCARs, as ASE looks for them."""
    from ase.config import cfg

    command = next((cfg[name] if name in cfg else os.environ[name] for name in COMMANDS if _is_set(name)), "")
    folder = Path(os.environ.get("VASP_PP_PATH", "")).expanduser()
    sets = sorted(path.name for path in folder.glob("potpaw*")) if os.environ.get("VASP_PP_PATH") else []
    there = f"{', '.join(sets)} in {folder}" if sets else ""
    return (
        Sought("command", command, 'export ASE_VASP_COMMAND="srun vasp_std" where labels run'),
        Sought("POTCARs", there, "export VASP_PP_PATH: the folder of potpaw_PBE"),
    )


VASP = DftCode(
    make_vasp, ACCURATE_FORCES, SITE, check_vasp, vasp_potentials, vasp_report, other_cycle, (STDERR, OUTPUT), MESSAGES,
    vasp_needs,
)  # fmt: skip


@cache
def _known_keys() -> frozenset[str]:
    """What may stand among the parameters: the keys that ASE's Vasp knows, but those that `make_vasp` gives itself."""
    from ase.calculators.vasp.create_input import GenerateVaspInput

    groups: Any = vars(GenerateVaspInput())
    return SITE.union(*(keys for name, keys in groups.items() if name.endswith("_params"))) - {"txt"}


@cache
def _vasp_class() -> Any:
    import ase.calculators.vasp

    vasp: Any = ase.calculators.vasp

    class KeptVasp(vasp.Vasp):  # type: ignore[misc]
        def write_input(self, atoms: Atoms, properties: Any = None, system_changes: Any = None) -> None:
            kpts = self.input_params["kpts"]
            if kpts is not None and self.float_params["kspacing"] is None and not is_list(kpts):
                self.input_params["kpts"] = mesh(self.input_params["kpts"], atoms)
            super().write_input(atoms, properties, system_changes)

        def make_command(self, command: str | None = None) -> str:
            text: str = super().make_command(command)
            if list(self.input_params["kpts"] or ()) == [1, 1, 1] and self.float_params["kspacing"] is None:
                text = gamma_command(text)
            return f"{{ {text}\n}} > {OUTPUT} 2> {STDERR}"

    return KeptVasp


def _check_ions(parameters: Parameters) -> None:
    if parameters.get("nsw") or parameters.get("ibrion", -1) not in (-1, None):
        got = f"nsw = {parameters.get('nsw')}, ibrion = {parameters.get('ibrion')}"
        raise bad_parameter("nsw", "0, with ibrion = -1: a label is of the structure sent", got, "leave both out")


def _check_spin(parameters: Parameters, atoms: Atoms) -> None:
    if atoms.has("initial_magmoms") and parameters.get("ispin") != 2 and not parameters.get("lsorbit"):
        raise bad_parameter(
            "ispin",
            "2: the structure has magnetic moments, to be written as MAGMOM",
            repr(parameters.get("ispin")),
            "set it, or take the column initial_magmoms out of the structure",
        )


def _check_encut(parameters: Parameters) -> None:
    encut_eV = parameters.get("encut")
    if not (is_number(encut_eV) and encut_eV > 0):
        remedy = "for example 1.3 times the largest ENMAX"
        raise bad_parameter("encut", "the plane-wave cutoff in eV", repr(encut_eV), remedy)


def _check_enmax(parameters: Parameters, potcars: dict[str, Potcar]) -> None:
    encut_eV = parameters.get("encut")
    symbol, largest = max(potcars.items(), key=lambda item: item[1].enmax_eV)
    if is_number(encut_eV) and 0 < encut_eV < largest.enmax_eV:
        raise bad_parameter(
            "encut",
            f"at least ENMAX of {symbol}'s POTCAR ({largest.title}), {largest.enmax_eV:g} eV",
            f"{encut_eV:g} eV",
            "raise it",
        )


def _check_kpoints(parameters: Parameters, atoms: Atoms) -> None:
    kpts, kspacing = parameters.get("kpts"), parameters.get("kspacing")
    if kspacing is not None:
        if not (is_number(kspacing) and kspacing > 0):
            raise bad_parameter("kspacing", "a spacing above 0 Å⁻¹", repr(kspacing), "correct it, or give kpts")
        return
    expected = "a mesh of three integers from 1 up, or {density = k-points per Å⁻¹}"
    if isinstance(kpts, dict):
        good = set(kpts) == {"density"} and is_number(kpts["density"]) and kpts["density"] > 0
    else:
        good = (
            isinstance(kpts, (list, tuple))
            and len(kpts) == 3
            and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in kpts)
        )
    if not good:
        raise bad_parameter("kpts", expected, "nothing" if kpts is None else repr(kpts), "for example [2, 2, 2]")
    mesh(kpts, atoms)


def _is_set(name: str) -> bool:
    from ase.config import cfg

    return name in cfg or bool(os.environ.get(name))


def _check_command(parameters: Parameters) -> None:
    if parameters.get("command") or any(map(_is_set, COMMANDS)):
        return
    raise bad_parameter(
        "command",
        "how VASP is started, for example 'srun vasp_std'",
        "neither that nor ASE_VASP_COMMAND",
        "set one of them, ASE_VASP_COMMAND in the shell that starts dynft",
    )


def _check_functional(parameters: Parameters, potcars: dict[str, Potcar]) -> None:
    functionals = {potcar.functional for potcar in potcars.values()}
    if len(functionals) > 1:
        got = ", ".join(f"{p.title}: LEXCH = {p.functional}" for p in potcars.values())
        raise InputError("VASP_PP_PATH", "POTCARs of one functional", got, "take all of them from one set")
    xc = str(parameters.get("gga") or parameters.get("metagga") or parameters.get("xc") or "lda").lower()
    wanted = {"lda": ("CA",), "pw91": ("91",), "91": ("91",)}.get(xc, ("PE",))
    found = functionals.pop()
    if found not in wanted:
        raise InputError(
            "reference.parameters.xc",
            f"POTCARs with LEXCH = {wanted[0]} for '{xc}'",
            f"LEXCH = {found}",
            "choose the functional of the POTCARs, or other POTCARs with pp",
        )


def _read_potcar(path: str, symbol: str) -> Potcar:
    from ase.calculators.vasp.create_input import open_potcar

    try:
        with open_potcar(path) as file:
            content: Any = file.read()
    except OSError as error:
        raise InputError("VASP_PP_PATH", "readable POTCARs", f"{path} ({error.strerror})", "mend it") from error
    raw = content if isinstance(content, bytes) else content.encode()
    head = raw[:20_000].decode(errors="replace")
    title, functional, enmax = (
        re.search(pattern, head) for pattern in (r"TITEL\s*=\s*(.+)", r"LEXCH\s*=\s*(\w+)", r"ENMAX\s*=\s*([\d.]+)")
    )
    species = re.search(r"VRHFIN\s*=\s*([A-Z][a-z]?)", head)
    if not (title and functional and enmax and species) or species[1] != symbol:
        got = f"that of {species[1]}" if species else "another file"
        raise InputError("VASP_PP_PATH", f"the POTCAR of {symbol} in {path}", got, "restore the file")
    return Potcar(title[1].strip(), functional[1].upper(), float(enmax[1]), hashlib.sha256(raw).hexdigest())
