"""Potentials that compute inside the process: for trying things out, for rehearsals and for tests."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ase.calculators.calculator

from dynft_core.reference.bonds import AnharmonicBonds

ase_calculators: Any = ase.calculators.calculator


BONDS_PARAMETERS = frozenset({"cell", "scaled_positions", "numbers", "stiffness_eV_A2"})


@dataclass(frozen=True)
class EmbeddedPotential:
    """A potential that computes inside the process: no files, no commands, milliseconds a structure.

    Attributes:
        make: builds the calculator from the parameters.
        parameters: the parameter names it accepts.
        elements: the species it knows; None: any.
        tried: it is of one crystal: whether it is the campaign's shows when the perfect supercell is computed.
    """

    make: Callable[..., Any]
    parameters: frozenset[str] = frozenset()
    elements: frozenset[str] | None = None
    tried: bool = False


@cache
def embedded_potentials() -> Mapping[str, EmbeddedPotential]:
    """The embedded potentials by name. ASE imports the module of a calculator when it is first asked for."""
    emt, lj, morse = (ase_calculators.get_calculator_class(name) for name in ("emt", "lj", "morse"))
    emt_elements = importlib.import_module("ase.calculators.emt").parameters
    return {
        "tersoff-si": EmbeddedPotential(_tersoff, elements=frozenset({"C", "Si"})),
        "stillinger-weber-si": EmbeddedPotential(_stillinger_weber, elements=frozenset({"Si"})),
        "emt": EmbeddedPotential(emt, frozenset(emt.default_parameters), frozenset(emt_elements)),
        "lj": EmbeddedPotential(lj, frozenset(lj.default_parameters)),
        "morse": EmbeddedPotential(morse, frozenset(morse.default_parameters)),
        "bonds": EmbeddedPotential(AnharmonicBonds, BONDS_PARAMETERS, tried=True),
        "force_field": EmbeddedPotential(_force_field, frozenset({"path"}), tried=True),
    }


def _force_field(path: str) -> Any:
    from dynft_core.models.force_constants.force_field import ForceField  # not at the top: numba comes with it

    return ForceField.load(path).calculator()


def _tersoff() -> Any:
    from matscipy.calculators.manybody.explicit_forms import TersoffBrenner
    from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Tersoff_PRB_39_5566_Si_C

    return _quiet_manybody()(**TersoffBrenner(Tersoff_PRB_39_5566_Si_C))


def _stillinger_weber() -> Any:
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

    return _quiet_manybody()(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


@cache
def _quiet_manybody() -> Any:
    """matscipy's calculator without its warning about np.where, which concerns values that it does not use."""
    from matscipy.calculators.manybody import Manybody

    class QuietManybody(Manybody):  # type: ignore[misc]
        def calculate(self, *args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="'where' used without 'out'")
                return super().calculate(*args, **kwargs)

    return QuietManybody
