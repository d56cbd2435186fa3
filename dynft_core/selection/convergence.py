"""Whether a campaign is done: would more labels still help, and is the error that it claims the true one?

Two questions that the paper answers by ε_B and β^(-1/2) together (section III B), and one that it leaves open: whether
both are true. Audits answer that. Each answer is a check with a value and a bound; all must hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynft_core.selection.forecast import labels_needed


@dataclass(frozen=True)
class ConvergenceSettings:
    """When a campaign counts as converged; the keys of [convergence] in the campaign file.

    Attributes:
        min_walk_ps, max_walk_ps: walked time that each walker needs; after which the campaign stops unconverged.
        audits: fewest audits that must agree with their prediction; the latest half of them is judged, if that is more.
        audit_ratio: bounds on (rms of their errors) / (rms of their predictions), widened by two standard errors.
        max_error_change: largest relative change of β^(-1/2) over the latest `audits` labels.
        max_bayesian_share: largest μ_k[ε_B] β^(1/2).
        property_name, property_tolerance, property_unit: a property whose error bar decides, in the place of the two
            before, whether more labels would help.
    """

    min_walk_ps: float = 2.0
    max_walk_ps: float = 50.0
    audits: int = 4
    audit_ratio: tuple[float, float] = (0.85, 1.18)
    max_error_change: float = 0.1
    max_bayesian_share: float = 0.5
    property_name: str = ""
    property_tolerance: float = 0.0
    property_unit: str = ""


@dataclass(frozen=True)
class FitPoint:
    """β^(-1/2) (eV/Å) of the fit to `n_labels` labels, and the largest error bar of the property that decides."""

    n_labels: int
    beta_inv_sqrt_eV_A: float
    property_error: float = math.nan


@dataclass(frozen=True)
class AuditScore:
    """An audit's true force error (rms, eV/Å), and sqrt(1/β + ε_B²) predicted before its label was known."""

    rmse_eV_A: float
    predicted_eV_A: float


@dataclass(frozen=True)
class WalkerProgress:
    """How far a walker is: walked time, and μ_k[ε_B] over its window (nan while that is empty)."""

    walker: int
    walked_ps: float
    mean_error_eV_A: float


@dataclass(frozen=True)
class ConvergenceRecord:
    """What a campaign knows about itself; fits and audits in the order they were made."""

    fits: tuple[FitPoint, ...]
    audits: tuple[AuditScore, ...]
    walkers: tuple[WalkerProgress, ...]


@dataclass(frozen=True)
class Check:
    """One condition: its name with the unit, what came, what is asked for. `value` is nan where nothing came yet."""

    name: str
    value: float
    bound: str
    held: bool

    def __str__(self) -> str:
        value = "not known yet" if math.isnan(self.value) else f"{self.value:.3g}"
        return f"{self.name} {value} ({self.bound})"


@dataclass(frozen=True)
class Verdict:
    """`converged`: all checks held. `stalled`: they did not, and every walker has walked max_walk_ps.

    Attributes:
        sentence: both in words, for the user.
    """

    converged: bool
    stalled: bool
    checks: tuple[Check, ...]
    sentence: str


def assess(record: ConvergenceRecord, settings: ConvergenceSettings) -> Verdict:
    """Judge a campaign by its record. What is not known yet does not hold."""
    latest = judged_audits(record, settings)
    low, high = settings.audit_ratio
    widening = 1 + 2 * ratio_error(latest)
    checks = (
        _check("walked time of each walker, ps,", shortest_walk_ps(record), low=settings.min_walk_ps),
        _check("number of audits", float(len(record.audits)), low=settings.audits),
        _check(
            f"error / prediction of the latest {len(latest)} audits",
            _audit_ratio(latest),
            low=low / widening,
            high=high * widening,
        ),
        *_enough_labels(record, settings),
    )
    converged = all(check.held for check in checks)
    stalled = not converged and shortest_walk_ps(record) >= settings.max_walk_ps
    return Verdict(converged, stalled, checks, _sentence(converged, stalled, checks, settings))


