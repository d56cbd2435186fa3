"""Force constants of anharmonic crystals by Bayesian regression, and molecular dynamics that knows its own error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynft_core.lattice.crystal import Crystal
    from dynft_core.lattice.supercell import Supercell
    from dynft_core.models.force_constants.fitting import fit
    from dynft_core.models.force_constants.force_field import ForceField
    from dynft_core.models.registry import load_model
    from dynft_core.symmetry.basis import ForceConstantBasis

__all__ = ["Crystal", "ForceConstantBasis", "ForceField", "Supercell", "fit", "load_model"]

_HOMES = {
    "Crystal": "dynft_core.lattice.crystal",
    "Supercell": "dynft_core.lattice.supercell",
    "ForceConstantBasis": "dynft_core.symmetry.basis",
    "ForceField": "dynft_core.models.force_constants.force_field",
    "fit": "dynft_core.models.force_constants.fitting",
    "load_model": "dynft_core.models.registry",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `dynft --help` must not wait for scipy and numba."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dynft_core' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
