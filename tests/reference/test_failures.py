"""The sentence that names the cause: VASP's boxes, launchers, and what exceptions of Python mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from standin_vasp import box

from dynft_core.errors import in_words
from dynft_core.reference.espresso import MESSAGES as OF_PW
from dynft_core.reference.failures import named, tail
from dynft_core.reference.vasp_output import MESSAGES as OF_VASP

LAUNCHED = {
    "srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are mutually exclusive.": "are mutually exclusive.",
    "srun: error: Unable to allocate resources: Invalid account or account/partition combination specified":
        "Unable to allocate resources: Invalid account or account/partition combination specified",
    "srun: error: Invalid numeric value 'x' for --ntasks.": "Invalid numeric value 'x' for --ntasks.",
    "srun: unrecognized option '--mpi-type'": "unrecognized option '--mpi-type'",
    "[mpiexec@n1] match_arg (lib/utils/args.c:166): unrecognized argument npernode": "unrecognized argument npernode",
    "---\nIt looks like MPI_INIT failed for some reason; your parallel process is\nlikely to abort.\n\nMore.\n---":
        "It looks like MPI_INIT failed for some reason; your parallel process is likely to abort.",
}  # fmt: skip


@pytest.mark.parametrize("printed", LAUNCHED)
def test_a_launcher_that_starts_nothing_is_setup_whatever_the_code(printed: str) -> None:
    for messages in (OF_VASP, OF_PW):
        found = named([f"Loading modules\n{printed}\n", "later lines\n"], messages)
        assert found is not None and found.failure.kind == "setup"
        assert found.failure.sentence.endswith(LAUNCHED[printed])


@pytest.mark.parametrize(
    "printed", ["srun: error: n1: task 3: Exited with exit code 1", "srun: Job step aborted", "ok"]
)
def test_words_about_a_program_that_did_start_name_no_launcher(printed: str) -> None:
    assert named([printed], OF_PW) is None


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (["Error reading item NCORE from file INCAR.", "Error code was IERR= 5 ... ."], "setup",
         "VASP refused its input: Error reading item NCORE from file INCAR. Error code was IERR= 5 ... ."),
        (["ERROR: number of bands is not sufficient.", "I found NBANDS = 4", "", "Solutions: none."], "calculator",
         "VASP refused to go on: ERROR: number of bands is not sufficient. I found NBANDS = 4"),
    ],
)  # fmt: skip
def test_a_box_is_its_first_paragraph(lines: list[str], kind: str, said: str) -> None:
    for indent in ("", "  "):
        text = "".join(f"{indent}{line}\n" for line in f" running on 4 cores\n{box(*lines)} end\n".splitlines())
        found = named([text], OF_VASP)
        assert found is not None
        assert (found.failure.kind, found.failure.sentence) == (kind, said)


def test_a_warning_in_a_box_is_no_failure() -> None:
    warning = (
        box("The requested file could not be found.").replace("I REFUSE TO CONTINUE", "").replace("EEEEEEE", "W    W ")
    )
    assert named([warning], OF_VASP) is None


def test_the_line_that_names_an_error_comes_before_the_last_ones(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("begun\nERROR in subspace rotation PSSYEVX: not enough eigenvalues found\n" + 9 * "mpi: aborted\n")
    assert tail(path) == "ERROR in subspace rotation PSSYEVX: not enough eigenvalues found"
    path.write_text("one\n\ntwo\nthree\nfour\n")
    assert tail(path) == "two | three | four"


def raised_by(expression: str) -> Exception:
    try:
        eval(expression)
    except Exception as error:
        return error
    raise AssertionError(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{}['D']", "'D', which is unknown or missing"), ("b'\\xff'.decode()", "bytes that are no text"),
        ("[][1]", "an end before all is told, or a line"), ("next(iter(()))", "an end before all is told"),
        ("float('abc')", "could not convert string to float: 'abc'"), ("None.x", "something unexpected ('NoneType'"),
    ],
)  # fmt: skip
def test_an_exception_in_words(expression: str, said: str) -> None:
    assert in_words(raised_by(expression)).startswith(said)
    assert "Error" not in in_words(raised_by(expression))
