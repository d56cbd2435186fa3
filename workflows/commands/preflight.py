"""Checks of a campaign before anything runs or is written."""

from __future__ import annotations

from pathlib import Path

from dynft_core.errors import InputError
from dynft_core.expansion_choice.reach import Budget, check_budget
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.registry import family
from dynft_core.reference.born_calculation import check_born_calculation
from dynft_core.reference.calculators import check_calculator, runs_in_process
from dynft_core.symmetry.basis import check_cutoffs
from workflows.campaign.jobs import chooses_batches, reference_settings
from workflows.campaign.paths import SUPERCELL
from workflows.campaign.plan import MOST_CANDIDATES
from workflows.campaign_file.schema import Campaign, ExpansionSection
from workflows.run_folder.group_cells import group_cell, to_relax
from workflows.user_files.born_charges import IN_CAMPAIGN, campaign_born_charges, fit_lines, polar_note
from workflows.user_files.crystals import read_crystal
from workflows.user_files.data_checks import check_memory
from workflows.user_files.expansion_notes import images_note, shell_note
from workflows.user_files.moment_tensor_notes import moment_tensor_notes


def check_campaign(campaign: Campaign) -> list[str]:
    """Check what the campaign file alone does not show; returns notes for the user.

    Raises:
        InputError: unusable structure, supercell, cutoffs or calculator.
    """
    given = read_crystal(Path(campaign.crystal.structure), "crystal.structure")
    crystal = given.crystal
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    recipes = {group.cell: group.recipe for group in campaign.groups}
    cells = [supercell, *(group_cell(recipe, crystal) for cell, recipe in recipes.items() if cell != SUPERCELL)]
    for cell in cells:
        if cell.n_atoms < 2:
            raise InputError(
                "crystal.supercell", "two atoms or more: one alone does not move", f"{cell.matrix.tolist()}",
                "give a larger one",
            )
    supercell = max(cells, key=lambda cell: cell.n_atoms)
    family(campaign.model_settings().family)
    if campaign.cheap is not None:
        campaign.cheap.potential().check(ReferenceCell.of(supercell.atoms()))
    found = [] if campaign.expansion is None else _expansion_notes(campaign, campaign.expansion, supercell)
    if campaign.model.of_moment_tensor:
        structures = [cell.atoms() for cell in cells]
        known = {int(z) for atoms in structures for z in atoms.numbers}
        for section in campaign.relaxations:
            structures += to_relax(section, known)
        found += moment_tensor_notes(campaign.model.settings(), reference_settings(campaign), structures)
    notes = check_calculator(reference_settings(campaign), supercell.atoms())
    found += _born_notes(campaign, crystal)
    return [*given.notes, *notes, *(note for note in found if note)]


def _born_notes(campaign: Campaign, crystal: Crystal) -> list[str]:
    if (born := campaign_born_charges(campaign.crystal.born, crystal)) is not None:
        return fit_lines(crystal, Dipoles(born), campaign.crystal.metal)
    if campaign.crystal.born is not None:
        check_born_calculation(reference_settings(campaign))
        return []
    by_potential = runs_in_process(reference_settings(campaign))
    settled = campaign.crystal.metal or by_potential or campaign.expansion is None
    return [polar_note(crystal, settled, IN_CAMPAIGN)]


def _expansion_notes(campaign: Campaign, expansion: ExpansionSection, supercell: Supercell) -> list[str]:
    if isinstance(expansion.cutoffs_A, str):
        check_budget(supercell, Budget(expansion.max_parameters))
        return [f"the labels choose the expansion, up to {expansion.max_parameters} parameters"]
    cutoffs_A = dict(enumerate(expansion.cutoffs_A, start=2))
    check_cutoffs(supercell.crystal, cutoffs_A)
    n_candidates = MOST_CANDIDATES if chooses_batches(campaign) else 0
    memory = check_memory(supercell, cutoffs_A, argument="expansion.cutoffs_A", n_candidates=n_candidates)
    return [memory, shell_note(supercell.crystal, cutoffs_A), images_note(supercell, cutoffs_A, expansion.prior)]
