"""A cheap potential's force constants as prior mean of a force field, where the evidence is for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.baseline import load_baseline
from dynft_core.models.force_constants.learning import learn, prior_groups
from dynft_core.models.protocol import Baseline
from dynft_core.regression.control_variate import CheapSums, Control, Ratios, power_whitening
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CheapPrior:
    """What a force field knows of a cheap potential.

    Attributes:
        description: what makes the potential again (see `Baseline.describe`).
        mean: (M,) its force constants φ_c in the same expansion.
        like, supercell: structures (S, N, 3) Å of the labels, some of them where they are many, for the next such fit.
        n_structures: how many, labels or not, were known when φ_c was fitted.
        sums: over the labels.
        ratios: of the fit; None: the evidence is for the fit without it.
        deviation: prior of what the cheap potential leaves: 'power', or that of the fit.
        gain: log evidence less that of the fit without it.
        truncation_eV_A: RMS of ρ_r r over the labels; scale: what errors are multiplied by (see `fitting.widened`).
    """

    description: str
    mean: Floats
    like: Floats
    supercell: Supercell
    n_structures: int
    sums: CheapSums
    ratios: Ratios | None = None
    deviation: str = ""
    gain: float = 0.0
    truncation_eV_A: float = 0.0
    scale: float = 1.0

    @property
    def potential(self) -> Baseline:
        """The cheap potential.

        Raises:
            FileFormatError: it cannot be made here.
        """
        found = load_baseline(self.description)
        assert found is not None
        return found

    def describe(self, orders: Sequence[int]) -> dict[str, Any]:
        """The facts as plain values: what the potential is, ρ by order and their errors, errors in eV/Å."""
        settings = json.loads(self.description.partition(" ")[2] or "{}")
        found = {"potential": settings.get("calculator", self.description), "used": self.ratios is not None}
        if self.ratios is None:
            return found
        names = [*map(str, orders), "residual"]
        values = (*self.ratios.orders, self.ratios.residual)
        return found | {
            "ratios": dict(zip(names, values, strict=True)),
            "ratio_errors": dict(zip(names, self.ratios.errors, strict=True)),
            "deviation": self.deviation,
            "log_evidence_gain": self.gain,
            "truncation_eV_A": self.scale * self.truncation_eV_A,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds beside `description` and `deviation`; `of` reads it back."""
        found = {
            "mean": self.mean,
            "moment": self.sums.moment,
            "numbers": np.array(
                [self.n_structures, self.sums.cross, self.sums.square, self.gain, self.truncation_eV_A, self.scale]
            ),
            "like": self.like,
            **self.supercell.describe(),
        }
        if self.ratios is not None:
            found["ratios"] = np.array([*self.ratios.orders, self.ratios.residual, *self.ratios.errors])
        return found

    @classmethod
    def of(cls, crystal: Crystal, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> CheapPrior:
        """What the file of a force field of a crystal holds.

        Raises:
            KeyError, ValueError: something is missing.
        """
        n_structures, cross, square, gain, truncation, scale = (float(x) for x in arrays["numbers"])
        ratios = None
        if "ratios" in arrays:
            values = tuple(float(x) for x in arrays["ratios"])
            count = len(values) // 2
            ratios = Ratios(values[: count - 1], values[count - 1], values[count:])
        return cls(
            attributes["cheap"],
            arrays["mean"],
            arrays["like"],
            Supercell(crystal, arrays["matrix"], arrays["basis_index"], arrays["cells"]),
            round(n_structures),
            CheapSums(arrays["moment"], cross, square),
            ratios,
            attributes["cheap_deviation"],
            gain,
            truncation,
            scale,
        )


def learn_with(
    basis: ForceConstantBasis,
    statistics: Statistics,
    cheap: CheapPrior | None,
    prior: Prior,
    noise_floor_eV_A: float,
    start: Hyperparameters | None = None,
) -> tuple[Posterior, CheapPrior | None]:
    """The posterior of the largest evidence, with the cheap potential's force constants as prior mean or without.

    What they leave has the `prior` of the fit, or one that goes as their own size in each class.
    """
    plain = learn(basis, statistics, prior, noise_floor_eV_A, start)
    if cheap is None:
        return plain, None
    groups, parts = prior_groups(basis, "per_order"), tuple(basis.slices.values())
    control = Control(statistics, cheap.sums, cheap.mean, parts)
    blocks = power_whitening(basis.prior_classes(), cheap.mean)

    def by_power(sums: Statistics) -> Posterior:
        found = maximise_evidence(sums.transformed(blocks), groups, noise_floor_eV_A)
        return Posterior.of(groups, found, sums, blocks)

    def by_prior() -> Callable[[Statistics], Posterior]:
        latest: list[Hyperparameters] = []

        def found(sums: Statistics) -> Posterior:
            posterior = learn(basis, sums, prior, noise_floor_eV_A, latest[-1] if latest else None)
            latest.append(posterior.hyperparameters)
            return posterior

        return found

    best, found = plain, replace(cheap, ratios=None, deviation="", gain=0.0, truncation_eV_A=0.0, scale=1.0)
    for name, learnt in (("power", by_power), (prior, by_prior())):
        posterior, ratios = control.fitted(learnt)
        if posterior.log_evidence > best.log_evidence:
            truncation = abs(ratios.residual) * np.sqrt(control.residual_square / statistics.n_rows)
            gain = posterior.log_evidence - plain.log_evidence
            best = posterior
            found = replace(found, ratios=ratios, deviation=name, gain=gain, truncation_eV_A=float(truncation))
    return best, found
