"""Statistics over MPI ranks are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

import dynft
from dynft_core.errors import InputError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.regression.mpi import Ranks, _sendable
from dynft_core.regression.statistics import Statistics

HOME = Path(dynft.__file__).parent
MPIEXEC = Path(sys.executable).with_name("mpiexec")

needs_mpi = pytest.mark.skipif(not MPIEXEC.is_file(), reason="needs the mpich wheel: pip install mpich")


def run(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [str(MPIEXEC), "-n", str(n), sys.executable, *arguments]
    return subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=120)


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_sums_over_ranks_equal_the_serial_ones(n: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, numpy as np\n"
        "from dynft_core.regression.mpi import Ranks\n"
        "from dynft_core.regression.statistics import Statistics\n"
        "ranks = Ranks.world()\n"
        "rng = np.random.default_rng(0)\n"
        "data = [(rng.normal(size=(12, 7)), rng.normal(size=12)) for _ in range(9)]\n"
        "own = sum((Statistics.of(*d) for d in data[ranks.own]), Statistics.empty(7))\n"
        "total = ranks.sum(own)\n"
        "assert ranks.broadcast(ranks.rank) == 0\n"
        "rest = [total.square, total.n_rows, total.n_structures, own.n_structures]\n"
        "np.save(f'{sys.argv[1]}/{ranks.rank}.npy', np.concatenate([total.gram.ravel(), total.moment, rest]))\n"
    )
    done = run(n, "-c", f"import sys; sys.argv[1:] = [{str(tmp_path)!r}]; exec(open({str(program)!r}).read())")
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(0)
    serial = Statistics.empty(7)
    for _ in range(9):
        serial = serial + Statistics.of(rng.normal(size=(12, 7)), rng.normal(size=12))
    found = [np.load(tmp_path / f"{rank}.npy") for rank in range(n)]
    expected = np.concatenate([serial.gram.ravel(), serial.moment, [serial.square, 9 * 12, 9]])
    for each in found:
        np.testing.assert_allclose(each[:-1], expected, rtol=1e-12)
        assert each[-1] < 9
    assert sum(each[-1] for each in found) == 9


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_dynft_fit_under_mpiexec(n: int, tmp_path: Path) -> None:
    perfect = bulk("Si", "diamond", a=5.432)
    ase.io.write(tmp_path / "prim.xyz", perfect, format="extxyz")
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(5):  # not a multiple of the number of ranks
        atoms = perfect.repeat(2)
        u = rng.normal(0, 0.02, (16, 3))
        atoms.positions += u
        atoms.arrays["forces"] = -5.0 * (u - u.mean(axis=0)) + rng.normal(0, 0.01, (16, 3))
        frames.append(atoms)
    ase.io.write(tmp_path / "data.xyz", frames, format="extxyz")
    arguments = ["-m", "dynft", "fit", str(tmp_path / "data.xyz"), "--primitive", str(tmp_path / "prim.xyz")]
    done = run(n, *arguments, "--cutoffs", "4.0,3.0", "-o", str(tmp_path / "mpi.h5"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training RMSE") == 1
    assert f"by {n} processes" in done.stdout
    serial = subprocess.run(
        [sys.executable, *arguments, "--cutoffs", "4.0,3.0", "-o", str(tmp_path / "serial.h5")],
        cwd=HOME,
        capture_output=True,
        text=True,
    )
    assert serial.returncode == 0, serial.stderr
    one, other = (ForceField.load(tmp_path / name) for name in ("mpi.h5", "serial.h5"))
    assert one.labels == other.labels
    u = rng.normal(0, 0.02, (16, 3))
    np.testing.assert_allclose(one.forces(u), other.forces(u), atol=1e-8)
    assert one.posterior.statistics.square == pytest.approx(other.posterior.statistics.square, rel=1e-12)


def test_one_process_needs_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    ranks = Ranks.world()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    statistics = Statistics.of(np.eye(3), np.ones(3))
    assert ranks.sum(statistics) is statistics
    assert [1, 2, 3][ranks.own] == [1, 2, 3]
    assert ranks.broadcast("x") == "x"


def test_mpiexec_without_mpi4py_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match="mpi4py can load"):
        Ranks.world()


@needs_mpi
def test_an_error_of_one_process_ends_them_all(tmp_path: Path) -> None:
    """The last of three meets a broken structure; without a word to the others they would wait for it for ever."""
    program = (
        "from ase.build import bulk\n"
        "import numpy as np\n"
        "from dynft_core import Crystal, ForceConstantBasis, Supercell, fit\n"
        "from dynft_core.errors import InputError\n"
        "from dynft_core.regression.mpi import Ranks\n"
        "ranks = Ranks.world()\n"
        "cell = Supercell.build(Crystal(bulk('Si')), [2, 2, 2])\n"
        "u = np.random.default_rng(0).normal(0, 0.01, (6, 16, 3))\n"
        "u[5, 0, 0] = np.nan\n"
        "try:\n"
        "    fit(ForceConstantBasis.build(cell.crystal, {2: 4.0}), cell, u, -u, ranks=ranks)\n"
        "except InputError as error:\n"
        "    print('told' if 'NaN' in str(error) else error, flush=True)\n"
    )
    done = run(3, "-c", program)
    assert (done.returncode, done.stdout.count("told")) == (0, 3), done.stdout + done.stderr


@needs_mpi
def test_bad_input_is_told_once(tmp_path: Path) -> None:
    arguments = ["-m", "dynft", "fit", str(tmp_path / "none.xyz"), "--primitive", str(tmp_path / "none.xyz")]
    done = run(3, *arguments, "--cutoffs", "4.0", "-o", str(tmp_path / "ff.h5"))
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("which is not there") == 1


def test_an_error_that_cannot_be_sent_is_sent_as_text() -> None:
    class Local(Exception):  # noqa: N818
        pass

    assert str(_sendable(Local("here"))) == "Local: here"
    assert _sendable(None) is None
    with pytest.raises(ValueError, match="own"), Ranks().together():
        raise ValueError("own")
