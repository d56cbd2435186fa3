"""When a campaign may call itself converged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.assessment.audits import audit_test
from dynft_core.assessment.convergence import (
    AuditScore,
    ConvergenceRecord,
    ConvergenceSettings,
    FitPoint,
    WalkerProgress,
    assess,
    audited_rmse,
    audits_suffice,
    error_interval,
    recalibration,
)

SETTINGS = ConvergenceSettings(min_walk_ps=2.0, max_walk_ps=10.0, quiet_ps=0.5, certainty=0.9, recalibrate=False)
GOOD = ConvergenceRecord(
    fits=(FitPoint(2, 0.0010), FitPoint(5, 0.0026), FitPoint(7, 0.0025), FitPoint(9, 0.0025)),
    audits=tuple(AuditScore(0.0026, 0.0026) for _ in range(10)),
    walkers=tuple(WalkerProgress(w, 2.5, 0.0006, 1.0) for w in range(4)),
)


def failing(record: ConvergenceRecord, settings: ConvergenceSettings = SETTINGS) -> list[str]:
    return [check.name for check in assess(record, settings).checks if not check.held]


def test_a_good_campaign_is_converged():
    verdict = assess(GOOD, SETTINGS)
    assert verdict.converged and not verdict.stalled
    assert verdict.sentence.startswith("converged: ")


def test_each_condition_alone_holds_it_back():
    slow = replace(GOOD, walkers=(WalkerProgress(0, 1.9, 0.0006, 1.0), *GOOD.walkers[1:]))
    assert failing(slow) == ["walked time of each walker, ps"]
    few = replace(GOOD, audits=GOOD.audits[:3])
    assert failing(few) == ["number of audits", "error / (prediction) of 3 audits"]
    flagged = replace(GOOD, walkers=(*GOOD.walkers[:3], WalkerProgress(3, 2.5, 0.0006, 0.2)))
    assert failing(flagged) == ["time without a flag, ps"]
    moving = replace(GOOD, fits=(*GOOD.fits[:1], FitPoint(5, 0.0019), *GOOD.fits[2:]))
    assert failing(moving) == ["change of β^(-1/2) over the latest 4 labels"]
    unsure = replace(GOOD, walkers=(*GOOD.walkers[:3], WalkerProgress(3, 2.5, 0.0013, 1.0)))
    assert failing(unsure) == ["largest μ_k[ε_B] / β^(-1/2)"]


def test_audits_rest_when_they_suffice_and_no_other_check_waits_for_labels():
    def rest(**changes: object) -> bool:
        return audits_suffice(replace(GOOD, **changes), SETTINGS)

    assert rest()
    assert rest(walkers=(WalkerProgress(0, 0.1, 0.0006, 0.0),))  # to walk takes no label
    assert not rest(audits=GOOD.audits[:3])
    assert not rest(fits=GOOD.fits[:1])  # what β^(-1/2) does is not known yet
    assert not rest(fits=(*GOOD.fits[:1], FitPoint(5, 0.0019), *GOOD.fits[2:]))
    assert not rest(walkers=(*GOOD.walkers[:3], WalkerProgress(3, 2.5, 0.0013, 1.0)))


def test_a_negligible_error_need_be_known_roughly():
    """The same campaign with errors 100 times smaller: a quarter is enough, unless nothing is negligible."""
    small = replace(
        GOOD,
        fits=tuple(FitPoint(f.n_labels, f.beta_inv_sqrt_eV_A / 100) for f in GOOD.fits),
        audits=tuple(AuditScore(x * 26e-6, 26e-6) for x in (0.8, 1.2, 1.0, 0.7, 1.3, 1.0)),
        walkers=tuple(replace(w, mean_error_eV_A=w.mean_error_eV_A / 100) for w in GOOD.walkers),
    )
    assert assess(small, SETTINGS).converged
    assert failing(small, replace(SETTINGS, negligible_eV_A=0.0)) == ["error / (prediction) of 6 audits"]
    assert failing(small, replace(SETTINGS, negligible_eV_A=30e-6)) == ["error / (prediction) of 6 audits"]
    # 30e-6 is above the error, and below what structures that no audit has met would make of it


def test_false_convergence_is_not_believed():
    """The measured trap: β^(-1/2) 0.21, predicted 0.60, true 3.27 meV/Å, nothing flagged. Audits show it."""
    trapped = ConvergenceRecord(
        fits=(FitPoint(1, 0.00021), FitPoint(5, 0.00021)),
        audits=tuple(AuditScore(0.00327, 0.00060) for _ in range(4)),
        walkers=(WalkerProgress(0, 3.0, 0.0001),),
    )
    assert failing(trapped) == ["error / (prediction) of 4 audits"]
    assert assess(trapped, SETTINGS).checks[3].value == pytest.approx(5.45)


@pytest.mark.parametrize("factor", [0.75, 1.35])
def test_a_scale_that_the_audits_find_is_applied_and_checked(factor: float) -> None:
    wrong = replace(GOOD, audits=tuple(AuditScore(factor * 0.0026, 0.0026) for _ in range(20)))
    assert failing(wrong) == ["error / (prediction) of 20 audits"]
    recalibrated = replace(SETTINGS, recalibrate=True)
    assert assess(wrong, recalibrated).converged
    assert recalibration(wrong) == pytest.approx(factor)
    low, high = error_interval(wrong, recalibrated)
    assert low == pytest.approx(0.0025 * factor)
    assert high / low == pytest.approx(math.hypot(0.0025, 0.0006) / 0.0025)


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.6, 10.0])
def test_a_prediction_that_needs_a_scale_beyond_its_bounds_is_not_credible(factor: float) -> None:
    """However many audits agree about it: a force field ten times overconfident does not converge."""
    wrong = replace(GOOD, audits=tuple(AuditScore(factor * 0.0026, 0.0026) for _ in range(40)))
    recalibrated = replace(SETTINGS, recalibrate=True)
    assert failing(wrong, recalibrated) == ["scale of the predicted errors"]
    check = next(c for c in assess(wrong, recalibrated).checks if not c.held)
    assert check.value == pytest.approx(factor) and "not credible" in check.bound
    assert assess(wrong, replace(recalibrated, scale_bounds=(0.05, 20.0))).converged


def test_errors_below_the_noise_floor_are_no_fault_of_the_prediction() -> None:
    fits = tuple(replace(f, beta_inv_sqrt_eV_A=1e-5) for f in GOOD.fits)
    audits = tuple(AuditScore(1e-9 * (1 + k % 2 / 10), 1e-5) for k in range(40))
    walkers = tuple(replace(w, mean_error_eV_A=1e-7) for w in GOOD.walkers)
    exact, recalibrated = replace(GOOD, fits=fits, audits=audits, walkers=walkers), replace(SETTINGS, recalibrate=True)
    assert failing(exact, recalibrated) == ["scale of the predicted errors"]
    assert assess(exact, replace(recalibrated, noise_floor_eV_A=1e-5)).converged
    worse = replace(exact, audits=tuple(replace(a, rmse_eV_A=1e-4) for a in audits))
    assert failing(worse, replace(recalibrated, noise_floor_eV_A=1e-5)) == ["scale of the predicted errors"]


def test_of_one_temperature_the_uncertainty_of_the_scale_is_judged_of_several_their_ratios_to_it() -> None:
    recalibrated = replace(SETTINGS, recalibrate=True)
    scattered = tuple(AuditScore(0.003 * e, 0.0026, 300.0) for e in (0.8, 1.2, 0.9, 1.1))
    (check,) = [c for c in assess(replace(GOOD, audits=scattered), recalibrated).checks if "uncertainty" in c.name]
    low, high = audit_test([(a.rmse_eV_A / a.predicted_eV_A) ** 2 for a in scattered], (0.87, 1.12)).interval(0.9)
    assert check.value == pytest.approx(100 * (high / recalibration(replace(GOOD, audits=scattered)) - 1))
    assert not check.held and check.value > 12 > 0 < low
    hot = tuple(AuditScore(0.005, 0.0026, 600.0) for _ in range(4))
    names = [c.name for c in assess(replace(GOOD, audits=scattered + hot), recalibrated).checks]
    assert not any("uncertainty" in name for name in names) and any(name.startswith("error / (") for name in names)


def test_few_campaigns_converge_on_a_scale_that_is_wrong() -> None:
    """As a campaign goes, audit by audit: θ beyond `audit_ratio` times the scale at the end, of those that converge."""
    rng, settings = np.random.default_rng(3), replace(SETTINGS, recalibrate=True, certainty=0.95)
    ratios = []
    for _ in range(200):
        squares = rng.lognormal(-0.18, 0.6, 40)
        scores = [AuditScore(0.0026 * math.sqrt(q), 0.0026) for q in squares]
        for n in range(4, 41):
            record = replace(GOOD, audits=tuple(scores[:n]))
            if assess(record, settings).converged:
                ratios.append(1 / recalibration(record))
                break
    low, high = settings.audit_ratio
    assert len(ratios) > 160
    assert np.mean([low < r < high for r in ratios]) > 0.87  # 0.91 in 2,000 campaigns, here ± 0.02


def test_a_largest_error_is_asked_for_where_the_user_says_so():
    assert assess(GOOD, replace(SETTINGS, max_error_eV_A=0.003)).converged
    assert failing(GOOD, replace(SETTINGS, max_error_eV_A=0.002)) == ["predicted error, meV/Å"]


def test_the_temperature_with_the_worst_prediction_decides():
    cold = tuple(AuditScore(0.0026, 0.0026, 100.0) for _ in range(10))
    hot = tuple(AuditScore(0.0040, 0.0026, 600.0) for _ in range(10))
    assert failing(replace(GOOD, audits=cold + hot)) == ["error / (prediction) of 10 audits"]
    assert assess(replace(GOOD, audits=cold), SETTINGS).converged


def test_audits_are_wanted_when_labels_alone_are_missing_and_as_many_as_the_test_needs():
    scattered = tuple(AuditScore(error, 0.0026) for error in (0.0021, 0.0030, 0.0030, 0.0021))
    few = replace(GOOD, audits=scattered)
    assert 1 <= assess(few, SETTINGS).audits_wanted[0] <= 8
    enough = replace(GOOD, audits=scattered + GOOD.audits[: assess(few, SETTINGS).audits_wanted[0]])
    assert assess(enough, SETTINGS).converged
    early = replace(few, walkers=tuple(WalkerProgress(w, 1.0, 0.0006, 1.0) for w in range(4)))
    assert assess(early, SETTINGS).audits_wanted == (0,)
    assert assess(GOOD, SETTINGS).audits_wanted == (0,)
    endless = replace(GOOD, audits=tuple(AuditScore(0.1, 0.0026) for _ in range(40)))
    assert assess(endless, SETTINGS).audits_wanted == (0,)


def test_only_the_labels_since_matter_for_the_change():
    """The first fit is far off, four labels ago is not."""
    assert GOOD.fits[0].beta_inv_sqrt_eV_A < 0.5 * GOOD.fits[-1].beta_inv_sqrt_eV_A
    assert assess(GOOD, SETTINGS).checks[4].value == pytest.approx(0.04)


def test_the_change_begins_anew_when_labels_are_set_aside():
    aside = (FitPoint(60, 0.0003), FitPoint(64, 0.0005), *GOOD.fits)
    assert assess(replace(GOOD, fits=aside), SETTINGS).checks[4].value == pytest.approx(0.04)


def test_an_empty_record_is_neither_converged_nor_stalled_and_its_checks_say_what_is_unknown():
    verdict = assess(ConvergenceRecord((), (), ()), SETTINGS)
    assert not verdict.converged and not verdict.stalled
    assert verdict.sentence.startswith("not converged yet: ")
    assert "not known yet" in str(verdict.checks[-1])


def test_a_window_that_is_still_empty_holds_it_back():
    heating = replace(GOOD, walkers=(*GOOD.walkers[:3], WalkerProgress(3, 2.5, math.nan, 1.0)))
    assert failing(heating) == ["largest μ_k[ε_B] / β^(-1/2)"]


def test_the_longest_walk_ends_a_campaign_that_does_not_converge():
    tired = replace(GOOD, audits=(), walkers=tuple(WalkerProgress(w, 10.0, 0.0006) for w in range(4)))
    verdict = assess(tired, SETTINGS)
    assert verdict.stalled and not verdict.converged
    assert verdict.sentence.startswith("not converged after the longest walk, 10 ps: ")
    one_behind = replace(tired, walkers=(*tired.walkers[:3], WalkerProgress(3, 9.9, 0.0006)))
    assert not assess(one_behind, SETTINGS).stalled


def test_claimed_and_found_errors():
    assert error_interval(GOOD, SETTINGS) == pytest.approx((0.0025, math.sqrt(0.0025**2 + 0.0006**2)))
    mixed = replace(GOOD, audits=tuple(AuditScore(e, 1.0) for e in (0.001, 0.002, 0.003, 0.004)))
    assert audited_rmse(mixed) == pytest.approx(math.sqrt(30 / 4) * 1e-3)
    nothing = ConvergenceRecord((), (), ())
    assert all(math.isnan(x) for x in (*error_interval(nothing, SETTINGS), audited_rmse(nothing)))


positive = st.floats(1e-6, 1.0)
records = st.builds(
    ConvergenceRecord,
    fits=st.lists(positive, max_size=8).map(lambda b: tuple(FitPoint(2 * i + 1, e) for i, e in enumerate(b))),
    audits=st.lists(st.builds(AuditScore, positive, positive), max_size=8).map(tuple),
    walkers=st.lists(positive, max_size=4).map(lambda m: tuple(WalkerProgress(i, 5.0, e) for i, e in enumerate(m))),
)


@given(records)
def test_converged_means_every_check_holds_and_no_verdict_is_both(record):
    verdict = assess(record, SETTINGS)
    assert verdict.converged == all(check.held for check in verdict.checks)
    assert not (verdict.converged and verdict.stalled)
    for check in verdict.checks:
        assert not (check.held and math.isnan(check.value))


@given(records, st.sampled_from([0.25, 4.0]))
def test_the_verdict_does_not_depend_on_the_unit_of_force(record, factor):
    scaled = ConvergenceRecord(
        tuple(FitPoint(f.n_labels, factor * f.beta_inv_sqrt_eV_A) for f in record.fits),
        tuple(AuditScore(factor * a.rmse_eV_A, factor * a.predicted_eV_A) for a in record.audits),
        tuple(WalkerProgress(w.walker, w.walked_ps, factor * w.mean_error_eV_A) for w in record.walkers),
    )
    assert [c.held for c in assess(scaled, SETTINGS).checks] == [c.held for c in assess(record, SETTINGS).checks]


def test_a_property_decides_in_the_place_of_the_fitting_error() -> None:
    settings = replace(SETTINGS, property_name="phonons", property_tolerance=0.05, property_unit="THz")
    errors = (0.4, 0.1, 0.08, 0.06)
    fits = [FitPoint(f.n_labels, 0.001 * 2**i, e) for i, (f, e) in enumerate(zip(GOOD.fits, errors, strict=True))]
    moving = replace(GOOD, fits=tuple(fits))
    open_ = assess(moving, settings)
    (check,) = [c for c in open_.checks if "phonons" in c.name]
    assert not check.held
    assert "THz" in check.name
    assert "more labels" in check.bound
    assert not any("β^(-1/2)" in c.name for c in open_.checks)
    good = replace(moving, fits=(*moving.fits[:-1], replace(moving.fits[-1], property_error=0.05)))
    assert next(c for c in assess(good, settings).checks if "phonons" in c.name).held
    unknown = replace(moving, fits=(*moving.fits[:-1], replace(moving.fits[-1], property_error=math.nan)))
    assert not next(c for c in assess(unknown, settings).checks if "phonons" in c.name).held
