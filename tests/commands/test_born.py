"""Polar crystals on the command line: dynft born, fits with charges, phonons by a direction, campaigns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from small_campaign import SMALL
from small_campaign import refused as refused_after_words

from dynft_core import Crystal, ForceField, Supercell
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.born_file import write_born
from dynft_core.phonons.dynamical_matrix import frequencies
from workflows.commands.app import main
from workflows.run_folder.folder import state_of

OXIDE = bulk("MgO", "rocksalt", a=4.2)
MISSING = "no Born charges of MgO are known"
Refused = Callable[[list[str]], str]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(rock_salt_born: BornCharges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prim.xyz, BORN, train.xyz of 16 atoms and large.xyz of 54, with springs between each atom and its site besides
    dipoles; ff.h5 and plain.h5, fitted with them and without."""
    made = tmp_path_factory.mktemp("polar")
    dipoles, rng = Dipoles(rock_salt_born), np.random.default_rng(0)
    ase.io.write(made / "prim.xyz", OXIDE, format="extxyz")
    write_born(rock_salt_born, made / "BORN")
    for name, repeats, count in (("train", 2, 6), ("large", 3, 2)):
        perfect = make_supercell(OXIDE, repeats * np.eye(3))
        cell, frames = Supercell.match(Crystal(OXIDE), perfect), []
        for _ in range(count):
            u = rng.normal(0, 0.02, (len(perfect), 3))
            u -= u.mean(axis=0)
            forces = dipoles.on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0] - _springs(cell, u)
            atoms = perfect.copy()
            atoms.positions += u
            atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
            frames.append(atoms)
        ase.io.write(made / f"{name}.xyz", frames, format="extxyz")
    fit = ["fit", str(made / "train.xyz"), "--primitive", str(made / "prim.xyz"), "--cutoffs", "2.5"]
    assert main([*fit, "--born", str(made / "BORN"), "-o", str(made / "ff.h5")]) == 0
    assert main([*fit, "-o", str(made / "plain.h5")]) == 0
    return made


def _springs(cell: Supercell, u: np.ndarray) -> np.ndarray:
    """Springs of 4 eV/Å² between nearest neighbours, in all directions alike."""
    found = np.zeros_like(u)
    for i in range(cell.n_atoms):
        for step in np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 2.1:
            d = (cell.positions[i] + step - cell.positions) @ np.linalg.inv(cell.cell)
            j = int(np.abs(d - np.rint(d)).sum(axis=1).argmin())
            found[i] += 4.0 * (u[i] - u[j])
    return found


def test_a_fit_with_charges_is_right_in_larger_cells_and_says_what_it_stands_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [
        json.loads(said(["evaluate", str(folder / name), str(folder / "large.xyz"), "--json"], capsys))
        for name in ("ff.h5", "plain.h5")
    ]
    assert values[0]["rmse"] < 1e-5 and values[1]["rmse"] > 1e-3
    charges = "dielectric constant 3.100, Born charges Mg +1.970, O -1.970 e"
    assert charges in said(["info", str(folder / "ff.h5")], capsys)


def test_phonons_come_to_gamma_along_a_direction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phonons = ["phonons", str(folder / "ff.h5"), "--points", "0 0 0; 1e-5 1e-5 0", "--json"]
    at_gamma, beside = json.loads(said(phonons, capsys))["frequencies_THz"]
    values = json.loads(said([*phonons, "--direction", "1 1 0"], capsys))
    assert values["direction"] == [1, 1, 0]
    np.testing.assert_allclose(values["frequencies_THz"][0][3:], beside[3:], atol=1e-4)
    assert at_gamma[5] < values["frequencies_THz"][0][5] - 3
    text = said(phonons[:-1], capsys)
    assert "without the macroscopic field: --direction" in text and MISSING not in text


