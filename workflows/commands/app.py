"""The `dynft` command: what each subcommand takes. The work is done elsewhere, imported when a command runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from dynft_core.errors import InputError
from dynft_core.vocabulary import Images, ModelFamily, MonitorName, Prior, RadialKind, TransportMethod
from workflows.campaign.paths import FORCE_FIELD
from workflows.commands.examples import FIRST_STEPS, add_examples
from workflows.commands.exit_codes import exit_code
from workflows.commands.labels import labels_app
from workflows.commands.mtp import mtp_app

app = typer.Typer(
    name="dynft",
    help="Train lattice-dynamics force fields, for as few reference calculations as possible.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)

site_app = typer.Typer(help="Sites: where campaigns run.")
app.add_typer(labels_app)
app.add_typer(mtp_app)
app.add_typer(site_app, name="site")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _force_field_in(path: Path) -> Path:
    """The force field of a run folder; a file is one itself."""
    return path / FORCE_FIELD if path.is_dir() else path


ForceFieldFile = Annotated[
    Path,
    typer.Argument(callback=_force_field_in, help="Force field, for example runs/si/force_field.h5, or a run folder."),
]
BornFile = Annotated[
    Path | None,
    typer.Option("--born", help="Born charges: BORN, phonopy_params.yaml, or a calculation of VASP or ph.x."),
]
ReferenceFile = Annotated[Path | None, typer.Option("--reference", help="Perfect supercell of the frames.")]
ForcesKey = Annotated[
    str | None, typer.Option("--forces-key", help="Column of extended xyz with the forces; default: forces.")
]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"dynft {version('dynft')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train lattice-dynamics force fields, for as few reference calculations as possible."""


@app.command()
def init(
    source: Annotated[str, typer.Argument(help="Built-in campaign (si), or a structure file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to make; default: the name.")] = None,
    calculator: Annotated[str, typer.Option(help="Reference calculator, for a structure file.")] = "vasp",
    symprec_A: Annotated[
        float | None, typer.Option("--symprec", help="Make the structure symmetric first, to this tolerance (Å).")
    ] = None,
) -> None:
    """Write a campaign file and its structure into a new folder."""
    from workflows.commands.init import init_campaign

    print(init_campaign(source, output, calculator, symprec_A))


@app.command()
def train(
    campaign: Annotated[str, typer.Argument(help="Campaign file, or a built-in campaign (si).")],
    site: Annotated[str, typer.Option(help="Where to run: local, another site's name, or FILE.py.")] = "local",
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/NAME. Resumes one.")] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="With labels by a teacher; says what the real campaign would cost.")
    ] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="Force field that labels in a rehearsal; default: bonds made for the crystal.")
    ] = None,
    label_seconds: Annotated[float | None, typer.Option(min=0, help="Wall time of one real label, s.")] = None,
    label_cores: Annotated[int, typer.Option(min=1, help="Cores of one real label.")] = 1,
    measure_label: Annotated[bool, typer.Option("--measure-label", help="Time one real label.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be submitted; write no file.")] = False,
) -> None:
    """Train a force field until more data would not help."""
    if rehearse:
        if dry_run:
            raise InputError("--dry-run, --rehearse", "one of them", "both", "a rehearsal runs; --dry-run alone tells")
        from workflows.commands.rehearse import RehearsalSettings
        from workflows.commands.rehearse import rehearse as rehearse_campaign

        settings = RehearsalSettings(teacher, label_seconds, label_cores, measure_label)
        raise typer.Exit(rehearse_campaign(campaign, site, run, settings))
    if teacher is not None or label_seconds is not None or measure_label:
        raise InputError("--teacher, --label-seconds, --measure-label", "--rehearse with them", "none", "add it")
    if dry_run:
        from workflows.commands.dry_run import show_dry_run

        print("\n".join(show_dry_run(campaign, site, run)))
        return
    from workflows.commands.train import train_campaign

    raise typer.Exit(train_campaign(campaign, site, run))


