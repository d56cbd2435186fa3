"""Finished VASP folders as labels: sorted atoms, settings, what is cut off or did not converge."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from vasp_jobs import use_potcars

from dynft_core.errors import FileFormatError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculation import calculate
from dynft_core.reference.imported import finished_files, other_settings, read_finished
from dynft_core.vocabulary import ReferenceSettings

SETTINGS = ReferenceSettings("vasp", {"encut": 400.0, "kpts": [2, 2, 2]})


def test_what_a_finished_folder_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(tmp_path, monkeypatch)
    supercell = Supercell.build(Crystal(bulk("SiC", "zincblende", a=4.32, cubic=True)), (1, 1, 1))
    u = 0.03 * np.random.default_rng(4).standard_normal((supercell.n_atoms, 3))
    folder = tmp_path / "done" / "deep"
    folder.mkdir(parents=True)
    computed = calculate(Atoms(supercell.atoms(u - u.mean(axis=0))), SETTINGS, folder)
    assert finished_files(tmp_path / "done") == [folder / "vasprun.xml"]  # OUTCAR beside it says less
    found = read_finished(folder / "vasprun.xml")
    assert other_settings(found, SETTINGS) == ""
    (frame,) = found.frames
    displacements, order = supercell.frame_displacements(frame)
    assert not np.array_equal(order, np.arange(len(order)))  # VASP's species are sorted, the crystal's alternate
    assert np.abs(displacements - (u - u.mean(axis=0))).max() < 1e-6
    assert np.abs(frame.get_forces()[order] - computed.forces).max() < 1e-6
    other = ReferenceSettings("vasp", {"encut": 450.0, "kpts": [3, 3, 3], "xc": "pbe"})
    difference = other_settings(found, other)
    for words in ("encut = 400.0, the campaign has 450.0", "kpts = [2, 2, 2], the campaign has [3, 3, 3]", "gga = PS"):
        assert words in difference
    assert "the campaign's calculator is espresso" in other_settings(found, ReferenceSettings("espresso"))

    text = (folder / "vasprun.xml").read_text()
    for where in (0.3, 0.6, 0.95):
        (folder / "vasprun.xml").write_text(text[: int(where * len(text))])
        with pytest.raises(FileFormatError, match=r"vasprun\.xml: expected"):
            read_finished(folder / "vasprun.xml")
    step = text[text.index("<scstep>") : text.index("</scstep>") + len("</scstep>")]
    (folder / "vasprun.xml").write_text(text.replace(step, 200 * step, 1))
    with pytest.raises(FileFormatError, match="converged cycles"):
        read_finished(folder / "vasprun.xml")
    shutil.move(folder / "vasprun.xml", tmp_path / "vasprun.xml")
    outcar = (folder / "OUTCAR").read_text()
    (folder / "OUTCAR").write_text(outcar[: outcar.index("General timing")])
    with pytest.raises(FileFormatError, match="OUTCAR: expected"):
        read_finished(folder / "OUTCAR")
