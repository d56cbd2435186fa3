"""The file of a force field: its basis, once for all versions or with it, and its posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.regression.decaying_prior import whitening
from dynft_core.regression.evidence import Decay, Hyperparameters
from dynft_core.regression.left_out import LeftOut
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics, pack_lower, unpack_lower
from dynft_core.storage.segments import Segment, read_segment, write_segment
from dynft_core.symmetry.basis import ForceConstantBasis

Floats = NDArray[np.float64]
BASIS_KIND = "basis"


def posterior_contents(
    posterior: Posterior, basis: ForceConstantBasis, whitened: bool
) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Arrays and attributes of a posterior of a basis' parameters; `posterior_of` reads them back.

    `whitened`: its whitening is written too, as it does not follow from the decay of the prior.
    """
    sums, counts = posterior.statistics.packed()
    arrays = {"mean": posterior.mean, "groups": posterior.groups, "alpha": np.array(posterior.alpha), **sums}
    if posterior.pending is not None:
        arrays["pending_gram"] = pack_lower(posterior.pending)
    decay = posterior.hyperparameters.decay
    if decay is not None:
        arrays["decay"] = np.array([*decay.per_A, decay.per_body])
    if decay is None or whitened:
        blocks = zip(basis.cutoffs, posterior.whitening or (), strict=False)
        arrays |= {f"whitening.{n}": block for n, block in blocks}
    return arrays, {"beta": posterior.beta, "log_evidence": posterior.log_evidence, **counts}


def posterior_of(segment: Segment, basis: ForceConstantBasis, pending: bool) -> Posterior:
    """What `posterior_contents` gave; `pending`: with the pending structures in its covariance.

    Raises:
        KeyError, ValueError: something is missing, or sizes do not agree.
    """
    a, attributes = segment.arrays, segment.attributes
    statistics = Statistics.unpacked(a, attributes)
    waiting = unpack_lower(a["pending_gram"]) if pending and "pending_gram" in a else None
    *per_A, per_body = (float(x) for x in a.get("decay", [0.0]))
    decay = Decay(tuple(per_A), per_body) if "decay" in a else None
    alpha = tuple(float(x) for x in a["alpha"])
    found = Hyperparameters(alpha, float(attributes["beta"]), float(attributes["log_evidence"]), decay)
    blocks = tuple(a[f"whitening.{n}"] for n in basis.cutoffs if f"whitening.{n}" in a) or None
    if blocks is None and decay is not None:
        blocks = whitening(basis.prior_classes(), decay)
    return Posterior(a["groups"], found, statistics, a["mean"], waiting, blocks)


def basis_path(force_field: Path, content_hash: str) -> Path:
    """Where the basis of a campaign's force fields lies beside them."""
    return force_field.parent / "basis" / f"{content_hash}.h5"


def keep_basis(basis: ForceConstantBasis, path: Path) -> None:
    """Write a basis, if nobody has: whoever does so at the same time writes the same."""
    if not path.exists():
        write_segment(path, basis.arrays(), {"kind": BASIS_KIND})


def basis_beside(segment: Segment, path: Path) -> ForceConstantBasis | None:
    """The basis that the force field in `path` names; None: the file holds its own.

    Raises:
        FileFormatError: it is missing, damaged or of a newer format.
    """
    if "basis.cell" in segment.arrays or "basis_hash" not in segment.attributes:
        return None
    beside = basis_path(path, segment.attributes["basis_hash"])
    try:
        return _read_basis(beside.absolute())
    except FileFormatError as error:
        raise FileFormatError(
            str(beside),
            f"the basis of '{path.name}'",
            error.got,
            "copy the folder 'basis' together with the force field, or take the campaign's force_field.h5",
        ) from error


@lru_cache(maxsize=2)
def _read_basis(path: Path) -> ForceConstantBasis:
    """A basis, kept for the next version of the force field: a file named by its hash never changes."""
    return ForceConstantBasis.from_arrays(read_segment(path, BASIS_KIND).arrays)


def left_out_of(arrays: Mapping[str, Floats]) -> LeftOut | None:
    """The leave-one-out errors that a posterior was widened by, if it was."""
    if "left_out" not in arrays:
        return None
    values = [float(x) for x in arrays["left_out"]]
    if len(values) < 8:  # of a file that does not tell how the structures scatter
        found = LeftOut(values[0], values[1], n_rows=round(values[2]))
        return replace(found, factor=found.ratio)
    square, expected, square_2, product, expected_2, structures, rows, factor = values
    return LeftOut(square, expected, square_2, product, expected_2, round(structures), round(rows), factor)


def under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
