"""Born charges that a campaign's reference computes: VASP's stand-in, and ph.x where it is installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import standin_vasp
from ase.build import bulk
from vasp_jobs import write_potcars

from dynft_core import Crystal
from dynft_core.errors import InputError
from dynft_core.reference.born_calculation import check_born_calculation, compute_born_charges
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from dynft_core.reference.failures import LabelError
from dynft_core.vocabulary import ReferenceSettings

CARBIDE = bulk("SiC", "zincblende", a=4.32)
SUPERCELL = bulk("SiC", "zincblende", a=4.32, cubic=True)

STANDIN = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np, standin_vasp
from pathlib import Path
run = standin_vasp.read_inputs(Path.cwd())
assert run.incar["LEPSILON"] == ".TRUE." and "NCORE" not in run.incar
rows, sign = standin_vasp.rows, {{"Si": 1.0, "C": {carbon}}}
ions = "".join("<set>\\n" + rows(2.7 * sign[s] * np.eye(3)) + "</set>\\n" for s in run.atoms.symbols)
run.xml_extra = (
    '<varray name="epsilon" >\\n' + rows(7.0 * np.eye(3)) + '</varray>\\n'
    '<array name="born_charges" >\\n<dimension dim="1">ion</dimension>\\n' + ions + '</array>\\n'
)
standin_vasp.write_outputs(run)
"""


def by_standin(folder: Path, monkeypatch: pytest.MonkeyPatch, carbon: float = -1.0) -> ReferenceSettings:
    write_potcars(folder / "potentials")
    program = folder / "vasp.py"
    program.write_text(STANDIN.format(folder=str(Path(standin_vasp.__file__).parent), carbon=carbon))
    monkeypatch.setenv("VASP_PP_PATH", str(folder / "potentials"))
    monkeypatch.setenv("ASE_VASP_COMMAND", f"{sys.executable} {program}")
    return ReferenceSettings("vasp", {"encut": 400.0, "kpts": [2, 2, 2], "ncore": 4, "setups": {}}, timeout_s=120.0)


def test_vasp_computes_them_with_denser_k_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, folder = by_standin(tmp_path, monkeypatch), tmp_path / "attempt"
    folder.mkdir()
    found = compute_born_charges(Crystal(CARBIDE), SUPERCELL, settings, folder)
    np.testing.assert_allclose(found.charges, [2.7 * np.eye(3), -2.7 * np.eye(3)], atol=1e-8)
    np.testing.assert_allclose(found.dielectric, 7.0 * np.eye(3), atol=1e-8)
    divisions = [int(n) for n in (folder / "KPOINTS").read_text().splitlines()[3].split()]
    lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(CARBIDE.cell[:]), axis=0)
    assert np.all(lengths / divisions <= 0.2 + 1e-9) and max(divisions) < 16


def test_charges_that_do_not_add_up_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = by_standin(tmp_path, monkeypatch, carbon=-0.5)
    (tmp_path / "attempt").mkdir()
    with pytest.raises(InputError, match="sum up to 0"):
        compute_born_charges(Crystal(CARBIDE), SUPERCELL, settings, tmp_path / "attempt")


def test_a_reference_that_knows_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'vasp' and 'espresso' alone"):
        check_born_calculation(ReferenceSettings("emt"))
    alone = tmp_path / "pw.x"
    alone.write_text("#!/bin/sh\n")
    alone.chmod(0o755)
    with pytest.raises(InputError, match=r"ph\.x beside pw\.x"):
        check_born_calculation(ReferenceSettings("espresso", {"command": f"mpirun -n 2 {alone}"}))


@pytest.mark.dft
@pytest.mark.skipif(
    shutil.which("ph.x") is None or not (DEBIAN_PSEUDOPOTENTIALS / "As.pz-bhs.UPF").is_file(),
    reason="needs ph.x and Debian's pseudopotentials: apt-get install quantum-espresso quantum-espresso-data",
)
def test_ph_x_computes_them_after_pw_x(tmp_path: Path) -> None:
    """Aluminium arsenide: published 2.17 e and 9.2 (Giannozzi et al., Phys. Rev. B 43, 7231 (1991): 2.17, 9.2)."""
    parameters = {
        "pseudopotentials": {"Al": "Al.pz-vbc.UPF", "As": "As.pz-bhs.UPF"}, "kpts": [1, 1, 1],
        "input_data": {"system": {"ecutwfc": 12.0, "occupations": "smearing", "degauss": 0.01},
                       "electrons": {"conv_thr": 1e-9}},
    }  # fmt: skip
    arsenide = bulk("AlAs", "zincblende", a=5.61)
    (tmp_path / "attempt").mkdir()
    settings = ReferenceSettings("espresso", parameters, timeout_s=600.0)
    found = compute_born_charges(Crystal(arsenide), arsenide * (2, 2, 2), settings, tmp_path / "attempt")
    assert found.charges[0, 0, 0] == pytest.approx(2.17, abs=0.1)
    assert found.dielectric[0, 0] == pytest.approx(9.2, abs=1.0)
    assert not list((tmp_path / "attempt").glob("pwscf.*"))
    arsenide.numbers[:] = 13  # two aluminium atoms: a metal
    (tmp_path / "metal").mkdir()
    with pytest.raises((InputError, LabelError)):
        compute_born_charges(Crystal(arsenide), arsenide * (2, 2, 2), settings, tmp_path / "metal")
