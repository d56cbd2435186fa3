"""Structures that wait for their labels: in the covariance that a walk task walks with, and not in what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynft_core import ForceField
from dynft_core.dynamics.state import KIND, load_report, load_state
from dynft_core.dynamics.walk_records import WalkerStart, WalkJob
from dynft_core.storage.segments import read_segment
from dynft_core.storage.structures import write_perfect_structure, write_structures
from dynft_core.tasks.walk import run_walk
from dynft_core.vocabulary import CriterionSettings, ReferenceSettings, StructureRef

KEYS = ["a" * 24, "b" * 24, "c" * 24]


@pytest.mark.parametrize(
    ("known", "named", "keeps", "expected"),
    [
        ("ab", "c", True, "abc"),  # what is new alone
        ("ab", "abc", False, "abc"),  # all of them
        ("ab", "bc", False, "bc"),  # a was given up
        ("ab", "", True, "ab"),
        ("ab", "", False, ""),
        ("", "abc", False, "abc"),
    ],
)
def test_a_walk_has_just_the_pending_structures_that_its_job_wants(
    known: str, named: str, keeps: bool, expected: str, force_field: ForceField, tmp_path: Path
) -> None:
    u = np.random.default_rng(3).normal(0.0, 0.05, (3, force_field.supercell.n_atoms, 3))
    write_perfect_structure(tmp_path / "cell.xyz", force_field.supercell.atoms())
    write_structures(tmp_path / "chosen.h5", u, KEYS, {})

    def rows(names: str) -> list[int]:
        return ["abc".index(name) for name in names]

    def conditioned(names: str) -> ForceField:
        return force_field.condition(u[rows(names)], [KEYS[i] for i in rows(names)]) if names else force_field

    conditioned(known).save(tmp_path / "ff.h5")
    job = WalkJob(
        str(tmp_path), (WalkerStart(0, None, "walk.h5"),), "ff.h5", "cell.xyz", 21, 1, 30.0, 1.0, 50.0,
        CriterionSettings(gamma=1e9, window=70, while_heating=True), "continue", ReferenceSettings("tersoff-si"),
        monitor="exact",
        pending=tuple(StructureRef(KEYS[i], "chosen.h5", i, "flagged", cell="cell.xyz") for i in rows(named)),
        keeps_pending=keeps,
    )  # fmt: skip
    outcome = run_walk(job, ForceField.load(tmp_path / "ff.h5", pending=True))
    assert outcome.n_pending == len(expected)

    # The posterior of the labels and these structures, made in one go, has the ε_B that the walk has seen, in
    # single precision; what it tells is of the labels alone.
    state = load_state(tmp_path / "walk.h5")
    last, seen = state.displacements, state.window[state.window_count - 1]
    told = load_report(tmp_path / "walk.h5").errors_eV_A
    assert outcome.walks[0].mean_error_eV_A == pytest.approx(told.mean(), rel=1e-12)
    assert told[-1] == pytest.approx(float(force_field.bayesian_error(last[None])[0]), rel=1e-6)
    assert seen == pytest.approx(float(conditioned(expected).bayesian_error(last[None])[0]), rel=1e-6)
    others = {"", "a", "b", "c", "ab", "ac", "bc", "abc"} - {expected}
    assert all(seen != pytest.approx(float(conditioned(x).bayesian_error(last[None])[0]), rel=1e-4) for x in others)

    # And the walk's segment, with the force field that it names, says which they were.
    record = json.loads(read_segment(tmp_path / "walk.h5", KIND).attributes["job"][0])
    assert record["force_field"] == job.force_field and record["n_steps"] == job.n_steps
    in_file = ForceField.load(tmp_path / record["force_field"], pending=True).pending if record["keeps_pending"] else ()
    assert {*in_file, *(ref["key"] for ref in record["pending"])} == {KEYS[i] for i in rows(expected)}