@app.command()
def compare(
    campaign: Annotated[str, typer.Argument(help="Campaign file with a cheap reference, or a built-in one (si).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, numbers and plot; resumes one.")],
    criteria: Annotated[
        str, typer.Option(help="trajectory_average, epsilon_min, random, fixed; +heating +audits +continue after each.")
    ] = "epsilon_min,trajectory_average,random,trajectory_average+audits",
    seeds: Annotated[int, typer.Option(help="Runs of each criterion.")] = 5,
    walk_ps: Annotated[float | None, typer.Option("--walk-ps", help="Walked time of each walker, ps.")] = None,
    test_structures: Annotated[int, typer.Option(help="Test structures of each seed.")] = 20,
    site: Annotated[str, typer.Option(help="Where to run: local, another site's name, or FILE.py.")] = "local",
    as_json: JsonFlag = False,
) -> None:
    """Run a campaign under several criteria and seeds: labels against error, side by side."""
    from workflows.commands.compare import CompareSettings, compare_campaign

    names = tuple(name.strip() for name in criteria.split(",") if name.strip())
    settings = CompareSettings(names, seeds, walk_ps, test_structures)
    print(compare_campaign(campaign, settings, site, output, as_json))


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: JsonFlag = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds while the campaign runs.")] = False,
) -> None:
    """Say where a campaign stands, from its files alone."""
    from workflows.commands.status import show_status

    show_status(run, as_json, watch)


@app.command()
def doctor(
    campaign: Annotated[str | None, typer.Argument(help="Campaign whose reference is checked as well.")] = None,
) -> None:
    """Say what dynft finds on this machine, what it does not, and what to do about it."""
    from workflows.commands.doctor import doctor as examine

    raise typer.Exit(examine(campaign))


@site_app.command("check")
def site_check(
    site: Annotated[str, typer.Argument(help="A site's name, or FILE.py.")],
    timeout_s: Annotated[float, typer.Option("--timeout", help="How long to wait for the scheduler, s.")] = 300.0,
    command: Annotated[list[str] | None, typer.Option(help="Program that labels need, for example vasp_std.")] = None,
) -> None:
    """Run one small job in every executor of a site and say what its worker sees."""
    from workflows.commands.site_check import check_site

    raise typer.Exit(check_site(site, timeout_s, tuple(command or ())))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; default: RUN/report.html.")] = None,
) -> None:
    """Write what a campaign did into one HTML file."""
    from workflows.commands.report import write_report
    from workflows.user_files.outputs import replaced

    print(f"report: {replaced(*write_report(run, output))}")


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(help="Extended xyz with forces (eV/Å), vasprun.xml, FORCE_SETS, DFSET, …")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Force field to write.")],
    primitive: Annotated[
        Path | None, typer.Option(help="Cell of the perfect crystal, primitive or conventional.")
    ] = None,
    cutoffs: Annotated[
        str | None,
        typer.Option(help="Cutoffs in Å for orders 2, 3, …, for example 8.0,5.0,5.0; or auto: by the evidence."),
    ] = None,
    reference: ReferenceFile = None,
    prior: Annotated[
        Prior, typer.Option(help="Prior: one for all orders, one for each, or one that decays with distance.")
    ] = "decaying",
    max_order: Annotated[int, typer.Option(help="Highest order that --cutoffs auto may choose.", min=2, max=6)] = 6,
    max_parameters: Annotated[int, typer.Option(help="Most parameters that --cutoffs auto may choose.", min=1)] = 3000,
    max_terms: Annotated[
        float, typer.Option(help="Most terms of the energy for each atom with --cutoffs auto: a walker's step.", min=1)
    ] = 2e5,
    max_memory: Annotated[float, typer.Option(help="Memory for the search of --cutoffs auto, GiB.", min=0.01)] = 4.0,
    at_most: Annotated[
        str | None, typer.Option(help="End the search of --cutoffs auto after this time, unfinished: 90s, 10m, 2h.")
    ] = None,
    prefer: Annotated[
        str, typer.Option(help="Which row --cutoffs auto takes: accuracy (the last), speed, or its number.")
    ] = "accuracy",
    rotational: Annotated[
        bool,
        typer.Option(
            "--rotational-sum-rules",
            help="Born-Huang and Huang conditions on order 2; false for a crystal under stress or with forces.",
        ),
    ] = False,
    forces_key: ForcesKey = None,
    family: Annotated[
        ModelFamily, typer.Option(help="Force constants of a crystal, or a moment tensor potential.")
    ] = "force_constants",
    cutoff_A: Annotated[float | None, typer.Option("--cutoff", help="moment_tensor: where neighbours end, Å.")] = None,
    level: Annotated[
        int | None, typer.Option(help="moment_tensor: highest level; default: about 1000 functions; trained: 16.")
    ] = None,
    radial: Annotated[
        RadialKind, typer.Option(help="moment_tensor: radial functions; trained ones take minutes, as MLIP has them.")
    ] = "fixed",
    min_distance_A: Annotated[
        float | None, typer.Option("--min-distance", help="moment_tensor: shortest distance, Å; default: the data's.")
    ] = None,
    born: BornFile = None,
    metal: Annotated[bool, typer.Option("--metal", help="There are no Born charges: do not ask for any.")] = False,
    cheap: Annotated[
        str, typer.Option(help="Calculator of a cheap potential (name or module:callable), for the prior mean.")
    ] = "",
    cheap_structures: Annotated[
        Path | None, typer.Option(help="Structures like those to come, forces not needed, for the cheap potential.")
    ] = None,
) -> None:
    """Fit a force field to structures with forces; mpiexec -n 4 dynft fit … shares the work."""
    if family == "moment_tensor":
        if cutoff_A is None or primitive is not None or cutoffs is not None or cheap:
            raise InputError("--family moment_tensor", "--cutoff (Å), no --primitive, --cutoffs or --cheap", "others",
                             "write for example --cutoff 5.2")  # fmt: skip
        from workflows.commands.moment_tensor import MomentTensorSettings, fit_moment_tensor

        fit_moment_tensor(data, output, MomentTensorSettings(cutoff_A, min_distance_A, level, radial))
        return
    if primitive is None or cutoffs is None or (cutoff_A, level, min_distance_A) != (None, None, None):
        raise InputError("dynft fit", "--primitive and --cutoffs, or --family moment_tensor with --cutoff",
                         "neither", "see dynft fit --help")  # fmt: skip
    from dynft_core.expansion_choice.reach import Budget
    from workflows.commands.fit import AutoSettings, FitSettings, fit_command, parse_time

    seconds = parse_time(at_most) if at_most else inf
    auto = AutoSettings(max_order, Budget(max_parameters, max_memory, max_terms), seconds, prefer)
    settings = FitSettings(cutoffs, prior, auto, rotational, forces_key, born, metal, cheap, cheap_structures)
    fit_command(data, primitive, output, settings, reference)


