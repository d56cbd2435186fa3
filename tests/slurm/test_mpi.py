"""Labels of several ranks on several nodes, and fits over ranks, through the MPI site on a real Slurm."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from cluster import Cluster, Site

import dynft_core.tasks.tasks
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.settings import force_constants
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.tasks.jobs import FitJob, ProposeJob, Rattled
from dynft_core.vocabulary import ReferenceSettings
from workflows.driver.executors import Executors
from workflows.driver.sites import load_site

MPIEXEC = Path(sys.executable).with_name("mpiexec")

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(not MPIEXEC.is_file(), reason="needs the mpich wheel: pip install mpich"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


def test_a_label_on_two_nodes_and_a_fit_over_ranks(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    run_dir, mpiexec = tmp_path / "run", shlex.quote(str(MPIEXEC))
    path = site(
        "slurm_mpi", WALK_TASKS=1, FIT_PARTITION="walk", LABEL_NODES=2, LABEL_RANKS_PER_NODE=2, LABEL_THREADS=1,
        LABEL_LAUNCHER=f"{mpiexec} -n 4 -ppn 2", LABEL_INIT="", FIT_RANKS=2, FIT_THREADS=1,
        FIT_LAUNCHER=f"{mpiexec} -n 2",
    )  # fmt: skip
    primitive = bulk("Si", "diamond", a=5.432)
    for name, atoms in (("primitive.xyz", primitive), ("perfect.xyz", primitive.repeat(2))):
        write_perfect_structure(run_dir / name, atoms)
    executors = Executors(lambda: load_site(path, run_dir), dynft_core.tasks.tasks)
    try:
        mpi = ReferenceSettings("mpi_forces:MpiForces", timeout_s=120.0)
        job = ProposeJob(str(run_dir), "initial.h5", Rattled(0.05), "initial", 1, 300.0, 1, "perfect.xyz", mpi)
        (ref,) = dynft_core.tasks.tasks.propose(job).structures
        labelled = executors.submit("label", LabelJob(str(run_dir), ref, mpi)).result(timeout=120)
        assert labelled.ok, labelled.failure
        label = read_label(run_dir / labelled.path)
        (ranks,) = (json.loads(found.read_text()) for found in run_dir.glob("labels/*/attempt-001/ranks.json"))
        assert sorted(ranks["nodes"]) == ["n3", "n3", "n4", "n4"]

        tersoff = make_calculator(ReferenceSettings("tersoff-si"), run_dir)
        forces = tersoff.get_forces(Atoms(label.numbers, label.positions, cell=label.cell, pbc=True))
        np.testing.assert_allclose(label.forces, forces, atol=1e-7)  # the program reads positions of eight digits

        model = force_constants([4.0, 3.0])
        fit = FitJob(str(run_dir), 1, "ranks.h5", model, "primitive.xyz", None, (ref,))
        outcome = executors.submit("fit", fit).result(timeout=120)
        assert outcome.ok, outcome.failure
        assert dynft_core.tasks.tasks.fit_labels(replace(fit, output="serial.h5")).ok
    finally:
        executors.close()
    one, other = (ForceField.load(run_dir / name) for name in ("ranks.h5", "serial.h5"))
    np.testing.assert_allclose(one.forces(label.displacements), other.forces(label.displacements), atol=1e-8)
    assert one.posterior.statistics.n_rows == other.posterior.statistics.n_rows == label.forces.size