def _enough_labels(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[Check, ...]:
    """Whether more labels would help: judged by the property that the user wants, or by β^(-1/2) and μ_k."""
    if not settings.property_name:
        return (
            _check(
                f"change of β^(-1/2) over the latest {settings.audits} labels",
                _error_change(record.fits, settings.audits),
                high=settings.max_error_change,
            ),
            _check("largest μ_k[ε_B] / β^(-1/2)", _bayesian_share(record), high=settings.max_bayesian_share),
        )
    name = f"largest error bar of {settings.property_name}, {settings.property_unit},"
    error = record.fits[-1].property_error if record.fits else math.nan
    check = _check(name, error, high=settings.property_tolerance)
    needed = property_labels_needed(record, settings)
    if not check.held and not math.isnan(needed):
        check = replace(check, bound=f"{check.bound}; about {needed:.0f} more labels")
    return (check,)


def property_labels_needed(record: ConvergenceRecord, settings: ConvergenceSettings) -> float:
    """Labels that the property's error bar still needs, by the trend of the fits so far; nan: cannot be told."""
    counts, errors = [f.n_labels for f in record.fits], [f.property_error for f in record.fits]
    return labels_needed(counts, errors, settings.property_tolerance) if settings.property_name else math.nan


def predicted_rmse(record: ConvergenceRecord) -> float:
    """The error that the campaign claims, sqrt(1/β + μ_k²), eV/Å, μ_k² averaged over walkers; nan before that."""
    if not record.fits or not record.walkers:
        return math.nan
    mu = _rms([w.mean_error_eV_A for w in record.walkers])
    return math.hypot(record.fits[-1].beta_inv_sqrt_eV_A, mu)


def audited_rmse(record: ConvergenceRecord, settings: ConvergenceSettings) -> float:
    """The error that the latest audits found, rms, eV/Å. nan before the first."""
    return _rms([audit.rmse_eV_A for audit in judged_audits(record, settings)])


def judged_audits(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[AuditScore, ...]:
    """The latest half of all audits, at least `settings.audits`: early ones judged a force field that is gone."""
    return record.audits[-max(settings.audits, len(record.audits) // 2) :]


MAX_RATIO_ERROR = 0.25
"""A scatter of the audits beyond this widens the bounds no further: it would let anything pass."""


def ratio_error(audits: Sequence[AuditScore]) -> float:
    """Relative standard error of (rms of the errors) / (rms of the predictions), from the audits' own scatter.

    Structures differ: their errors scatter by a fifth and more about the mean, so a few audits cannot agree better.
    """
    squares = [(a.rmse_eV_A / a.predicted_eV_A) ** 2 for a in audits if a.predicted_eV_A > 0]
    if len(squares) < 2:
        return MAX_RATIO_ERROR
    mean = sum(squares) / len(squares)
    variance = sum((s - mean) ** 2 for s in squares) / (len(squares) - 1)
    return min(0.5 * math.sqrt(variance / len(squares)) / mean, MAX_RATIO_ERROR) if mean else MAX_RATIO_ERROR


def shortest_walk_ps(record: ConvergenceRecord) -> float:
    """Walked time of the walker that has walked least, ps."""
    return min((w.walked_ps for w in record.walkers), default=0.0)


def _audit_ratio(audits: Sequence[AuditScore]) -> float:
    predicted = _rms([a.predicted_eV_A for a in audits])
    return _rms([a.rmse_eV_A for a in audits]) / predicted if predicted > 0 else math.nan


def _error_change(fits: Sequence[FitPoint], n_labels: int) -> float:
    """Largest |β^(-1/2) / its latest value - 1| over the latest `n_labels` labels; nan before there are as many."""
    if not fits:
        return math.nan
    latest = fits[-1]
    before = [f for f in fits if f.n_labels <= latest.n_labels - n_labels]
    if not before or not latest.beta_inv_sqrt_eV_A > 0:
        return math.nan
    since = [before[-1], *(f for f in fits if f.n_labels > latest.n_labels - n_labels)]
    return max(abs(f.beta_inv_sqrt_eV_A / latest.beta_inv_sqrt_eV_A - 1) for f in since)


def _bayesian_share(record: ConvergenceRecord) -> float:
    errors = [w.mean_error_eV_A for w in record.walkers]
    if not record.fits or not errors or any(math.isnan(e) for e in errors):
        return math.nan
    scale = record.fits[-1].beta_inv_sqrt_eV_A
    return max(errors) / scale if scale > 0 else math.nan


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values)) if values else math.nan


def _check(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> Check:
    """Comparisons with nan are false: what is not known does not hold."""
    if math.isinf(high):
        bound = f"at least {low:g}"
    elif math.isinf(low):
        bound = f"at most {high:g}"
    else:
        bound = f"between {low:.3g} and {high:.3g}"
    return Check(name, value, bound, low <= value <= high)


def _sentence(converged: bool, stalled: bool, checks: Sequence[Check], settings: ConvergenceSettings) -> str:
    if converged:
        return "converged: " + "; ".join(str(check) for check in checks)
    missing = "; ".join(str(check) for check in checks if not check.held)
    if stalled:
        return f"not converged after the longest walk, {settings.max_walk_ps:g} ps: {missing}"
    return f"not converged yet: {missing}"
