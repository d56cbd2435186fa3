"""Tasks answer whatever happens, and say of which class a failure is."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.errors import FileFormatError, InputError
from dynft_core.reference import label
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.structures import write_perfect_structure, write_structures
from dynft_core.tasks import tasks
from dynft_core.tasks.jobs import ProposeJob, Rattled
from dynft_core.vocabulary import ReferenceSettings, StructureRef

TERSOFF = ReferenceSettings("tersoff-si")


def rattle(run_dir: Path) -> ProposeJob:
    write_perfect_structure(run_dir / "supercell.xyz", bulk("Si", "diamond", a=5.43))
    return ProposeJob(str(run_dir), "structures/a.h5", Rattled(0.01), "initial", 2, 300.0, 1, "supercell.xyz", TERSOFF)


def label_job(run_dir: Path) -> LabelJob:
    perfect, u = bulk("Si", "diamond", a=5.43), np.array([[[0.02, 0.0, 0.0], [-0.02, 0.0, 0.0]]])
    write_perfect_structure(run_dir / "supercell.xyz", perfect)
    key = structure_key(perfect.numbers, perfect.cell[:], perfect.positions + u[0], TERSOFF)
    write_structures(run_dir / "structures" / "a.h5", u, [key])
    return LabelJob(str(run_dir), StructureRef(key, "structures/a.h5", 0, "initial"), TERSOFF)


NUMBERS = [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.ETIMEDOUT, errno.EDQUOT]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_trouble_of_the_file_system_is_of_class_storage(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "structures" / "a.h5"))

    job, wanted = rattle(tmp_path / "propose"), label_job(tmp_path / "label")
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "write_structures", away)
        patch.setattr(label, "write_segment", away)
        proposed, labelled = tasks.propose(job), tasks.label(wanted)
    for outcome in (proposed, labelled):
        assert not outcome.ok and outcome.failure is not None and outcome.failure.kind == "storage"
        assert os.strerror(number) in outcome.failure.sentence
    assert tasks.propose(job).ok
    again = tasks.label(wanted)
    assert again.ok and again.failure is None


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (FileFormatError("a.h5", "a complete file", "a truncated file", "restore it"), "storage"),
        (InputError("force_field", "one", "none", "fit one"), "input"),
        (ZeroDivisionError("division by zero"), "unexpected"),
    ],
)
def test_other_failures_have_classes_of_their_own(
    error: Exception, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(tasks, "write_structures", fail)
    outcome = tasks.propose(rattle(tmp_path))
    assert not outcome.ok and outcome.failure is not None and outcome.failure.kind == failure
    assert str(error) in outcome.failure.sentence


def test_a_label_tells_its_class_of_failure(tmp_path: Path) -> None:
    job = label_job(tmp_path)
    unknown = replace(job, reference=ReferenceSettings("no_such_module:make"))
    outcome = tasks.label(unknown)
    assert outcome.failure is not None and outcome.failure.kind == "setup"
