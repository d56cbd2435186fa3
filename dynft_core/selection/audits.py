"""When audits are taken: structures labelled because of the time, not because ε_B is large.

Audits measure the true error while the campaign runs. They cost labels, so the campaign has one schedule for all its
walkers, geometric in walked time: the force field changes most at the beginning, and by less and less.
"""

from __future__ import annotations

from dynft_core.errors import InputError


def audit_steps(
    first_ps: float, ratio: float, timestep_fs: float, from_step: int, to_step: int, walker: int, n_walkers: int
) -> tuple[int, ...]:
    """Steps in (from_step, to_step] at which `walker` is audited, ascending.

    Audit j lies at a walked time of first_ps · ratio^(j/s) and is taken by walker j mod n_walkers, with s = 2, or 1 for
    a single walker. So several walkers share two audits for each factor `ratio` of walked time, taken in turn, however
    many they are: four walkers with 0.2 ps and ratio 2 take seven in the first 2 ps, and 23 in 500 ps.

    Args:
        first_ps: walked time of the first audit.
        from_step, to_step: absolute MD steps of the walk that is planned.

    Raises:
        InputError: first_ps not above 0, or ratio not above 1 (there would be no end of audits).
    """
    if not first_ps > 0:
        raise InputError("first_ps", "a time above 0 ps", repr(first_ps), "use 0.2")
    if not ratio > 1:
        raise InputError("ratio", "a number above 1", repr(ratio), "use 2")
    growth = ratio ** (1 / min(2, n_walkers))
    steps: set[int] = set()
    number, time_fs = 0, 1000 * first_ps
    while (step := round(time_fs / timestep_fs)) <= to_step:
        if number % n_walkers == walker and step > from_step:
            steps.add(step)
        number += 1
        time_fs = 1000 * first_ps * growth**number
    return tuple(sorted(steps))
