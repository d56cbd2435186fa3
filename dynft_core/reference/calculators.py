"""ASE calculators by name, and the hashes that say which structure was computed with which settings."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.calculators.calculator
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from dynft_core.errors import InputError, in_words, nearest
from dynft_core.reference.dft_code import DftCode
from dynft_core.reference.embedded import embedded_potentials
from dynft_core.reference.espresso import ESPRESSO
from dynft_core.reference.gpaw import GPAW
from dynft_core.reference.vasp import VASP
from dynft_core.vocabulary import ReferenceSettings

ase_calculators: Any = ase.calculators.calculator

DFT_CODES: dict[str, DftCode] = {"vasp": VASP, "espresso": ESPRESSO, "gpaw": GPAW}
"""The codes that dynft knows more about than ASE's name."""

POSITION_RESOLUTION_A = 1e-8
"""Positions (and cells) that agree to this are the same structure."""


def make_calculator(settings: ReferenceSettings, directory: Path | str) -> Any:
    """The ASE calculator that `settings` name, working in `directory` if it works with files.

    Names: 'tersoff-si' (Tersoff, PRB 39, 5566), 'stillinger-weber-si' (PRB 31, 5262), 'emt', 'lj', 'morse', 'bonds'
    (`reference.bonds`), 'force_field' (`path`: a force field of dynft), every other calculator that ASE knows by name,
    or 'module:callable', called with the parameters (and with `directory` if it has such an argument).

    A code of `DFT_CODES` gets its default parameters, then those of `settings`, then those of the site from the
    environment (DYNFT_VASP_NCORE=4).

    Raises:
        InputError: unknown or not installed, or parameters that the calculator refuses.
    """
    name, code = calculator_name(settings), dft_code_of(settings)
    if code is not None:
        parameters = complete_parameters(settings) | _from_environment(name, code)
        return _called(name, lambda: code.make(parameters, Path(directory)))
    potential = embedded_potentials().get(name)
    if potential is not None:
        unknown = sorted(set(settings.parameters) - potential.parameters)
        if unknown:
            accepted = ", ".join(sorted(potential.parameters)) or "no parameters"
            remedy = nearest(unknown[0], potential.parameters, f"correct the parameters of {name}")
            raise InputError("reference.parameters", accepted, f"'{unknown[0]}'", remedy)
    factory = potential.make if potential is not None else _factory(name)
    arguments = dict(settings.parameters)
    if potential is None and _takes_directory(factory):
        arguments["directory"] = str(directory)
    return _called(name, lambda: factory(**arguments))


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """What a calculator raises while it is made or checked, as what the user can mend."""
    try:
        yield
    except ImportError as error:
        raise _not_installed(name, error) from error
    except InputError:
        raise
    except Exception as error:  # every calculator has its own way to refuse parameters
        raise InputError(
            "reference.parameters",
            f"what {name} accepts",
            in_words(error),
            "correct the parameters, or configure the calculator for ASE",
        ) from error


def _called(name: str, make: Callable[[], Any]) -> Any:
    with _translated(name):
        calculator = make()
    if not callable(getattr(calculator, "get_forces", None)):
        raise InputError(
            "reference.calculator",
            "an ASE calculator",
            f"{type(calculator).__name__} from {name}",
            "name a class or function that gives an ASE calculator",
        )
    return calculator


def is_installed(name: str) -> bool:
    """Whether a calculator of this name can be made in this environment.

    Raises:
        InputError: there is none of this name.
    """
    settings = ReferenceSettings(name)
    if dft_code_of(settings) is not None or runs_in_process(settings):
        return True
    try:
        _factory(calculator_name(settings))
    except InputError as error:
        if isinstance(error.__cause__, ImportError):
            return False
        raise
    return True


def check_calculator(settings: ReferenceSettings, atoms: Atoms) -> list[str]:
    """Check everything that can be checked for the supercell `atoms` without computing; returns notes for the user.

    Raises:
        InputError: as `make_calculator`; an element that an embedded potential does not know; what the code's own check
            refuses (keys, command, pseudopotentials, cutoff, k-points), all of it together.
    """
    settings_hash(settings)
    name, code, notes = calculator_name(settings), dft_code_of(settings), list[str]()
    if code is not None:
        with _translated(name):
            notes = code.check(complete_parameters(settings) | _from_environment(name, code), atoms)
    with tempfile.TemporaryDirectory() as folder:
        make_calculator(settings, folder)
    potential = embedded_potentials().get(name)
    if potential is not None and potential.elements is not None:
        unknown = sorted({chemical_symbols[z] for z in atoms.numbers} - potential.elements)
        if unknown:
            raise InputError(
                "reference.calculator",
                f"one that knows {', '.join(unknown)}",
                f"'{settings.calculator}', which knows {', '.join(sorted(potential.elements))}",
                "choose another calculator, or check the species of the structure",
            )
    if potential is not None and potential.tried:
        make_calculator(settings, ".").get_forces(atoms)
    return notes


def runs_in_process(settings: ReferenceSettings) -> bool:
    """True for embedded potentials, which need no files, no commands and no protection by a process of their own."""
    return calculator_name(settings) in embedded_potentials()


