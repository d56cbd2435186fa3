"""Records survive the journey through the journal, not-a-numbers included; what is damaged is refused."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.assessment.scores import Score, SpeciesScore
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.errors import FileFormatError
from dynft_core.models.settings import ModelSettings
from dynft_core.reference.failures import Failure, FailureKind
from dynft_core.reference.label_job import LabelOutcome
from dynft_core.selection.cost import CostLaw
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.storage.json_values import to_json
from dynft_core.tasks.jobs import (
    CellChoice,
    ChooseJob,
    EvaluateOutcome,
    Evaluation,
    FitOutcome,
    ForceFieldMd,
    MdSteps,
    PhononModes,
    ProposeJob,
    ProposeOutcome,
    Rattled,
    ReferenceMd,
    SelectJob,
    SelectOutcome,
    WalkEnd,
)
from dynft_core.vocabulary import ReferenceSettings, StructureRef
from workflows.campaign.json_records import from_json

number = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 10**6)
key = st.text("0123456789abcdef", min_size=24, max_size=24)
ref = st.builds(StructureRef, key, st.just("structures/a.h5"), count, st.sampled_from(["flagged", "audit"]),
                st.text(), number, number)  # fmt: skip
walk = st.builds(
    WalkerOutcome, count, st.just("walkers/00/000000.h5"), count, count, st.sampled_from(["finished", "broken"]),
    st.tuples(ref, ref), number, number, number, st.integers(-1, 5),
    st.tuples(st.tuples(st.integers(-9, 9), count)),
)  # fmt: skip
species = st.builds(SpeciesScore, st.just("Si"), st.tuples(st.tuples(st.integers(-9, 9), count)))
score = st.builds(Score, key, st.just("audit"), number, number, number, number, st.tuples(species), number)
failure = st.one_of(st.none(), st.builds(Failure, st.sampled_from(get_args(FailureKind)), st.text()))
steps = st.builds(MdSteps, number, number, count, count)
method = st.one_of(
    st.builds(Rattled, number), st.builds(PhononModes, st.text()), st.builds(ReferenceMd, steps),
    st.builds(ForceFieldMd, st.text(), steps),
)  # fmt: skip
proposal = st.builds(ProposeJob, st.text(), st.text(), method, st.just("initial"), count, number, count, st.text(),
                     st.just(ReferenceSettings("emt")))  # fmt: skip
choice = st.builds(ChooseJob, st.text(), st.text(), st.just(ModelSettings("force_constants", {"order": 2})), st.text(),
                   count, st.tuples(st.tuples(st.text(), number)), number, number, count)  # fmt: skip
cells = st.builds(
    CellChoice, st.text(), number, count, st.just(ReferenceSettings("emt")),
    st.builds(CostLaw, number, number, number, st.tuples(count, count)), number, number,
    st.tuples(st.builds(WalkEnd, st.text(), st.text(), st.text())),
)  # fmt: skip
selection = st.builds(SelectJob, st.text(), st.text(), st.tuples(ref), st.tuples(ref), st.just("log_det"), count,
                      number, number, st.one_of(st.none(), cells))  # fmt: skip
outcomes = st.one_of(
    proposal, choice, selection,
    st.builds(ProposeOutcome, st.booleans(), st.tuples(ref), number, number, failure),
    st.builds(LabelOutcome, st.booleans(), key, st.text(), st.booleans(), number, number, failure),
    st.builds(WalkOutcome, st.booleans(), st.tuples(walk, walk), st.text(), count, count, number),
    st.builds(SelectOutcome, st.booleans(), st.tuples(key), st.tuples(number), st.tuples(key, key),
              st.tuples(ref), number),
    st.builds(
        FitOutcome, st.booleans(), count, st.text(), count, count, number, number,
        st.tuples(score), st.tuples(score, score), st.dictionaries(st.text(), st.tuples(number, number)),
        number, st.tuples(key),
        st.sampled_from([None, "phonons"]), number, st.tuples(number, number), number, number,
    ),
    st.builds(EvaluateOutcome, st.booleans(),
              st.tuples(st.builds(Evaluation, st.text(), number, number, number, number, count, count)), number),
)  # fmt: skip


@given(outcomes)
def test_every_outcome_and_proposal_comes_back_as_it_was(outcome: object) -> None:
    assert from_json(type(outcome), json.loads(json.dumps(to_json(outcome)))) == outcome
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_what_is_not_a_number_yet_is_null_in_the_journal_and_nan_again_after_it(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        journal.append({"event": "fit_finished", "outcome": to_json(FitOutcome(True, 1))})
    (event,) = read_journal(tmp_path / "journal.jsonl")
    assert event["outcome"]["beta_inv_sqrt_eV_A"] is None
    assert math.isnan(from_json(FitOutcome, event["outcome"]).beta_inv_sqrt_eV_A)


def test_fields_of_a_newer_version_are_left_out() -> None:
    data = {**to_json(LabelOutcome(True, "0")), "colour": "blue"}
    assert from_json(LabelOutcome, data) == LabelOutcome(True, "0")


@pytest.mark.parametrize("change", [{"ok": "yes"}, {"version": None}, {"set_aside": 3.0}, {"scores": [{"key": "0"}]}])
def test_a_damaged_record_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(FileFormatError, match=r"a (FitOutcome|Score)"):
        from_json(FitOutcome, {**to_json(FitOutcome(True, 1)), **change})


def test_a_method_that_does_not_exist_is_refused() -> None:
    job = ProposeJob("run", "a.h5", Rattled(0.1), "initial", 1, 300.0, 1, "b.xyz", ReferenceSettings("emt"))
    with pytest.raises(FileFormatError, match="magic"):
        from_json(ProposeJob, {**to_json(job), "method": {"name": "magic"}})


def test_a_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FileFormatError, match="none of"):
        from_json(StructureRef, {**to_json(StructureRef("0", "s", 0, "flagged")), "role": "holiday"})
