"""What a campaign file must and must not say of moment tensor potentials."""

from __future__ import annotations

from dynft_core.errors import InputError
from workflows.campaign_file.schema import Campaign, ModelSection

_KEYS = ("cutoff_A", "min_distance_A", "level", "radial")


def check_moment_tensor(campaign: Campaign) -> None:
    """Refuse keys of moment tensor potentials in other campaigns, and other families' keys in theirs.

    Raises:
        InputError: the first that does not belong.
    """
    if campaign.model.of_moment_tensor:
        _check_own(campaign.model)
        _check_campaign(campaign)
        return
    family = campaign.model.family
    for name in _KEYS:
        if name in campaign.model.model_fields_set and getattr(campaign.model, name) != ModelSection().radial:
            raise InputError(
                f"model.{name}",
                f"no such key for models of '{family}'",
                repr(getattr(campaign.model, name)),
                "leave it out, or set model.family = 'moment_tensor'",
            )
    if campaign.selection.criterion == "grade" and family == "force_constants":
        raise InputError(
            "selection.criterion",
            "'trajectory_average', 'epsilon_min', 'fixed' or 'random' for force constants",
            "'grade'",
            "set one of these: grades are of moment tensor potentials",
        )
    if campaign.relaxations:
        raise InputError(
            "relaxations",
            f"no such tables for models of '{family}'",
            f"'{campaign.relaxations[0].name}'",
            "leave them out, or set model.family = 'moment_tensor'",
        )
    for i, section in enumerate(campaign.walkers):
        for name, given in (("structure", section.structure), ("strain", section.strain)):
            if given and family == "force_constants":
                raise InputError(
                    f"walkers.{i}.{name}",
                    "no such key for force constants, which are of one crystal",
                    repr(given),
                    "leave it out, or set model.family = 'moment_tensor'",
                )


def _check_own(model: ModelSection) -> None:
    if model.parameters:
        raise InputError(
            "model.parameters",
            "no such key for moment tensor potentials",
            ", ".join(model.parameters),
            "write cutoff_A, min_distance_A and level under [model]",
        )
    if model.cutoff_A is None:
        raise InputError("model.cutoff_A", "where neighbours end, Å", "nothing", "give for example 5.2")
    if model.min_distance_A is None:
        raise InputError(
            "model.min_distance_A",
            "the shortest distance of two atoms that walks may have, Å",
            "nothing",
            "give about 0.7 times the distance of nearest neighbours",
        )
    if not model.min_distance_A < model.cutoff_A:
        raise InputError(
            "model.min_distance_A",
            f"less than cutoff_A, {model.cutoff_A:g} Å",
            f"{model.min_distance_A:g} Å",
            "lower it",
        )
    if model.radial != "fixed":
        raise InputError(
            "model.radial",
            "'fixed' in a campaign",
            f"'{model.radial}'",
            "leave it out; dynft fit --radial trained takes the labels of a campaign",
        )


def _check_campaign(campaign: Campaign) -> None:
    selection = campaign.selection
    if selection.criterion == "grade" and selection.policy == "continue":
        raise InputError(
            "selection.policy",
            "'wait' with criterion 'grade': walks stop at γ_break for labels",
            "'continue'",
            "set 'wait', or another criterion",
        )
    if selection.criterion == "grade" and not selection.select_grade < selection.break_grade:
        raise InputError(
            "selection.break_grade",
            f"more than select_grade, {selection.select_grade:g}",
            f"{selection.break_grade:g}",
            "raise it",
        )
    if campaign.relaxations and selection.criterion != "grade":
        raise InputError(
            "relaxations",
            "criterion 'grade', which breaks them off",
            f"'{selection.criterion}'",
            "set selection.criterion = 'grade', or leave them out",
        )
    names = [section.name.lower() for section in campaign.relaxations]
    if len(set(names)) < len(names):
        raise InputError("relaxations", "a name of its own for each", ", ".join(names), "choose others")
    if campaign.convergence.stop_when is not None:
        raise InputError(
            "convergence.stop_when",
            "no such table for moment tensor potentials, which have no force constants",
            "one",
            "leave it out",
        )