@app.command()
def born(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="Calculation of VASP or ph.x, its output, or a file of phonopy.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, in phonopy's format BORN.")],
    structure: Annotated[
        Path | None, typer.Option(help="Cell of the crystal, primitive or conventional; default: the calculation's.")
    ] = None,
) -> None:
    """Take Born charges and dielectric tensor from a calculation."""
    from workflows.commands.born import born_command

    print(born_command(source, structure, output))


@app.command()
def evaluate(
    force_field: ForceFieldFile,
    data: Annotated[Path, typer.Argument(help="Extended xyz with forces (eV/Å).")],
    reference: ReferenceFile = None,
    as_json: JsonFlag = False,
    forces_key: ForcesKey = None,
) -> None:
    """Score a force field on structures with forces."""
    from workflows.commands.evaluate import evaluate_command

    print(evaluate_command(force_field, data, reference, as_json, forces_key))


@app.command()
def info(force_field: ForceFieldFile, as_json: JsonFlag = False) -> None:
    """Say what a force-field file holds."""
    from workflows.commands.evaluate import info_command

    print(info_command(force_field, as_json))


@app.command()
def md(
    force_field: ForceFieldFile,
    supercell: Annotated[str, typer.Option(help="Three integers or nine (rows), for example '4 4 4'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory to write, extended xyz.")],
    structure: Annotated[Path | None, typer.Option(help="Cell that is repeated; default: the primitive cell.")] = None,
    temperature_K: Annotated[float, typer.Option("--temperature", help="K.")] = 300.0,
    time_ps: Annotated[float, typer.Option("--time-ps", help="Length, ps.")] = 1.0,
    timestep_fs: Annotated[float, typer.Option("--timestep-fs", help="fs.")] = 1.0,
    friction_per_ps: Annotated[float, typer.Option("--friction-per-ps", help="Langevin friction, 1/ps.")] = 10.0,
    nve: Annotated[bool, typer.Option("--nve", help="Constant energy instead of a thermostat.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 1,
    interval: Annotated[int, typer.Option(help="Steps between frames.")] = 100,
    bayesian_error: Annotated[bool, typer.Option("--bayesian-error", help="Watch ε_B at every step.")] = False,
    monitor: Annotated[MonitorName, typer.Option(help="Estimate ε_B to a few percent, or compute it.")] = "sketch",
    single: Annotated[bool, typer.Option("--single", help="Forces in single precision, in half the time.")] = False,
) -> None:
    """Run molecular dynamics with a force field, in a cell of any size."""
    from workflows.commands.md import MdSettings, run_md

    settings = MdSettings(
        temperature_K,
        time_ps,
        timestep_fs,
        0.0 if nve else friction_per_ps,
        seed,
        interval,
        monitor if bayesian_error else None,
        single,
    )
    print(run_md(force_field, supercell, structure, output, settings))


@app.command()
def phonons(
    force_field: ForceFieldFile,
    points: Annotated[
        str | None, typer.Option(help="q points, fractional in the reciprocal primitive cell: '0 0 0; 0.5 0 0.5'.")
    ] = None,
    bands: Annotated[bool, typer.Option("--bands", help="Bands along the crystal's path: bands.png, .dat.")] = False,
    dos: Annotated[bool, typer.Option("--dos", help="Density of states: dos.png, .dat.")] = False,
    mesh: Annotated[str, typer.Option(help="Points of the mesh for --dos.")] = "20 20 20",
    samples: Annotated[int, typer.Option(help="Samples of the posterior, for error bars.")] = 50,
    images: Annotated[
        Images, typer.Option(help="Images of a cutoff beyond half the training cell: the shortest, or all.")
    ] = "shortest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the files of --bands and --dos; default: phonons.")
    ] = None,
    born: BornFile = None,
    direction: Annotated[
        str | None, typer.Option(help="Direction in which a polar crystal's Γ is approached, in the points' units.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Phonon frequencies with error bars: at points (default: the high-symmetry ones), bands, density of states."""
    from workflows.commands.phonons import PhononSettings, phonons_command

    settings = PhononSettings(points, bands, dos, mesh, samples, images, born, direction)
    print(phonons_command(force_field, output, settings, as_json))


@app.command()
def conductivity(
    force_field: ForceFieldFile,
    temperatures_K: Annotated[str, typer.Option("--temperatures", help="K, for example 100,200,300.")] = "300",
    mesh: Annotated[str, typer.Option(help="Points along the primitive cell's reciprocal vectors.")] = "11,11,11",
    method: Annotated[
        TransportMethod, typer.Option(help="Relaxation times, the whole Boltzmann equation, or Wigner's equation.")
    ] = "rta",
    isotopes: Annotated[bool, typer.Option("--isotopes", help="Scattering by natural isotopes, too.")] = False,
    samples: Annotated[
        int, typer.Option(help="Samples of the posterior, for error bars; each takes as long as the mean. 0: none.")
    ] = 8,
    born: BornFile = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of data and pictures.")] = Path("conductivity"),
    as_json: JsonFlag = False,
) -> None:
    """Thermal conductivity with error bars, by phono3py: dynft conductivity ff.h5 --temperatures 100,300 -o kappa"""
    from workflows.commands.conductivity import ConductivityCommand, conductivity_command

    asked = ConductivityCommand(temperatures_K, mesh, method, isotopes, samples, born)
    print(conductivity_command(force_field, output, asked, as_json))


@app.command()
def properties(
    force_field: ForceFieldFile,
    names: Annotated[
        str | None,
        typer.Option("--property", help="phonons, free_energy, displacements, sigma_A (default: these), conductivity."),
    ] = None,
    temperature_K: Annotated[float, typer.Option("--temperature", help="K.")] = 300.0,
    samples: Annotated[int, typer.Option(help="Samples of the posterior, for error bars.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Say what the crystal is like, with error bars: phonons, free energy, displacements, anharmonicity."""
    from dynft_core.properties.thermal import PropertySettings
    from workflows.commands.properties import properties_command

    print(properties_command(force_field, names, PropertySettings(temperature_K, samples), as_json))


@app.command()
def anharmonicity(
    force_field: ForceFieldFile,
    data: Annotated[Path, typer.Argument(help="Extended xyz with forces (eV/Å): a data set, or what dynft md wrote.")],
    reference: ReferenceFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Say how anharmonic structures are: σ_A, whole, by species and by mode."""
    from workflows.commands.phonons import anharmonicity_command

    print(anharmonicity_command(force_field, data, reference, as_json))


@app.command()
def export(
    force_field: ForceFieldFile,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="phonopy, phono3py, shengbte, hiphive, gpumd; mlip; gap: training data of a file or RUN."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    supercell: Annotated[
        str | None,
        typer.Option(help="Three integers or nine (rows) of the primitive cell; default: the training supercell."),
    ] = None,
) -> None:
    """Write the force constants, or a moment tensor potential, for another program, or training data for gap_fit."""
    from workflows.commands.export import export_command, export_gap_command

    if format_ == "gap":
        print(export_gap_command(force_field.parent if force_field.name == FORCE_FIELD else force_field, output))
        return
    print(export_command(force_field, format_, output, supercell))


@app.command()
def structures(
    crystal: Annotated[Path, typer.Argument(help="File of the perfect crystal.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="New folder to write into.")] = None,
    grid: Annotated[str | None, typer.Option(help="q points, as '4,4,4': the smallest cell for each.")] = None,
    divide: Annotated[
        str | None, typer.Option(help="Supercell of CRYSTAL, three integers or nine: all cells that divide it.")
    ] = None,
    per_q: Annotated[bool, typer.Option("--per-q", help="Of those only the smallest for each q point.")] = False,
    max_atoms: Annotated[int | None, typer.Option(help="Largest cell, atoms.")] = None,
    kpoints: Annotated[str, typer.Option(help="k-point mesh of the grid's, or the divided, supercell.")] = "1 1 1",
    per_cell: Annotated[int, typer.Option(help="Structures of each cell.")] = 1,
    rattle_A: Annotated[float, typer.Option("--rattle", help="Random displacements, standard deviation, Å.")] = 0.0,
    thermal: Annotated[Path | None, typer.Option(help="Force field whose phonons displace the atoms instead.")] = None,
    temperature_K: Annotated[float, typer.Option("--temperature", help="Of --thermal, K.")] = 300.0,
    scale: Annotated[float, typer.Option(help="Lengths by a random factor within 1 ± this.")] = 0.0,
    strain: Annotated[float, typer.Option(help="Random symmetric strain, each entry within ± this.")] = 0.0,
    shear: Annotated[float, typer.Option(help="The same of the off-diagonal entries alone.")] = 0.0,
    format_: Annotated[str, typer.Option("--format", help="extxyz, vasp or espresso.")] = "extxyz",
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 1,
    list_only: Annotated[bool, typer.Option("--list", help="Print the cells, write nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the smallest supercells that hold the waves of a large one, displaced and strained, to be computed."""
    from workflows.commands.structures import CellSettings, Disturbance, list_cells, write_structures

    cells = CellSettings(grid, divide, per_q, max_atoms, kpoints)
    if list_only:
        print(list_cells(crystal, cells, as_json))
        return
    if output is None:
        raise InputError("--output", "a folder", "none", "give one, or --list")
    disturbance = Disturbance(per_cell, rattle_A, thermal, temperature_K, scale, strain, shear, seed)
    print("\n".join(write_structures(crystal, cells, disturbance, format_, output)))


add_examples(app)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    if not arguments:
        print(FIRST_STEPS)
        return 0
    command = typer.main.get_command(app)
    return exit_code(
        lambda: command.main(list(arguments), prog_name="dynft", standalone_mode=False),
        help_command=f"dynft {_subcommand(arguments)}--help",
    )


def _subcommand(arguments: Sequence[str]) -> str:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known = commands | {"labels", "mtp", "site"}
    return f"{arguments[0]} " if arguments and arguments[0] in known else ""
