"""`dynft phonons`, `anharmonicity` and `export` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest

from dynft_core.interop.export import FORMATS
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.anharmonicity import anharmonicity
from dynft_core.phonons.dynamical_matrix import frequencies, frequency_errors
from dynft_core.phonons.harmonic import harmonic_forces
from workflows.commands.app import main
from workflows.user_files.q_points import parse_mesh, parse_points


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that bad input gets."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dynft: ")
    assert captured.err.count("\n") == 1
    return captured.err


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def file(silicon_files: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 atoms, images 7.68 Å apart: order 2 folds, order 3 does not."""
    path = tmp_path_factory.mktemp("fit") / "ff.h5"
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "5.0,3.0", "-o", str(path)]) == 0
    return str(path)


def test_phonons_at_points(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "0 0 0; 0.5 0 0.5; 1/3, 0.25 -0.1"
    values = json.loads(printed(["phonons", file, "--points", text, "--json"], capsys))
    q = [[0, 0, 0], [0.5, 0, 0.5], [1 / 3, 0.25, -0.1]]
    loaded = ForceField.load(file)
    np.testing.assert_allclose(values["frequencies_THz"], frequencies(loaded, q), atol=1e-9)
    np.testing.assert_allclose(values["errors_THz"], frequency_errors(loaded, q, 50), atol=1e-9)
    assert values["labels"] == ["Γ", "X", ""]
    assert values["imaginary"] == []
    assert values["images"] == "shortest"
    assert values["files"] == []


def test_phonons_and_properties_have_the_same_error_bars(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One seed, as many samples: a frequency has one error bar, whichever command prints it."""
    phonons = json.loads(printed(["phonons", file, "--json"], capsys))
    found = json.loads(printed(["properties", file, "--property", "phonons", "--json"], capsys))["phonons"]
    assert np.ravel(phonons["frequencies_THz"]).tolist() == [v["value"] for v in found]
    assert np.ravel(phonons["errors_THz"]).tolist() == [v["error"] for v in found]
    text = printed(["properties", file, "--property", "phonons"], capsys)
    assert "\n  Γ 1                   0.0000 ± 0.0000\n" in text
    for numbers in ("frequencies_THz", "errors_THz"):
        assert all(f"{x:z.4f}" in text for x in np.ravel(phonons[numbers]))


def test_phonons_for_people(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["phonons", file], capsys)
    optical = float(frequencies(ForceField.load(file), [0, 0, 0])[0, -1])
    (gamma,) = [line for line in out.splitlines() if line.startswith("Γ")]
    assert f"{optical:.4f} ± " in gamma
    assert "-0.0000" not in out
    assert "\nX  (0.5 0 0.5)" in out
    assert "THz" in out
    assert "note: the second-order cutoff, 5 Å" in out
    assert "shortest images" in out
    assert "all images" in printed(["phonons", file, "--images", "all", "--points", "0 0 0"], capsys)


def test_bands_and_density_of_states(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "phonons"
    arguments = ["phonons", file, "--bands", "--dos", "--mesh", "6", "--samples", "5", "-o", str(folder), "--json"]
    values = json.loads(printed(arguments, capsys))
    names = ["bands.dat", "bands.png", "dos.dat", "dos.png", "velocities.dat"]
    assert sorted(Path(f).name for f in values["files"]) == sorted(p.name for p in folder.iterdir()) == names
    bands = np.loadtxt(folder / "bands.dat")
    assert bands.shape[1] == 4 + 6 + 6
    np.testing.assert_allclose(bands[:, 4:10], frequencies(ForceField.load(file), bands[:, 1:4]), atol=1e-4)
    assert (folder / "bands.dat").read_text().startswith("# distance_1/A q1 q2 q3 f1_THz")
    density = np.loadtxt(folder / "dos.dat")
    assert np.trapezoid(density[:, 1], density[:, 0]) == pytest.approx(6.0, rel=1e-3)
    for picture in ("bands.png", "dos.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_imaginary_modes_are_said(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    loaded = ForceField.load(file)
    posterior = loaded.posterior
    # The mean follows from alpha, beta and the statistics: it is the moment that is turned over.
    statistics = replace(posterior.statistics, moment=-posterior.statistics.moment)
    turned = replace(loaded, posterior=replace(posterior, mean=-posterior.mean, statistics=statistics))
    path = tmp_path / "turned.h5"
    turned.save(path)
    arguments = ["phonons", str(path), "--points", "0 0 0", "--bands", "--samples", "5", "-o", str(tmp_path)]
    out = printed(arguments, capsys)
    optical = float(frequencies(loaded, [0, 0, 0])[0, -1])
    assert f"imaginary: Γ (0 0 0), modes 1-3: -{optical:.4g} ± " in out
    assert out.count("imaginary: Γ (0 0 0), modes 1-3") == 1
    assert "imaginary: X (" in out
    values = json.loads(printed([*arguments, "--json"], capsys))
    assert values["imaginary"][0]["label"] == "Γ"
    assert values["imaginary"][0]["frequency_THz"] == pytest.approx(-optical, abs=1e-6)


def test_anharmonicity_of_a_data_set(file: str, silicon_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = silicon_files / "test.xyz"
    values = json.loads(printed(["anharmonicity", file, str(data), "--json"], capsys))
    loaded = ForceField.load(file)
    frames = ase.io.read(data, ":")
    u = np.array([loaded.supercell.displacements(frame) for frame in frames])
    forces = np.array([frame.get_forces() for frame in frames])
    expected = anharmonicity(forces, harmonic_forces(loaded, u), loaded.supercell.numbers)
    assert values["sigma"] == pytest.approx(expected.sigma, rel=1e-12)
    assert values["per_species"] == pytest.approx({"Si": expected.sigma})
    np.testing.assert_allclose(values["per_structure"], expected.per_structure)
    assert len(values["modes"]["sigma"]) == len(values["modes"]["frequencies_THz"]) == 3 * 16 - 3
    assert values["n_structures"] == 4
    out = printed(["anharmonicity", file, str(data)], capsys)
    assert f"{expected.sigma:.6f} over 4 structures" in out
    assert "σ_A of Si" in out


def test_anharmonicity_of_molecular_dynamics(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trajectory = str(tmp_path / "md.xyz")
    arguments = ["md", file, "--supercell", "2 2 3", "--temperature", "100", "--time-ps", "0.2", "-o", trajectory]
    printed([*arguments, "--interval", "50"], capsys)
    values = json.loads(printed(["anharmonicity", file, trajectory, "--json"], capsys))
    assert values["n_structures"] == 4
    assert 0 < values["sigma"] < 0.5


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("phonopy", {"FORCE_CONSTANTS", "phonopy.yaml"}),
        ("phono3py", {"fc2.hdf5", "fc3.hdf5", "phono3py.yaml"}),
        ("shengbte", {"FORCE_CONSTANTS_2ND", "FORCE_CONSTANTS_3RD", "CONTROL"}),
        ("hiphive", {"force_constants.fcs"}),
        (
            "gpumd",
            {
                "fcp.txt",
                "r0.in",
                "model.xyz",
                "fcs_order2.in",
                "fcs_order3.in",
                "clusters_order2.in",
                "clusters_order3.in",
            },
        ),
    ],
)
def test_export(name: str, files: set[str], file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    out = printed(["export", file, "--format", name, "-o", str(folder)], capsys)
    assert {p.name for p in folder.iterdir()} == files
    assert all(f"written: {folder / f}" in out for f in files)
    assert "note: cutoffs of order 2 reach beyond half" in out


def test_export_on_another_supercell(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(["export", file, "--format", "phonopy", "-o", str(tmp_path), "--supercell", "3 3 3"], capsys)
    assert "note:" not in out
    assert (tmp_path / "FORCE_CONSTANTS").read_text().splitlines()[0] == "2 54"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points", "0 0"], "three numbers"),
        (["--points", "0 0 x"], "'0 0 x'"),
        (["--points", "1/0 0 0"], "'1/0 0 0'"),
        (["--points", ";"], "at least one point"),
        (["--dos", "--mesh", "0 1 1"], "--mesh"),
        (["--dos", "--mesh", "2 2"], "--mesh"),
        (["--samples", "1"], "--samples"),
        (["--images", "nearest"], "--images"),
    ],
)
def test_bad_arguments_of_phonons(
    arguments: list[str], words: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert words in refused(["phonons", file, *arguments, "-o", str(folder)], capsys)
    assert not folder.exists()


def test_bad_arguments_of_export(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "out")
    assert "phono3py" in refused(["export", file, "--format", "alamode", "-o", folder], capsys)
    three = ["export", file, "--format", "phonopy", "--supercell"]
    assert "--supercell" in refused([*three, "2 2", "-o", folder], capsys)
    assert "diagonal" in refused(
        ["export", file, "--format", "shengbte", "-o", folder, "--supercell", "-1 1 1 1 -1 1 1 1 -1"], capsys
    )
    assert "GiB" in refused(["export", file, "--format", "phono3py", "-o", folder, "--supercell", "20 20 20"], capsys)
    assert not Path(folder).exists()
    assert f"'{file}'" in refused(["export", file, "--format", "phonopy", "-o", file], capsys)
    assert "check the path" in refused(["export", str(tmp_path / "none.h5"), "--format", "gpumd", "-o", folder], capsys)


def test_points_alone_are_written_where_a_folder_is_given(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(["phonons", file, "--points", "0.5 0 0.5", "-o", str(tmp_path / "out")], capsys)
    assert f"written: {tmp_path / 'out' / 'points.json'}" in out
    values = json.loads((tmp_path / "out" / "points.json").read_text())
    np.testing.assert_allclose(values["frequencies_THz"], frequencies(ForceField.load(file), [0.5, 0, 0.5]), atol=1e-9)


def test_bad_folder_of_phonons(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"'{file}'" in refused(["phonons", file, "--bands", "-o", file], capsys)


def test_the_command_offers_every_format_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    helped = printed(["export", "--help"], capsys)
    told = refused(["export", "nowhere.h5", "--format", "alamode", "-o", "nowhere"], capsys)
    assert FORMATS and all(name in helped and name in told for name in FORMATS)
    assert "'phono3py'?" in refused(["export", "nowhere.h5", "--format", "phono3", "-o", "nowhere"], capsys)


def test_points_and_meshes_as_they_are_written() -> None:
    np.testing.assert_array_equal(parse_points("0.5,0,1/2;\n 1e-1 0 -2 "), [[0.5, 0, 0.5], [0.1, 0, -2]])
    assert parse_mesh("4") == (4, 4, 4)
    assert parse_mesh("2, 3 4") == (2, 3, 4)


def test_properties_with_error_bars(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    force_field = ForceField.load(file)
    values = json.loads(printed(["properties", file, "--temperature", "500", "--json"], capsys))
    assert values["units"]["free_energy"] == "meV/atom"
    gamma = [v["value"] for v in values["phonons"] if v["name"].startswith("Γ")]
    np.testing.assert_allclose(gamma, frequencies(force_field, [[0.0, 0.0, 0.0]])[0], atol=1e-5)
    given = {name for name in ("phonons", "free_energy", "displacements", "sigma_A") if values.get(name)}
    assert given | set(values["missing"]) == {"phonons", "free_energy", "displacements", "sigma_A"}
    text = printed(["properties", file, "--property", "phonons,sigma_A"], capsys)
    assert "THz" in text
    assert "σ_A" in text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--property", "x"], "--property"), (["--temperature", "-1"], "temperature"), (["--samples", "1"], "samples")],
)
def test_properties_refuse_bad_arguments(
    arguments: list[str], word: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert word in refused(["properties", file, *arguments], capsys)
