"""Errors say what to do in one line, and cross process borders unharmed."""

from __future__ import annotations

import errno
import pickle

import pytest

from dynft_core import errors
from dynft_core.errors import (
    CampaignFailedError,
    CombinedInputError,
    DynftError,
    InputError,
    Problems,
    about_file,
    nearest,
)


def subclasses(cls: type[DynftError]) -> list[type[DynftError]]:
    return [cls, *(deeper for sub in cls.__subclasses__() for deeper in subclasses(sub))]


INPUT_ERRORS = [cls for cls in subclasses(InputError) if cls.__module__ == errors.__name__]
INPUT_ERRORS.remove(CombinedInputError)  # made of others


@pytest.mark.parametrize("cls", INPUT_ERRORS, ids=lambda cls: cls.__name__)
def test_input_errors_survive_pickling(cls: type[InputError]) -> None:
    parts = ("cutoff", "a positive length in Å", "-1.0", "give for example 5.0")
    error = cls(*parts)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (back.argument, back.expected, back.got, back.remedy) == parts
    assert str(back) == str(error) == "cutoff: expected a positive length in Å, got -1.0; give for example 5.0"


def test_problems_are_refused_together_each_on_its_line() -> None:
    problems = Problems()
    problems.refuse()  # nothing yet
    one, two = (InputError(name, "a number above 0", "-1", "correct it") for name in ("encut", "sigma"))
    with problems:
        raise one
    with pytest.raises(InputError) as caught:
        problems.refuse()
    assert caught.value is one
    with problems:
        raise two
    with pytest.raises(CombinedInputError) as several:
        problems.refuse()
    back = pickle.loads(pickle.dumps(several.value))
    assert str(back) == str(several.value) == f"2 things to mend\n(1) {one}\n(2) {two}"
    with pytest.raises(ZeroDivisionError), problems:
        _ = 1 / 0


def test_a_failed_campaign_survives_pickling() -> None:
    back = pickle.loads(pickle.dumps(CampaignFailedError("every label fails: timeout")))
    assert isinstance(back, DynftError)
    assert str(back) == "every label fails: timeout"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room"),
        (errno.EDQUOT, "Disk quota exceeded; make room"),
        (errno.EROFS, "Read-only file system; check path and permissions"),
        (errno.EACCES, "Permission denied; check path and permissions"),
    ],
)
def test_files_in_trouble_are_named_with_what_to_do(number: int, words: str) -> None:
    line = about_file(OSError(number, "a long\nstory of a library's", "runs/ff.h5"))
    assert line.startswith("'runs/ff.h5': ") and words in line and "\n" not in line


def test_the_nearest_name_is_found_in_whatever_case_it_is_written() -> None:
    known = {"encut", "ediff", "FHI-aims"}
    assert nearest("ENCUT", known, "-") == nearest("encutt", known, "-") == "did you mean 'encut'?"
    assert nearest("fhi_aims", known, "-") == "did you mean 'FHI-aims'?"
    assert nearest("kpoints", known, "-") == "-"
