"""What dynft knows of a DFT code beyond the ASE calculator of that name: presets, checks before and after a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.reference.failures import Message

Parameters = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Report:
    """What the files of a finished calculation say of it, read anew from them.

    Attributes:
        positions: (N, 3) Å, in the order of the structure sent and by its images.
        cell: (3, 3) Å.
        numbers: (N,) atomic numbers.
        version: of the code; all labels of a campaign must have the same.
        note: one sentence for the user about a label that is accepted all the same; "" for none.
        tensors: further results by name: 'born_charges' (N, 3, 3) e, 'dielectric' (3, 3).
        net_force: (3,) eV/Å, the sum of the forces that the code took away from them.
    """

    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    numbers: NDArray[np.int64]
    version: str = ""
    note: str = ""
    tensors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    net_force: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class Sought:
    """What a code needs on this machine; `found`: what or where it is, "" for nowhere; `remedy`: what to do then."""

    what: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Difference:
    """One setting that is not the campaign's.

    Attributes:
        name: of the setting, as `--allow` takes it.
        theirs: its value there; ours: the campaign's.
        preset: only dynft's preset for accuracy stands against it, not the campaign file.
    """

    name: str
    theirs: str
    ours: str
    preset: bool = False

    def __str__(self) -> str:
        return f"{self.name} = {self.theirs}, the campaign has {self.ours}"


@dataclass(frozen=True)
class DftCode:
    """One DFT code. The functions get the complete parameters: `defaults` with the user's in their place.

    Attributes:
        make: the ASE calculator that works in a folder.
        defaults: parameters for accurate forces. They count in the hash of the settings.
        site: names of parameters that change no force (how the code is started, how it is spread over cores). They do
            not count in the hash and may come from the environment, as DYNFT_VASP_NCORE for `ncore` of VASP.
        check: before a campaign: refuses (InputError) what cannot work for a supercell; returns notes for the user.
        potentials: name and hash of each pseudopotential file that a supercell needs.
        report: after a job, from its folder, the calculator and the structure sent: refuses (LabelError) what is
            incomplete or was computed with other settings.
        other_cycle: changes for the second attempt at a label: another way through the self-consistency cycle to the
            same forces.
        printed: files in the folder with what the code printed; that with its errors first.
        messages: what it prints when a calculation is of no use.
        needs: what it needs on this machine, sought.
    """

    make: Callable[[Parameters, Path], Any]
    defaults: Parameters
    site: frozenset[str]
    check: Callable[[Parameters, Atoms], list[str]]
    potentials: Callable[[Parameters, Atoms], dict[str, str]]
    report: Callable[[Path, Any, Atoms], Report]
    other_cycle: Callable[[Parameters], dict[str, Any]]
    printed: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    needs: Callable[[], tuple[Sought, ...]] = tuple


def is_number(value: object) -> TypeGuard[float]:
    """Whether a parameter is a finite number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def bad_parameter(key: str, expected: str, got: str, remedy: str) -> InputError:
    """The error of a parameter of the calculator, by its name in the campaign file."""
    return InputError(f"reference.parameters.{key}", expected, got, remedy)
