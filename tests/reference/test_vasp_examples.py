"""The paper's campaigns for VASP: what is written for it is what the paper says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from vasp_jobs import use_potcars

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculation import calculate
from dynft_core.reference.calculators import check_calculator, make_calculator
from dynft_core.reference.guard import check_calculation
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.symmetry.space_group import primitive
from workflows.campaign.jobs import reference_settings
from workflows.campaign_file.schema import load_campaign
from workflows.commands.app import main


@pytest.mark.parametrize(
    ("name", "n_atoms", "encut_eV", "mesh", "cutoffs_A", "n_primitive"),
    [
        ("si-vasp", 216, 350, "2 2 2", {2: 8.0, 3: 5.0, 4: 5.0}, 2),
        ("bas-vasp", 216, 500, "2 2 2", {2: 7.1, 3: 4.0, 4: 4.0}, 2),
        ("snse-vasp", 768, 500, "2 2 4", {2: 11.2, 3: 4.5, 4: 4.5, 5: 3.4, 6: 3.4}, 8),
    ],
)
def test_table_i(
    name: str, n_atoms: int, encut_eV: float, mesh: str, cutoffs_A: dict[int, float], n_primitive: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    use_potcars(tmp_path, monkeypatch)
    assert main(["init", name, "-o", str(tmp_path / "mine")]) == 0
    campaign, _ = load_campaign(tmp_path / "mine" / "campaign.toml")
    crystal = Crystal(read_perfect_structure(campaign.crystal.structure))
    assert primitive(crystal).n_atoms == n_primitive
    assert dict(enumerate(campaign.expansion.cutoffs_A, start=2)) == cutoffs_A
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    heights = 1 / np.linalg.norm(np.linalg.inv(supercell.cell), axis=0)
    assert supercell.n_atoms == n_atoms and heights.min() > 2 * cutoffs_A[2] * 0.99
    settings = reference_settings(campaign)
    assert check_calculator(settings, supercell.atoms())[0].startswith("POTCARs: PAW_PBE")
    calculator = make_calculator(settings, tmp_path / "job")
    (tmp_path / "job").mkdir()
    atoms = supercell.atoms(0.01 * np.random.default_rng(1).standard_normal((n_atoms, 3)))
    calculator.initialize(atoms)
    calculator.write_input(atoms)
    lines = (tmp_path / "job" / "INCAR").read_text().splitlines()
    incar = {tag.strip(): value.strip() for tag, _, value in (line.partition("=") for line in lines if "=" in line)}
    assert float(incar["ENCUT"]) == encut_eV
    assert float(incar["EDIFF"]) == 1e-8
    wanted = {"GGA": "PS", "PREC": "Accurate", "LREAL": ".FALSE.", "NSW": "0", "ISYM": "0", "ISMEAR": "0"}
    assert {tag: incar[tag] for tag in wanted} == wanted
    kpoints = (tmp_path / "job" / "KPOINTS").read_text().splitlines()
    assert kpoints[2].lower().startswith("m") and kpoints[3].split() == mesh.split()
    written = read(tmp_path / "job" / "POSCAR")
    assert written.get_chemical_formula() == atoms.get_chemical_formula()
    assert np.abs(written.positions - atoms.positions[calculator.sort]).max() < 1e-9
    titles = [line for line in (tmp_path / "job" / "POTCAR").read_text().splitlines() if "TITEL" in line]
    assert [line.split()[3] for line in titles] == list(dict.fromkeys(written.get_chemical_symbols()))


def test_silicon_of_the_example_through_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(tmp_path, monkeypatch)
    campaign, _ = load_campaign("si-vasp")
    atoms = read_perfect_structure(campaign.crystal.structure)
    atoms.positions += 0.02 * np.random.default_rng(1).standard_normal(atoms.positions.shape)
    (tmp_path / "job").mkdir()
    settings = reference_settings(campaign)
    check_calculation(calculate(atoms, settings, tmp_path / "job"), atoms, settings)
