"""Whether a campaign is done: would more labels still help, and is the error that it claims the true one?

Two questions that the paper answers by ε_B and β^(-1/2) together (section III B), and one that it leaves open: whether
both are true. Audits answer that, each against the prediction of all other labels. Each answer is a check with a value
and a bound; all must hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynft_core.assessment.audits import AuditTest, as_walked, audit_test, audits_needed
from dynft_core.assessment.forecast import labels_needed
from dynft_core.assessment.scores import rms
from dynft_core.assessment.verdict import Check, Verdict, sentence_of


@dataclass(frozen=True)
class ConvergenceSettings:
    """When a campaign counts as converged; the keys of [convergence] in the campaign file.

    Attributes:
        min_walk_ps, max_walk_ps: walked time that each walker needs; after which the campaign stops unconverged.
        quiet_ps: time for which no walker must have been flagged.
        audits: fewest audits.
        audit_ratio, certainty: bounds on (true error) / (predicted error), and how certain it must be that it is
            within them.
        max_error_eV_A: largest predicted error, sqrt(1/β + μ_k²); infinite where none is asked for.
        recalibrate: multiply predicted errors by the scale that the audits found; `audit_ratio` then bounds how well
            this scale is known.
        scale_bounds: bounds on that scale, beyond which the prediction is not credible.
        negligible_eV_A: an error that is certainly below it need be known within NEGLIGIBLE_RATIO only.
        noise_floor_eV_A: least β^(-1/2) of a fit; errors that lie below are no fault of a prediction that may not.
        max_error_change: largest relative change of β^(-1/2) over the latest LATEST_LABELS labels.
        max_bayesian_share: largest μ_k[ε_B] β^(1/2).
        property_name, property_tolerance, property_unit: a property whose error bar decides, in the place of the two
            before, whether more labels would help.
    """

    min_walk_ps: float = 2.0
    max_walk_ps: float = 50.0
    quiet_ps: float = 0.0
    audits: int = 4
    audit_ratio: tuple[float, float] = (0.87, 1.12)
    certainty: float = 0.95
    recalibrate: bool = True
    scale_bounds: tuple[float, float] = (0.67, 1.5)
    negligible_eV_A: float = 2e-4
    noise_floor_eV_A: float = 0.0
    max_error_eV_A: float = math.inf
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
    """An audit's true force error (rms, eV/Å), and sqrt(1/β + ε_B²) predicted by the newest force field without it.

    `difficulty`: how hard the structure is for the model, in any unit (of force constants: the highest order's force).
    """

    rmse_eV_A: float
    predicted_eV_A: float
    temperature_K: float = math.nan
    difficulty: float = math.nan


@dataclass(frozen=True)
class WalkerProgress:
    """How far a walker is: walked time, μ_k[ε_B] over its window (nan while that is empty), and the time since its
    latest flag."""

    walker: int
    walked_ps: float
    mean_error_eV_A: float
    quiet_ps: float = math.inf


@dataclass(frozen=True)
class ConvergenceRecord:
    """What a campaign knows about itself; fits and audits in the order they were made.

    `walked_difficulty`: as in an audit, of other structures of the walks; `others`: labels that are no audits;
    `explained`: part of the mean square error that a larger model explains, whose expectation the difficulty is then.
    """

    fits: tuple[FitPoint, ...]
    audits: tuple[AuditScore, ...]
    walkers: tuple[WalkerProgress, ...]
    walked_difficulty: tuple[float, ...] = ()
    others: tuple[AuditScore, ...] = ()
    explained: float = 0.0


def assess(record: ConvergenceRecord, settings: ConvergenceSettings, whole: ConvergenceRecord | None = None) -> Verdict:
    """Judge a campaign by its record. What is not known yet does not hold.

    `whole`: the record of all groups of walkers, where `record` is of one. The scale of the predicted errors must be
    sound over all of them; that of one group says how its temperature differs from the others, as β is one for all.
    """
    test = audits_test(record, settings)
    waits = (
        _check("walked time of each walker, ps", shortest_walk_ps(record), low=settings.min_walk_ps),
        _check("time without a flag, ps", quiet_ps(record), low=settings.quiet_ps),
    )
    labels = (
        _check("number of audits", float(len(record.audits)), low=settings.audits),
        *_scale_check(whole or record, settings),
        _audit_check(test, record, settings),
        *_enough_labels(record, settings),
        *_small_enough(record, settings),
    )
    checks = (*waits, *labels)
    converged = all(check.held for check in checks)
    stalled = not converged and shortest_walk_ps(record) >= settings.max_walk_ps
    wanted = 0
    if waits[0].held and not all(check.held for check in labels) and len(record.audits) < most_audits(settings):
        needed = audits_needed(test, asked_ratio(record, settings), settings.certainty)
        wanted = int(max(1, settings.audits - len(record.audits), 0 if math.isnan(needed) else needed))
        wanted = min(wanted, most_audits(settings))
    return Verdict(converged, stalled, checks, sentence_of(converged, stalled, checks, settings.max_walk_ps), (wanted,))


def _small_enough(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[Check, ...]:
    """The predicted error, where the user has said how large it may be."""
    if math.isinf(settings.max_error_eV_A):
        return ()
    predicted = error_interval(record, settings)[1]
    return (_check("predicted error, meV/Å", 1e3 * predicted, high=1e3 * settings.max_error_eV_A),)


def _scale_check(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[Check, ...]:
    """Whether the scale that the audits found is one that a sound prediction needs."""
    if not settings.recalibrate:
        return ()
    test, (least, most) = recalibration_test(record), settings.scale_bounds
    if record.fits and record.fits[-1].beta_inv_sqrt_eV_A <= AT_THE_FLOOR * settings.noise_floor_eV_A:
        least = 0.0
    check = _check("scale of the predicted errors", test.ratio, least, most)
    if check.held or not test.n_audits:
        return (check,)
    return (replace(check, bound=f"{check.bound}; {NOT_CREDIBLE}"),)


AT_THE_FLOOR = 1 + 1e-6
"""Times the noise floor up to which β^(-1/2) is at it."""
NOT_CREDIBLE = (
    "the prediction is not credible: more labels (convergence.max_walk_ps), another prior or an expansion that suits "
    "the crystal better (expansion.prior, expansion.cutoffs_A) is needed"
)


def _audit_check(test: AuditTest, record: ConvergenceRecord, settings: ConvergenceSettings) -> Check:
    """Whether the audits tell the true error well enough: by themselves, or the scale of the predicted ones."""
    low, high = asked_ratio(record, settings)
    needed = audits_needed(test, (low, high), settings.certainty)
    more = f"; about {needed:.0f} more audit{'s' if needed > 1 else ''}" if needed > 0 else ""
    bound = f"between {low:.3g} and {high:.3g} with {settings.certainty:.0%} certainty, has {test.certainty:.0%}{more}"
    held = test.certainty >= settings.certainty
    if settings.recalibrate and len(_by_temperature(record)) == 1:  # scaled, its ratio is 1: the scale itself is judged
        least, most = test.interval(settings.certainty)
        name = f"uncertainty of the scale by {test.n_audits} audits, %"
        return Check(name, 100 * max(most - 1, 1 - least), f"true / (scaled prediction) {bound}", held)
    prediction = f"prediction × {recalibration(record):.3g}" if settings.recalibrate else "prediction"
    return Check(f"error / ({prediction}) of {test.n_audits} audits", test.ratio, bound, held)


def _enough_labels(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[Check, ...]:
    """Whether more labels would help: judged by the property that the user wants, or by β^(-1/2) and μ_k."""
    if not settings.property_name:
        return (
            _check(
                f"change of β^(-1/2) over the latest {LATEST_LABELS} labels",
                _error_change(record.fits, LATEST_LABELS),
                high=settings.max_error_change,
            ),
            _check("largest μ_k[ε_B] / β^(-1/2)", bayesian_share(record), high=settings.max_bayesian_share),
        )
    name = f"largest error bar of {settings.property_name}, {settings.property_unit}"
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


def error_interval(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[float, float]:
    """Where the test error lies, eV/Å: [β^(-1/2), sqrt(1/β + μ_k²)], μ_k² averaged over walkers (section III B).

    Recalibrated where the settings say so; nan where it is not known yet.
    """
    if not record.fits:
        return math.nan, math.nan
    scale = recalibration(record) if settings.recalibrate else 1.0
    low = scale * record.fits[-1].beta_inv_sqrt_eV_A
    return low, math.hypot(low, scale * rms([w.mean_error_eV_A for w in record.walkers]))


def recalibration(record: ConvergenceRecord) -> float:
    """What predicted errors should be multiplied by, as the audits say; 1 before there are any."""
    ratio = recalibration_test(record).ratio
    return 1.0 if math.isnan(ratio) else ratio


def recalibration_test(record: ConvergenceRecord) -> AuditTest:
    """All audits, whatever their temperature: their ratio is the recalibration."""
    return _test(record.audits, record, UNBOUNDED)


def audits_suffice(record: ConvergenceRecord, settings: ConvergenceSettings) -> bool:
    """Whether there are as many audits as are asked for, they tell the error as well as that is asked, and no other
    check waits for labels: where nothing is flagged, audits are all there are."""
    if len(record.audits) < settings.audits or audits_test(record, settings).certainty < settings.certainty:
        return False
    return all(check.held for check in (*_enough_labels(record, settings), *_small_enough(record, settings)))


def audited_rmse(record: ConvergenceRecord) -> float:
    """The error that the audits found, rms, eV/Å. nan before the first."""
    return rms([audit.rmse_eV_A for audit in record.audits])


MAX_AUDITS = 40
"""Audits beyond which certainty is left to the schedule, unless more are asked for."""
LATEST_LABELS = 4
"""Labels over which β^(-1/2) must have stopped changing."""
NEGLIGIBLE_RATIO = (0.8, 1.25)
"""Bounds on true / predicted error where the error is negligible: DFT codes converge no forces so far."""
UNBOUNDED = (1e-6, 1e6)


def most_audits(settings: ConvergenceSettings) -> int:
    """Number of audits beyond which none are taken besides the schedule."""
    return max(MAX_AUDITS, settings.audits)


def audits_test(record: ConvergenceRecord, settings: ConvergenceSettings) -> AuditTest:
    """The test of the audits; that of the temperature with the least certainty, where there are several."""
    scale = recalibration(record) if settings.recalibrate else 1.0
    bounds = asked_ratio(record, settings)
    tests = [_test(own, record, bounds, scale) for own in _by_temperature(record) or [[]]]
    return min(tests, key=lambda test: test.certainty)


def asked_ratio(record: ConvergenceRecord, settings: ConvergenceSettings) -> tuple[float, float]:
    """Bounds on true / predicted error: wider where the error, of structures that audits may have missed as well, is
    negligible."""
    low, high = settings.audit_ratio
    if not record.fits:
        return low, high
    predicted = math.hypot(record.fits[-1].beta_inv_sqrt_eV_A, rms([w.mean_error_eV_A for w in record.walkers]))
    if predicted * recalibration_test(record).highest() <= settings.negligible_eV_A:
        return min(low, NEGLIGIBLE_RATIO[0]), max(high, NEGLIGIBLE_RATIO[1])
    return low, high


def _by_temperature(record: ConvergenceRecord) -> list[list[AuditScore]]:
    """The audits of each temperature; those of which it is not known together."""
    groups: dict[float, list[AuditScore]] = {}
    for audit in record.audits:
        groups.setdefault(_temperature(audit), []).append(audit)
    return list(groups.values())


def _temperature(label: AuditScore) -> float:
    return 0.0 if math.isnan(label.temperature_K) else label.temperature_K


def _test(
    audits: Sequence[AuditScore], record: ConvergenceRecord, bounds: tuple[float, float], scale: float = 1.0
) -> AuditTest:
    temperatures = {_temperature(audit) for audit in audits}
    others = [label for label in record.others if _temperature(label) in temperatures]
    own, further = _squares(audits, scale), _squares(others, scale)
    ratios, beside, scatter = as_walked(*own, record.walked_difficulty, further, record.explained)
    return audit_test(ratios, bounds, scatter, beside, record.explained)


def _squares(labels: Sequence[AuditScore], scale: float) -> tuple[list[float], list[float]]:
    """(error / prediction)² of labels, and how hard they are."""
    known = [a for a in labels if a.predicted_eV_A > 0]
    return [(a.rmse_eV_A / (scale * a.predicted_eV_A)) ** 2 for a in known], [a.difficulty for a in known]


def quiet_ps(record: ConvergenceRecord) -> float:
    """Time for which no walker has been flagged, ps."""
    return min((min(w.quiet_ps, w.walked_ps) for w in record.walkers), default=0.0)


def shortest_walk_ps(record: ConvergenceRecord) -> float:
    """Walked time of the walker that has walked least, ps."""
    return min((w.walked_ps for w in record.walkers), default=0.0)


def _error_change(fits: Sequence[FitPoint], n_labels: int) -> float:
    """Largest |β^(-1/2) / its latest value - 1| over the latest `n_labels` labels; nan before there are as many.

    Labels are set aside at most once, and then it is begun anew.
    """
    begun = max((i for i in range(1, len(fits)) if fits[i].n_labels < fits[i - 1].n_labels), default=0)
    fits = fits[begun:]
    if not fits:
        return math.nan
    latest = fits[-1]
    before = [f for f in fits if f.n_labels <= latest.n_labels - n_labels]
    if not before or not latest.beta_inv_sqrt_eV_A > 0:
        return math.nan
    since = [before[-1], *(f for f in fits if f.n_labels > latest.n_labels - n_labels)]
    return max(abs(f.beta_inv_sqrt_eV_A / latest.beta_inv_sqrt_eV_A - 1) for f in since)


def bayesian_share(record: ConvergenceRecord) -> float:
    """μ_k[ε_B] β^(1/2), the largest of the walkers; nan while it is not known of each."""
    errors = [w.mean_error_eV_A for w in record.walkers]
    if not record.fits or not errors or any(math.isnan(e) for e in errors):
        return math.nan
    scale = record.fits[-1].beta_inv_sqrt_eV_A
    return max(errors) / scale if scale > 0 else math.nan


def _check(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> Check:
    """Comparisons with nan are false: what is not known does not hold."""
    if math.isinf(high):
        bound = f"at least {low:g}"
    elif math.isinf(low):
        bound = f"at most {high:g}"
    else:
        bound = f"between {low:.3g} and {high:.3g}"
    return Check(name, value, bound, low <= value <= high)
