"""The campaign's fit over MPI ranks is the serial one."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.settings import force_constants
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.tasks.jobs import FitJob, ProposeJob, Rattled
from dynft_core.tasks.mpi_launch import LAUNCHER
from dynft_core.tasks.tasks import fit_labels, label, propose
from dynft_core.vocabulary import ReferenceSettings, StructureRef

REFERENCE = ReferenceSettings("tersoff-si")
MPIEXEC = Path(sys.executable).with_name("mpiexec")

needs_mpi = pytest.mark.skipif(not MPIEXEC.is_file(), reason="needs the mpich wheel: pip install mpich")


def labelled(run_dir: Path, n_structures: int) -> tuple[StructureRef, ...]:
    """A run folder with the perfect structures and so many labels of 16 atoms."""
    primitive = bulk("Si", "diamond", a=5.432)
    write_perfect_structure(run_dir / "primitive.xyz", primitive)
    write_perfect_structure(run_dir / "perfect.xyz", primitive.repeat(2))
    proposed = propose(
        ProposeJob(str(run_dir), "structures/initial.h5", Rattled(0.05), "initial", n_structures, 300.0, 1,
                   "perfect.xyz", REFERENCE)
    )  # fmt: skip
    assert proposed.ok, proposed.error
    for ref in proposed.structures:
        assert label(LabelJob(str(run_dir), ref, REFERENCE)).ok
    return proposed.structures


def job(run_dir: Path, output: str, base: str | None, refs: tuple[StructureRef, ...], **more: object) -> FitJob:
    model = force_constants([4.0, 3.0])
    return replace(
        FitJob(str(run_dir), 1, output, model, "primitive.xyz", base, refs),
        **more,  # type: ignore[arg-type]
    )


@needs_mpi
def test_ranks_give_the_force_field_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = labelled(tmp_path, 6)
    found = {}
    for name, launcher in (("serial", ""), ("ranks", f"{shlex.quote(str(MPIEXEC))} -n 3")):
        monkeypatch.setenv(LAUNCHER, launcher)
        first = fit_labels(job(tmp_path, f"{name}-1.h5", None, refs[:3]))
        assert first.ok, first.error
        found[name] = fit_labels(job(tmp_path, f"{name}-2.h5", f"{name}-1.h5", refs[3:5], pending=refs[5:]))
        assert found[name].ok, found[name].error
    one, other = (ForceField.load(tmp_path / f"{name}-2.h5", pending=True) for name in found)
    assert one.labels == other.labels and one.pending == other.pending == (refs[5].key,)
    u = np.random.default_rng(0).normal(0, 0.03, (16, 3))
    np.testing.assert_allclose(one.forces(u), other.forces(u), atol=1e-8)
    assert one.bayesian_error(u) == pytest.approx(other.bayesian_error(u), rel=1e-6)
    assert [s.rmse_eV_A for s in found["ranks"].scores] == pytest.approx([s.rmse_eV_A for s in found["serial"].scores])


@needs_mpi
def test_a_fit_that_fails_on_its_ranks_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = labelled(tmp_path, 1)
    monkeypatch.setenv(LAUNCHER, f"{shlex.quote(str(MPIEXEC))} -n 2")
    (tmp_path / "labels" / refs[0].key / "label.h5").unlink()
    outcome = fit_labels(job(tmp_path, "lost.h5", None, refs))
    assert not outcome.ok and "label.h5" in str(outcome.failure)
    monkeypatch.setenv(LAUNCHER, "no-such-launcher -n 2")
    outcome = fit_labels(job(tmp_path, "lost.h5", None, refs))
    assert not outcome.ok and "no-such-launcher" in str(outcome.failure)
    assert "PMI_SIZE" not in os.environ
