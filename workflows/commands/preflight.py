"""Checks of a campaign before anything runs or is written."""

from __future__ import annotations

from pathlib import Path

from dynft_core.errors import InputError
from dynft_core.expansion_choice.reach import Budget, check_budget
from dynft_core.interop.phono3py import require_phono3py
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.registry import family
from dynft_core.reference.born_calculation import check_born_calculation
from dynft_core.reference.calculators import check_calculator, runs_in_process
from dynft_core.reference.small_cells import on_cell
from dynft_core.symmetry.basis import check_cutoffs
from workflows.campaign.buying import MOST_CANDIDATES
from workflows.campaign.jobs import chooses_batches, reference_settings
from workflows.campaign.paths import SUPERCELL
from workflows.campaign_file.groups import matrix_of
from workflows.campaign_file.schema import Campaign, ExpansionSection
from workflows.run_folder.group_cells import group_cell, to_relax
from workflows.user_files.born_charges import IN_CAMPAIGN, campaign_born_charges, fit_lines, polar_note
from workflows.user_files.crystals import read_crystal
from workflows.user_files.data_checks import check_memory
from workflows.user_files.expansion_notes import images_note, shell_note
from workflows.user_files.label_cells import label_cells
from workflows.user_files.moment_tensor_notes import moment_tensor_notes


def check_campaign(campaign: Campaign) -> list[str]:
    """Check what the campaign file alone does not show; returns notes for the user.

    Raises:
        InputError: unusable structure, supercell, cutoffs or calculator, a property whose program is not installed.
    """
    given = read_crystal(Path(campaign.crystal.structure), "crystal.structure")
    crystal = given.crystal
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    recipes = {group.cell: group.recipe for group in campaign.groups}
    cells = [supercell, *(group_cell(recipe, crystal) for cell, recipe in recipes.items() if cell != SUPERCELL)]
    for cell in cells:
        if cell.n_atoms < 2:
            raise InputError(
                "crystal.supercell",
                "two atoms or more: one alone does not move",
                f"{cell.matrix.tolist()}",
                "give a larger one",
            )
    supercell = max(cells, key=lambda cell: cell.n_atoms)
    family(campaign.model_settings().family)
    if campaign.cheap is not None:
        campaign.cheap.potential().check(ReferenceCell.of(supercell.atoms()))
    if (stop := campaign.convergence.stop_when) is not None and stop.property == "conductivity":
        require_phono3py()
    found = [] if campaign.expansion is None else _expansion_notes(campaign, campaign.expansion, supercell)
    if campaign.model.of_moment_tensor:
        structures = [cell.atoms() for cell in cells]
        known = {int(z) for atoms in structures for z in atoms.numbers}
        for section in campaign.relaxations:
            structures += to_relax(section, known)
        found += moment_tensor_notes(campaign.model.settings(), reference_settings(campaign), structures)
    notes = check_calculator(reference_settings(campaign), supercell.atoms())
    notes += _label_cells_notes(campaign, crystal, cells[0])
    found += _born_notes(campaign, crystal)
    return [*given.notes, *notes, *(note for note in found if note)]


def _label_cells_notes(campaign: Campaign, crystal: Crystal, supercell: Supercell) -> list[str]:
    """In which cells labels are computed; their k points are those of the supercell, or they are refused."""
    small = label_cells(campaign.label_cells, matrix_of(campaign.crystal.supercell), crystal)
    for cell in small.values():
        on_cell(reference_settings(campaign), cell.cell, supercell.cell)
    sizes = sorted(cell.n_atoms for cell in small.values())
    return [f"labels also in {len(sizes)} cells of {sizes[0]} to {sizes[-1]} atoms, where they pay"] if sizes else []


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
