"""What no single value of a campaign file shows: values that contradict each other."""

from __future__ import annotations

import re

from dynft_core.errors import InputError
from dynft_core.symmetry.basis import MAX_ORDER
from dynft_core.vocabulary import PROPERTY_UNITS
from workflows.campaign_file.moment_tensor_checks import check_moment_tensor
from workflows.campaign_file.schema import Campaign, StopWhen


def check_values(campaign: Campaign) -> None:
    """Refuse values that contradict each other.

    Raises:
        InputError: the first that do.
    """
    _check_supercell("crystal.supercell", campaign.crystal.supercell)
    _check_born(campaign)
    _check_groups(campaign)
    for key in ("audit_ratio", "scale_bounds"):
        bounds = getattr(campaign.convergence, key)
        if len(bounds) != 2 or not bounds[0] < 1 < bounds[1]:
            raise InputError(
                f"convergence.{key}", "two bounds, one below 1 and one above", repr(bounds), "for example [0.85, 1.18]"
            )
    _check_model(campaign)
    _check_label_cells(campaign)
    if campaign.convergence.max_walk_ps < campaign.convergence.min_walk_ps:
        raise InputError(
            "convergence.max_walk_ps",
            f"at least min_walk_ps, {campaign.convergence.min_walk_ps:g} ps",
            f"{campaign.convergence.max_walk_ps:g} ps",
            "raise it",
        )
    if (stop := campaign.convergence.stop_when) is not None:
        _check_tolerance(stop, max_order=_highest_order(campaign))
    if campaign.selection.criterion == "fixed" and campaign.selection.threshold_meV_A == 0:
        raise InputError(
            "selection.threshold_meV_A",
            "more than 0 meV/Å for criterion 'fixed'",
            "0",
            "set the largest ε_B that you accept",
        )


def _highest_order(campaign: Campaign) -> int:
    """Of the expansion; what 'auto' may choose."""
    if campaign.expansion is None:
        return 0
    return MAX_ORDER if campaign.automatic else len(campaign.expansion.cutoffs_A) + 1


def _check_supercell(key: str, matrix: list[int] | list[list[int]]) -> None:
    if len(matrix) != 3 or not all(isinstance(row, int) or len(row) == 3 for row in matrix):
        raise InputError(key, "three integers or a 3×3 integer matrix", repr(matrix), "for example [3, 3, 3]")


def _check_born(campaign: Campaign) -> None:
    born, family = campaign.crystal.born, campaign.model.family
    if born is not None and campaign.crystal.metal:
        raise InputError("crystal.metal", "false beside crystal.born", "true", "a metal has no Born charges: drop one")
    if born is not None and family != "force_constants":
        raise InputError("crystal.born", f"no Born charges for models of '{family}'", f"'{born}'", "leave it out")


def _check_groups(campaign: Campaign) -> None:
    """Groups of walkers are told apart by their names, and by their temperatures and cells."""
    for i, section in enumerate(campaign.walkers):
        if section.supercell is not None:
            _check_supercell(f"walkers.{i}.supercell", section.supercell)
    if campaign.walkers and "walkers" in campaign.dynamics.model_fields_set:
        raise InputError(
            "dynamics.walkers",
            "no such key beside [[walkers]]",
            str(campaign.dynamics.walkers),
            "give each group its count",
        )
    for i, group in enumerate(campaign.groups):
        for other in campaign.groups[:i]:
            if group.name.lower() == other.name.lower():  # files bear their names
                again = f"'{group.name}' again"
                raise InputError(f"walkers.{i}.name", "a name of its own", again, "choose another")
            if group.has(other.temperature_K, other.cell):
                raise InputError(
                    f"walkers.{i}",
                    "a temperature or a supercell of its own",
                    f"those of '{other.name}'",
                    "raise that group's count",
                )


def _check_label_cells(campaign: Campaign) -> None:
    """Labels of small cells need a model with phonons, whose parameters are the same in every cell."""
    if not campaign.small_cells:
        return
    if campaign.model.family != "force_constants":
        raise InputError(
            "labels.cells", f"'walkers' for models of '{campaign.model.family}'", repr(campaign.labels.cells), "set it"
        )
    if campaign.initial.method == "reference_md":
        raise InputError(
            "initial.method", "'phonons' or 'rattled' beside labels.cells", "'reference_md'", "choose one of them"
        )
    if campaign.crystal.born is not None:
        raise InputError(
            "labels.cells",
            "'walkers' beside crystal.born: a small cell has not the large one's long waves",
            repr(campaign.labels.cells),
            "set it",
        )
    for i, matrix in enumerate(campaign.labels.cells if isinstance(campaign.labels.cells, list) else ()):
        _check_supercell(f"labels.cells.{i}", matrix)


def _check_model(campaign: Campaign) -> None:
    """The table that describes the model is there, and what is asked for fits it."""
    expansion, family = campaign.expansion, campaign.model.family
    check_moment_tensor(campaign)
    if (expansion is not None) != (family == "force_constants"):
        if expansion is None:
            raise InputError("expansion", "a table with cutoffs_A", "none", "write [expansion] and cutoffs_A = [...]")
        raise InputError("expansion", f"no such table for models of '{family}'", "one", "leave it out")
    if expansion is None:
        if campaign.cheap is not None:
            raise InputError("cheap", f"no such table for models of '{family}'", "one", "leave it out")
        if campaign.initial.method == "phonons":
            raise InputError(
                "initial.method", f"'rattled' or 'reference_md' for models of '{family}'", "'phonons'", "set it"
            )
        return
    floor, largest = expansion.noise_floor_meV_A, campaign.convergence.max_error_meV_A
    if largest is not None and largest <= floor:
        raise InputError(
            "convergence.max_error_meV_A",
            f"more than the noise of the labels, noise_floor_meV_A = {floor:g} meV/Å",
            f"{largest:g} meV/Å, which no campaign reaches",
            "raise it, or leave it out",
        )


def _check_tolerance(stop: StopWhen, max_order: int) -> None:
    unit = PROPERTY_UNITS[stop.property]
    words = stop.tolerance.split()
    number = re.fullmatch(r"[0-9.]+(?:[eE][-+]?[0-9]+)?", words[0]) if words else None
    if number is None or words[1:] not in ([unit], [] if unit == "1" else [unit]) or not float(words[0]) > 0:
        raise InputError(
            "convergence.stop_when.tolerance",
            f"a number above 0 and the unit {unit} for '{stop.property}'",
            f"'{stop.tolerance}'",
            f'for example "0.05{"" if unit == "1" else " " + unit}"',
        )
    if stop.property in ("sigma_A", "conductivity") and max_order == 2:
        raise InputError(
            "convergence.stop_when.property",
            "a property that the orders present can give",
            f"'{stop.property}' with order 2 alone",
            "add a cutoff for order 3, or choose phonons",
        )
