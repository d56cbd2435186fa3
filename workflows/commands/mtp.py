"""`dynft mtp`: what the program MLIP does with moment tensor potentials, under its names and with its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

mtp_app = typer.Typer(name="mtp", help="Moment tensor potentials, with the commands and files of MLIP.")

Potential = Annotated[Path, typer.Argument(help="Potential: .mtp, or what dynft fit wrote.")]
Structures = Annotated[Path, typer.Argument(help="Structures: .cfg, or any file that ASE reads.")]
TrainingSet = Annotated[Path, typer.Argument(help="Training set: .cfg, or any file that ASE reads.")]
Output = Annotated[Path, typer.Argument(help="Structures to write: .cfg or extended xyz.")]
Species = Annotated[
    str | None, typer.Option(help="Elements of types 0, 1, … of .mtp and .cfg files, for example Mo,Al.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ByNeighbourhood = Annotated[
    bool, typer.Option("--neighbourhoods", help="Grades of each atom's surroundings instead of whole structures.")
]


@mtp_app.command("convert-cfg")
def convert_cfg(
    source: Structures,
    output: Output,
    species: Species = None,
    input_format: Annotated[
        str | None, typer.Option("--input-format", help="ASE's name, or vasp-outcar; default: by the file's name.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The last structure alone.")] = False,
) -> None:
    """Convert structures between .cfg and other formats."""
    from workflows.commands.mtp_files import convert

    print(convert(source, output, species, input_format, last))


@mtp_app.command("calc-efs")
def calc_efs(potential: Potential, structures: Structures, output: Output, species: Species = None) -> None:
    """Compute energies, forces and stresses."""
    from workflows.commands.mtp_files import calculate

    print(calculate(potential, structures, output, species))


@mtp_app.command("calc-errors")
def calc_errors(
    potential: Potential, structures: Structures, species: Species = None, as_json: JsonFlag = False
) -> None:
    """Compare energies, forces and stresses with those of the file."""
    from workflows.commands.mtp_files import errors

    print(errors(potential, structures, species, as_json))


@mtp_app.command()
def mindist(structures: Structures, as_json: JsonFlag = False) -> None:
    """Print the shortest distance of two atoms in each structure, and of all."""
    from workflows.commands.mtp_files import shortest

    print(shortest(structures, as_json))


@mtp_app.command()
def info(potential: Potential, as_json: JsonFlag = False) -> None:
    """Say what a potential is made of."""
    from workflows.commands.mtp_files import describe

    print(describe(potential, as_json))


@mtp_app.command("calc-grade")
def calc_grade(
    potential: Potential,
    training: TrainingSet,
    structures: Structures,
    output: Output,
    species: Species = None,
    by_neighbourhood: ByNeighbourhood = False,
) -> None:
    """Compute how far structures extrapolate from the training set."""
    from workflows.commands.mtp_files import grade

    print(grade(potential, training, structures, output, species, by_neighbourhood))


@mtp_app.command("select-add")
def select_add(
    potential: Potential,
    training: TrainingSet,
    structures: Structures,
    output: Output,
    species: Species = None,
    by_neighbourhood: ByNeighbourhood = False,
) -> None:
    """Select the structures that a training set should be extended by."""
    from workflows.commands.mtp_files import select

    print(select(potential, training, structures, output, species, by_neighbourhood))


@mtp_app.command()
def relax(
    potential: Potential,
    structures: Structures,
    output: Output,
    species: Species = None,
    training: Annotated[
        Path | None, typer.Option("--training-set", help="For grades; a campaign's force field has its own.")
    ] = None,
    break_grade: Annotated[float, typer.Option("--threshold-break", min=1.0, help="Grade that ends it.")] = 10.0,
    unrelaxed: Annotated[
        Path | None, typer.Option("--save-unrelaxed", help="For those broken off or not finished, as they were then.")
    ] = None,
    force_tolerance: Annotated[float, typer.Option("--force-tolerance", help="eV/Å.")] = 1e-4,
    stress_tolerance: Annotated[float, typer.Option("--stress-tolerance", help="GPa.")] = 1e-3,
    pressure: Annotated[float, typer.Option("--pressure", help="GPa.")] = 0.0,
    limit: Annotated[int, typer.Option("--iteration-limit", min=1, help="Most steps.")] = 1000,
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Atoms alone move.")] = False,
) -> None:
    """Relax atoms and cells; break off where atoms come too near or the grade is too large."""
    from dynft_core.dynamics.relaxation_settings import RelaxationSettings
    from workflows.commands.mtp_relax import relax_structures

    settings = RelaxationSettings(force_tolerance, stress_tolerance, pressure, limit, fixed_cell=fixed_cell)
    print(relax_structures(potential, structures, output, species, settings, training, break_grade, unrelaxed))


@mtp_app.command()
def init(
    output: Annotated[Path, typer.Argument(help="The .mtp to write.")],
    species: Annotated[str, typer.Option(help="Elements of types 0, 1, …, for example Mo,Al.")],
    cutoff: Annotated[float, typer.Option("--cutoff", help="Å.")],
    min_distance: Annotated[float, typer.Option("--min-distance", help="Shortest distance of two atoms, Å.")],
    level: Annotated[int, typer.Option(help="2, 4, …, 28, as MLIP counts.")] = 16,
) -> None:
    """Write a potential that is not trained yet."""
    from workflows.commands.mtp_relax import write_initial

    print(write_initial(output, level, species, cutoff, min_distance))


@mtp_app.command()
def train(
    potential: Annotated[Path, typer.Argument(help="The .mtp to begin with, trained or not.")],
    training: TrainingSet,
    output: Annotated[Path, typer.Option("--trained-pot-name", help="The .mtp to write.")] = Path("Trained.mtp_"),
    species: Species = None,
    iterations: Annotated[int, typer.Option("--max-iter", min=0, help="Most steps of the radial coefficients.")] = 20,
    validation: Annotated[
        Path | None, typer.Option("--valid-cfgs", help="Structures to compare with at the end.")
    ] = None,
) -> None:
    """Train radial coefficients and weights on energies, forces and stresses."""
    from workflows.commands.mtp_files import train_potential

    print(train_potential(potential, training, output, species, iterations, validation))
