"""How the choice of an expansion is shown: a row for each step of the search, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from dynft_core.expansion_choice.choice import Choice, ChoiceStep, preferred
from dynft_core.expansion_choice.reach import Budget, untried_text
from workflows.views.progress import Progress

HEADER = (
    f"{'':4}{'cutoffs of orders 2, 3, … (Å)':36}{'parameters':>11}{'terms/atom':>11}{'β^(-1/2)':>10}"
    f"{'left out':>10}{'log evidence':>14}"
)


class SumsProgress:
    """Progress of the sums over structures that the search begins with, and now and then carries further."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._progress = stream, Progress(1, "", stream)

    def __enter__(self) -> SumsProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)

    def update(self, order: int, cutoff_A: float, done: int, total: int) -> None:
        """So many structures are in the sums of an order up to a cutoff."""
        if done == 0:
            self._progress.__exit__()
            self._progress = Progress(total, f"order {order} up to {cutoff_A:g} Å, structures", self._stream)
        self._progress.update(done)


def budget_line(budget: Budget, n_left_out: int) -> str:
    """What the search may spend, and what it goes by."""
    return (
        f"choosing cutoffs by the log evidence: at most {budget.parameters} parameters (--max-parameters), "
        f"{budget.terms:g} terms an atom (--max-terms), {budget.memory_GiB:g} GiB (--max-memory); errors in meV/Å, "
        f"'left out' of {n_left_out} structures predicted in turn by the fit to the others"
    )


def row(number: int, step: ChoiceStep, before: ChoiceStep | None) -> str:
    """One row of the table."""
    fewer = before is not None and step.log_evidence < before.log_evidence
    return (
        f"{number:3d} {cutoffs_text(step.cutoffs_A):36}{step.n_parameters:11d}{step.terms:11d}"
        f"{1e3 * step.beta_inv_sqrt_eV_A:10.4g}{1e3 * step.left_out_eV_A:10.4g}{step.log_evidence:14.1f}"
        f"{'  fewer parameters for nearly the same' if fewer else ''}"
    )


def ending(choice: Choice, n_structures: int) -> list[str]:
    """Why the search ended, what it did not try, and what was chosen."""
    seen = "" if choice.n_structures == n_structures else f", on {choice.n_structures} of the structures"
    if choice.interrupted:
        end = "unfinished: the time given with --at-most is over"
    elif choice.untried:
        end = "finished: no larger expansion within the budget is worth its parameters"
    else:
        end = f"finished: no larger expansion up to {cutoffs_text(choice.reach_A)} Å is worth its parameters"
    lines = [f"{end}; {choice.tried} expansions fitted{seen}"]
    lines += [f"not tried: {untried_text(each)}" for each in choice.untried]
    if choice.preferred != len(choice.steps):
        lines.append(f"row {choice.preferred} is taken, as asked for")
    elif (quick := preferred(choice.steps, "speed")) != choice.preferred:
        last, other = choice.steps[-1], choice.steps[quick - 1]
        lines.append(
            f"--prefer speed takes row {quick}: left out {other.left_out_eV_A / last.left_out_eV_A - 1:+.0%}, "
            f"{other.terms / last.terms:.0%} of the terms"
        )
    return lines


def cutoffs_text(cutoffs_A: Mapping[int, float]) -> str:
    """'9.55, 4.97, 3.1'."""
    return ", ".join(f"{cutoffs_A[n]:g}" for n in sorted(cutoffs_A))