def test_bands_and_density_of_states_have_the_longitudinal_mode(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["phonons", str(folder / "ff.h5"), "--bands", "--dos", "--mesh", "4", "--samples", "2"]
    said([*arguments, "-o", str(tmp_path / "out")], capsys)
    bands, dos = (np.loadtxt(tmp_path / "out" / name) for name in ("bands.dat", "dos.dat"))
    highest = frequencies(ForceField.load(folder / "ff.h5"), [[0, 0, 0]], directions=[1.0, 1.0, 0.0]).max()
    at_gamma = np.flatnonzero(~bands[:, 1:4].any(axis=1))
    assert len(at_gamma) >= 2  # on both sides
    np.testing.assert_allclose(bands[at_gamma, 9], highest, atol=1e-6)
    assert dos[:, 0].max() > 0.95 * highest


def test_charges_may_come_later_for_phonons(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["phonons", str(folder / "plain.h5"), "--points", "0 0 0", "--json"]
    plain = json.loads(said(arguments, capsys))["frequencies_THz"][0]
    with_them = json.loads(said([*arguments, "--born", str(folder / "BORN"), "--direction", "0 0 1"], capsys))
    np.testing.assert_allclose(with_them["frequencies_THz"][0][3:5], plain[3:5], atol=1e-6)
    assert with_them["frequencies_THz"][0][5] > plain[5] + 3


def test_born_writes_the_charges_of_a_calculation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again"
    text = said(["born", str(folder), "--structure", str(folder / "prim.xyz"), "-o", str(output)], capsys)
    assert "Born charges Mg +1.970, O -1.970 e" in text
    assert output.read_text() == (folder / "BORN").read_text()


def test_where_charges_are_missing_one_sentence_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, metal = str(folder / "plain.h5"), str(tmp_path / "metal.h5")
    fit = ["fit", str(folder / "train.xyz"), "--primitive", str(folder / "prim.xyz"), "--cutoffs", "2.5", "-o", metal]
    commands = {
        "fit": fit,
        "phonons": ["phonons", plain, "--points", "0 0 0"],
        "export": ["export", plain, "--format", "phonopy", "-o", str(tmp_path / "exported")],
        "evaluate": ["evaluate", plain, str(folder / "large.xyz")],
        "md": ["md", plain, "--supercell", "3 3 3", "--time-ps", "0.002", "-o", str(tmp_path / "large.xyz")],
        "init": ["init", str(folder / "prim.xyz"), "--calculator", "vasp", "-o", str(tmp_path / "campaign")],
    }
    for name, arguments in commands.items():
        assert said(arguments, capsys).count(MISSING) == 1, name
    for element in ("Mg", "O"):
        potential = tmp_path / "potpaw_PBE" / element / "POTCAR"
        potential.parent.mkdir(parents=True)
        head = f"VRHFIN ={element}:\nTITEL = PAW_PBE {element}\nLEXCH = PE\nENMAX = 400.0; ENMIN = 300.0 eV\n"
        potential.write_text(head)
    monkeypatch.setenv("VASP_PP_PATH", str(tmp_path))
    monkeypatch.setenv("ASE_VASP_COMMAND", "true")
    campaign = tmp_path / "campaign" / "campaign.toml"
    train = ["train", str(campaign), "--dry-run"]
    assert said(train, capsys).count(MISSING) == 1
    campaign.write_text(campaign.read_text().replace("[crystal]", "[crystal]\nmetal = true", 1))
    assert MISSING not in said(train, capsys)
    small = ["md", plain, "--supercell", "2 2 2", "--time-ps", "0.002", "-o", str(tmp_path / "small.xyz")]
    assert MISSING not in said(small, capsys)
    assert MISSING not in said(["evaluate", plain, str(folder / "train.xyz")], capsys)
    assert MISSING not in said([*fit, "--metal"], capsys)
    assert MISSING not in said(["phonons", metal, "--points", "0 0 0"], capsys)


def test_of_an_element_nothing_is_said(force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silicon = str(tmp_path / "silicon.xyz")
    ase.io.write(silicon, bulk("Si"), format="extxyz")
    export = ["export", str(force_field), "--format", "phonopy", "-o", str(tmp_path / "exported")]
    init = ["init", silicon, "--calculator", "vasp", "-o", str(tmp_path / "campaign")]
    for arguments in (["phonons", str(force_field), "--points", "0 0 0"], export, init):
        assert "Born" not in said(arguments, capsys)


def test_bad_input_gets_one_line(folder: Path, tmp_path: Path, refused: Refused) -> None:
    lines = (folder / "BORN").read_text().splitlines()
    (tmp_path / "swapped").write_text("\n".join(["default", lines[1], lines[3], lines[2]]))
    (tmp_path / "other").write_text("\n".join([lines[0].replace("Mg", "Ca"), *lines[1:]]))
    (tmp_path / "one").write_text("\n".join(["default", *lines[1:3]]))
    (tmp_path / "charged").write_text("\n".join([*lines[:3], lines[3].replace("-1.97", "-1.2")]))
    (tmp_path / "metal").write_text("\n".join([lines[0], lines[1].replace("3.1", "31000"), *lines[2:]]))
    fit = ["fit", str(folder / "train.xyz"), "--primitive", str(folder / "prim.xyz"), "--cutoffs", "2.5",
           "-o", str(tmp_path / "none.h5"), "--born"]  # fmt: skip
    for name, words in {
        "swapped": "order of the crystal's atoms: Mg, O",
        "other": "those of Ca, O", "one": "independent atoms", "charged": "sum up to 0",
        "metal": "a metal has no Born charges", "absent": "No such file",
    }.items():  # fmt: skip
        assert words in refused([*fit, str(tmp_path / name)]), name
    born = str(folder / "BORN")
    assert "metal" in refused([*fit, born, "--metal"])
    assert "rotational" in refused([*fit, born, "--rotational-sum-rules"])
    assert not (tmp_path / "none.h5").exists()
    plain, polar = str(folder / "plain.h5"), str(folder / "ff.h5")
    assert "Born charges" in refused(["phonons", plain, "--direction", "1 0 0"])
    assert "not all zero" in refused(["phonons", polar, "--direction", "0 0 0"])
    assert "of its own" in refused(["phonons", polar, "--born", born])
    assert "--structure" in refused(["born", born, "-o", str(tmp_path / "again")])


def campaign(folder: Path, tmp_path: Path, more: str) -> Path:
    """MgO by a pair potential: what its charges take from the labels, the expansion gives back."""
    text = SMALL.replace('structure = "prim.xyz"', f'structure = "{folder / "prim.xyz"}"\n{more}')
    text = re.sub(r"cutoffs_A = .*", "cutoffs_A = [3.2]", text).replace("structures = 3", "structures = 0")
    text = text.replace('"tersoff-si"', '"morse"\n[reference.parameters]\nr0 = 2.1\nepsilon = 1.0\nrho0 = 6.0')
    (tmp_path / "polar.toml").write_text(text)
    return tmp_path / "polar.toml"


def test_a_campaign_fits_on_top_of_its_charges(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = campaign(folder, tmp_path, f'born = "{folder / "BORN"}"'), tmp_path / "run"
    main(["train", str(source), "--run", str(run)])
    assert "baseline of dipole-dipole forces: dielectric constant 3.100" in capsys.readouterr().out
    assert state_of(run).phase == "complete"
    found = ForceField.load(run / "force_field.h5")
    assert isinstance(found.baseline, Dipoles) and found.n_labels >= 2
    np.testing.assert_allclose(found.baseline.born.charges[:, 0, 0], [1.97, -1.97], atol=1e-8)
    other = campaign(folder, tmp_path, "metal = true")
    assert "crystal.born" in refused_after_words(["train", str(other), "--run", str(run)], capsys)


def test_a_campaign_with_charges_that_are_not_its_crystal_s_is_refused(
    folder: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "BORN").write_text("\n".join(["default", *(folder / "BORN").read_text().splitlines()[1:3]]))
    assert "independent atoms" in refused(["train", str(campaign(folder, tmp_path, 'born = "BORN"'))])
    both = campaign(folder, tmp_path, 'born = "BORN"\nmetal = true')
    assert "crystal.metal" in refused(["train", str(both)])
