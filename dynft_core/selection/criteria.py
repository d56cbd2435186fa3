"""When a structure that a walker meets is worth a label, and when the walk must be broken off.

All criteria are one threshold on ε_B, computed from what the walker remembers: `decide` compares, and says why.

*Heating.* A walker starts at rest in the perfect crystal, where ε_B = 0 whatever the force field knows, because every
force vanishes there. While it is heated ε_B rises as a power of time, and a growing power t^p stands at p + 1 times its
own average: with cubic displacements that alone passes γ = 3. Such a flag says that the crystal became warm, not that
the structure is unusual. So ε_B met while heating does not enter the window, and neither the trajectory average nor
ε_min selects before the walker has been warm. An absolute threshold ('fixed') holds from the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dynft_core.errors import InputError
from dynft_core.vocabulary import CriterionSettings

N_MINIMA = 10
"""How many of the latest ε_min the threshold of 'epsilon_min' averages."""


@dataclass(frozen=True)
class Memory:
    """What a walker remembers of its walk, as far as the criteria ask.

    Attributes:
        mean_eV_A: μ_k, mean ε_B over the window (nan when it is empty); n_steps: how many steps the window holds.
        heating: the walker has not been at its temperature yet.
        steps_since_flag: MD steps since its latest flag (None: never flagged).
        minima_eV_A: the latest ε_min, at most N_MINIMA.
    """

    mean_eV_A: float
    n_steps: int
    heating: bool
    steps_since_flag: int | None = None
    minima_eV_A: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """`select`: label this structure. `break_`: and leave it. `threshold_eV_A`: inf: nothing can be selected yet."""

    select: bool
    break_: bool
    threshold_eV_A: float
    reason: str


def trajectory_average(settings: CriterionSettings, memory: Memory) -> float:
    """γ μ_k[ε_B] (eV/Å; paper eq. 5), once the window holds `warm_up` steps."""
    return settings.gamma * memory.mean_eV_A if memory.n_steps >= settings.warm_up and memory.n_steps else math.inf


def epsilon_min(settings: CriterionSettings, memory: Memory) -> float:
    """Mean of the latest ε_min (eV/Å; Jinnouchi, Karsai and Kresse, Phys. Rev. B 100, 014105 (2019)).

    ε_min is ε_B right after a refit, at the structure that caused it. Before the first one, `threshold_eV_A` holds;
    at 0 the first warm structure is selected, which is how the memory starts.
    """
    if memory.heating:
        return math.inf
    if not memory.minima_eV_A:
        return settings.threshold_eV_A
    return sum(memory.minima_eV_A) / len(memory.minima_eV_A)


def fixed(settings: CriterionSettings, memory: Memory) -> float:
    """`threshold_eV_A`, whatever the walker has met."""
    return settings.threshold_eV_A


THRESHOLDS: dict[str, Callable[[CriterionSettings, Memory], float]] = {
    "trajectory_average": trajectory_average,
    "epsilon_min": epsilon_min,
    "fixed": fixed,
}


def decide(settings: CriterionSettings, memory: Memory, error_eV_A: float) -> Decision:
    """Judge a structure with ε_B = `error_eV_A`, given what the walker remembers of the steps before it.

    A walker flagged less than `warm_up` steps ago is not flagged again: its structures still look like the one that is
    being labelled. Breaking off knows no such pause.

    Raises:
        InputError: ε_B is negative or not finite (an exploded walker, which must not come here).
    """
    if not 0.0 <= error_eV_A < math.inf:
        raise InputError("ε_B", "a finite number, at least 0", repr(error_eV_A), "the walker has exploded: stop it")
    threshold = THRESHOLDS[settings.name](settings, memory)
    if error_eV_A <= threshold:
        return Decision(False, False, threshold, "")
    # A threshold of 0 is a memory not yet begun, not a scale to break by.
    break_ = 0.0 < settings.break_factor * threshold < error_eV_A
    since = memory.steps_since_flag
    resting = since is not None and since < settings.warm_up
    return Decision(break_ or not resting, break_, threshold, _reason(settings, memory, error_eV_A, threshold, break_))


def _reason(settings: CriterionSettings, memory: Memory, error: float, threshold: float, break_: bool) -> str:
    meaning = {
        "trajectory_average": f"{settings.gamma:g} × mean over the last {memory.n_steps} steps",
        "epsilon_min": f"mean of {len(memory.minima_eV_A)} ε_min" if memory.minima_eV_A else "the first threshold",
        "fixed": "the fixed threshold",
    }[settings.name]
    broken = f", beyond {settings.break_factor:g} times that: walk broken off" if break_ else ""
    return f"ε_B {1e3 * error:.3g} meV/Å > {1e3 * threshold:.3g} meV/Å ({meaning}){broken}"