def gives_stress(settings: ReferenceSettings) -> bool:
    """Whether the calculator says of itself that it computes stresses.

    Raises:
        InputError: as `make_calculator`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return "stress" in getattr(make_calculator(settings, folder), "implemented_properties", ())


def calculator_name(settings: ReferenceSettings) -> str:
    """The name as it is looked up: lower case, unless it is 'module:callable'."""
    name = settings.calculator.strip()
    return name if ":" in name else name.lower()


def dft_code_of(settings: ReferenceSettings) -> DftCode | None:
    """What dynft knows of the code beyond its name, where it knows more."""
    return DFT_CODES.get(calculator_name(settings))


def complete_parameters(settings: ReferenceSettings) -> dict[str, Any]:
    """The parameters of `settings`; for a code of `DFT_CODES` in lower case, and with its defaults for the others."""
    code = dft_code_of(settings)
    if code is None:
        return dict(settings.parameters)
    return {**code.defaults, **{name.lower(): value for name, value in settings.parameters.items()}}


def site_parameters(settings: ReferenceSettings) -> frozenset[str]:
    """Names of the parameters that change no force: how, and on how many cores, the code is started."""
    code = dft_code_of(settings)
    return frozenset({"command"}) if code is None else code.site


def physical_parameters(settings: ReferenceSettings) -> dict[str, Any]:
    """The complete parameters without those of the site."""
    site = site_parameters(settings)
    return {name: value for name, value in complete_parameters(settings).items() if name not in site}


def settings_hash(settings: ReferenceSettings) -> str:
    """SHA-256 (64 hex digits) of the calculator and its physical parameters: all that changes the forces.

    Raises:
        InputError: parameters that JSON cannot hold.
    """
    plain = {"calculator": calculator_name(settings), "parameters": physical_parameters(settings)}
    try:
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            "reference.parameters",
            "finite numbers, strings, lists and tables",
            str(error),
            "write it as one of these",
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()


def structure_key(numbers: ArrayLike, cell: ArrayLike, positions: ArrayLike, settings: ReferenceSettings) -> str:
    """Content hash (24 hex digits) of a structure and the settings that label it: its name in the ledger.

    Args:
        numbers: (N,) atomic numbers; their order counts.
        cell: (3, 3) Å.
        positions: (N, 3) Å, rounded to 1e-8 Å; not wrapped, so give perfect positions + displacements.
        settings: the reference settings.

    Raises:
        InputError: positions or cell not finite, or settings that cannot be hashed.
    """
    digest = hashlib.sha256(settings_hash(settings).encode())
    digest.update(np.asarray(numbers, dtype="<i8").tobytes())
    for name, lengths in (("cell", cell), ("positions", positions)):
        array = np.asarray(lengths, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != 3 or not np.isfinite(array).all():
            raise InputError(name, "finite lengths of shape (…, 3)", f"shape {array.shape}", "check the structure")
        digest.update(np.rint(array / POSITION_RESOLUTION_A).astype("<i8").tobytes())
    return digest.hexdigest()[:24]


def _from_environment(name: str, code: DftCode) -> dict[str, Any]:
    """The site's parameters: DYNFT_VASP_NCORE is `ncore` of VASP. Numbers and booleans as in JSON, else text."""
    found: dict[str, Any] = {}
    for parameter in code.site:
        text = os.environ.get(f"DYNFT_{name}_{parameter}".upper())
        if text:
            try:
                found[parameter] = json.loads(text)
            except ValueError:
                found[parameter] = text
    return found


def _factory(name: str) -> Callable[..., Any]:
    """The class or function behind an ASE name or 'module:callable'."""
    if ":" in name:
        return _imported(name)
    known = {*ase_calculators.names, *ase_calculators.external_calculators, *embedded_potentials()}
    if name not in known:
        remedy = nearest(name, known, "for example 'tersoff-si', 'vasp' or 'module:callable'", cutoff=0.5)
        expected = "a calculator that dynft or ASE knows, or 'module:callable'"
        raise InputError("reference.calculator", expected, f"'{name}'", remedy)
    try:
        factory: Callable[..., Any] = ase_calculators.get_calculator_class(name)
    except (ImportError, AttributeError) as error:
        raise _not_installed(name, error) from error
    return factory


def _imported(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise _not_installed(name, error) from error
    except (AttributeError, ValueError) as error:
        expected = f"a module that has {attribute or 'the callable'}"
        raise InputError("reference.calculator", expected, f"'{name}' ({error})", "check its name") from error
    except Exception as error:  # the user's module runs while it is imported
        raise InputError(
            "reference.calculator",
            "a module that can be imported",
            f"'{module_name}', which raises {type(error).__name__}: {error}",
            "mend the module",
        ) from error
    if not callable(found):
        got = f"'{name}', which is no callable"
        raise InputError("reference.calculator", "'module:callable'", got, "name a function or class")
    callable_found: Callable[..., Any] = found
    return callable_found


def _takes_directory(factory: Callable[..., Any]) -> bool:
    """True when it names the argument, or is an ASE calculator class that passes it on."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # a class written in C without a signature
        return False
    if "directory" in parameters:
        return True
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return passes_on and isinstance(factory, type) and issubclass(factory, ase_calculators.BaseCalculator)


def _not_installed(name: str, error: Exception) -> InputError:
    where = "install its package in this environment, or put its module on PYTHONPATH"
    return InputError("reference.calculator", "an installed calculator", f"'{name}' ({error})", where)
