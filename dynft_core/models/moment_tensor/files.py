"""The file of a moment tensor model: its basis, the sums of its labels, its posterior."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.models.moment_tensor.extrapolation import Extrapolation
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.models.moment_tensor.products import Products
from dynft_core.models.moment_tensor.rows import KINDS
from dynft_core.models.registry import KIND
from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.left_out import LeftOut
from dynft_core.regression.maxvol import ActiveSet
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics, pack_lower, unpack_lower
from dynft_core.storage.segments import Attribute, read_segment, write_segment

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contents:
    """What is kept of a model; as its attributes."""

    basis: Basis
    kinds: tuple[Statistics, Statistics, Statistics]
    noises: tuple[float, float, float]
    posterior: Posterior
    labels: tuple[str, ...]
    pending: tuple[str, ...]
    left_out: tuple[LeftOut, LeftOut, LeftOut] | None
    extrapolation: Extrapolation | None


def write(path: str | Path, contents: Contents) -> str:
    """Write a model whole or not at all; returns the file's hash."""
    basis, posterior = contents.basis, contents.posterior
    arrays: dict[str, NDArray[np.generic]] = {
        "species": np.array(basis.species), "radial": basis.radial.coefficients, "basic": basis.products.basic,
        "factors": basis.products.factors, "coefficients": basis.products.coefficients,
        "functions": basis.products.functions, "noises": np.array(contents.noises),
        "alpha": np.array(posterior.alpha), "mean": posterior.mean,
    }  # fmt: skip
    attributes: dict[str, Attribute] = {
        "kind": KIND, "family": "moment_tensor", "labels": contents.labels, "pending": contents.pending,
        "min_distance_A": basis.radial.min_distance_A, "cutoff_A": basis.radial.cutoff_A,
        "log_evidence": posterior.log_evidence,
    }  # fmt: skip
    for name, kind in zip(KINDS, contents.kinds, strict=True):
        sums, counts = kind.packed()
        arrays |= {f"{name}.{key}": value for key, value in sums.items()}
        attributes |= {f"{name}.{key}": value for key, value in counts.items()}
    if posterior.pending is not None:
        arrays["pending_gram"] = pack_lower(posterior.pending)
    if contents.left_out is not None:
        arrays["left_out"] = np.array([astuple(x) for x in contents.left_out])
    if (own := contents.extrapolation) is not None:
        arrays |= {"scales": own.scales, "active_rows": own.active.rows, "active_sources": own.active.sources}
    return write_segment(path, arrays, attributes)


def read(path: Path, pending: bool) -> Contents:
    """What `write` wrote; `pending`: with the pending structures in the covariance.

    Raises:
        FileFormatError: missing, damaged or of another kind.
    """
    segment = read_segment(path, KIND)
    a, own = segment.arrays, segment.attributes
    try:
        products = Products(a["basic"], a["factors"], a["coefficients"], a["functions"])
        radial = RadialFunctions(own["min_distance_A"], own["cutoff_A"], a["radial"])
        basis = Basis(tuple(int(z) for z in a["species"]), radial, products)
        parts = [
            Statistics.unpacked(
                {key: a[f"{name}.{key}"] for key in ("gram", "moment")},
                {key: own[f"{name}.{key}"] for key in ("square", "n_rows", "n_structures")},
            )
            for name in KINDS
        ]
        kinds = parts[0], parts[1], parts[2]
        energy, forces, virial = (float(x) for x in a["noises"])
        noises = energy, forces, virial
        hyperparameters = Hyperparameters(tuple(a["alpha"].tolist()), forces**-2, float(own["log_evidence"]))
        waiting = unpack_lower(a["pending_gram"]) if pending and "pending_gram" in a else None
        posterior = Posterior(
            np.arange(len(a["mean"])), hyperparameters, in_units_of_forces(kinds, noises), a["mean"], waiting
        )
    except (KeyError, ValueError) as error:
        raise FileFormatError(
            str(path), "a moment tensor model", f"one without what it needs ({error})", "fit it again"
        ) from error
    names = tuple(own["pending"]) if waiting is not None else ()
    rows = a["left_out"].tolist() if "left_out" in a else []
    left_out = [
        LeftOut(square, expected, square_2, product, expected_2, round(count), round(n), factor)
        for square, expected, square_2, product, expected_2, count, n, factor in rows
    ] or None
    found = None if left_out is None else (left_out[0], left_out[1], left_out[2])
    active = None
    if "active_rows" in a:
        rows = a["active_rows"]
        active = Extrapolation(a["scales"], ActiveSet(rows, np.linalg.inv(rows), a["active_sources"]))
    return Contents(basis, kinds, noises, posterior, tuple(own["labels"]), names, found, active)


def in_units_of_forces(
    kinds: tuple[Statistics, Statistics, Statistics], noises: tuple[float, float, float]
) -> Statistics:
    """Sums over all rows, those of energies and virials scaled to the noise of the forces."""
    total = Statistics.empty(len(kinds[0].moment))
    for kind, noise in zip(kinds, noises, strict=True):
        total += kind.weighted((noises[1] / noise) ** 2)
    return total
