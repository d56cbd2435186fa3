"""An example of every command, for its `--help`, and what `dynft` alone says."""

from __future__ import annotations

import typer

FIRST_STEPS = """Train lattice-dynamics force fields, for as few reference calculations as possible.

  dynft init my_crystal.cif                       a campaign file for your crystal; dynft init si: a built-in one
  dynft train my_crystal/campaign.toml            train, or go on with, its force field
  dynft status runs/my_crystal                    how far it is, and how good
  dynft report runs/my_crystal                    the same with figures, as one HTML file
  dynft fit data.xyz --primitive prim.xyz --cutoffs auto -o ff.h5   a force field of calculations that you have
  dynft phonons runs/my_crystal --bands -o bands  what it is for; also md, properties, conductivity, export

all commands: dynft --help; one of them, with an example: dynft train --help"""

EXAMPLES = {
    "init": "dynft init my_crystal.cif",
    "train": "dynft train my_crystal/campaign.toml --run runs/my_crystal",
    "compare": "dynft compare si --output criteria --criteria epsilon_min,trajectory_average --seeds 3",
    "status": "dynft status runs/my_crystal --watch",
    "doctor": "dynft doctor",
    "report": "dynft report runs/my_crystal",
    "fit": "dynft fit data.xyz --primitive prim.xyz --cutoffs auto --output ff.h5",
    "born": "dynft born vasp_run/ --output BORN",
    "evaluate": "dynft evaluate ff.h5 test.xyz",
    "info": "dynft info ff.h5",
    "md": "dynft md ff.h5 --supercell 3,3,3 --temperature 300 --time-ps 10 --output md.xyz",
    "phonons": "dynft phonons ff.h5 --bands --output bands",
    "conductivity": "dynft conductivity ff.h5 --temperatures 100,200,300 --mesh 11,11,11 --output kappa",
    "properties": "dynft properties ff.h5 --temperature 300",
    "anharmonicity": "dynft anharmonicity ff.h5 data.xyz",
    "export": "dynft export ff.h5 --format phono3py --output exported",
    "structures": "dynft structures my_crystal.cif --grid 4,4,4 --list",
    "labels list": "dynft labels list runs/my_crystal --status failed",
    "labels retry": "dynft labels retry runs/my_crystal",
    "labels drop": "dynft labels drop runs/my_crystal 1f0a --cause 'wrong k points'",
    "labels import": "dynft labels import my_crystal/campaign.toml OLD/",
    "site check": "dynft site check my_cluster.toml",
    "mtp convert-cfg": "dynft mtp convert-cfg OUTCAR train.cfg",
    "mtp calc-efs": "dynft mtp calc-efs mo.h5 in.cfg out.cfg",
    "mtp calc-errors": "dynft mtp calc-errors mo.h5 test.cfg",
    "mtp mindist": "dynft mtp mindist train.cfg",
    "mtp info": "dynft mtp info mo.mtp",
    "mtp calc-grade": "dynft mtp calc-grade mo.h5 train.cfg in.cfg out.cfg",
    "mtp select-add": "dynft mtp select-add mo.h5 train.cfg candidates.cfg chosen.cfg",
    "mtp relax": "dynft mtp relax mo.h5 to_relax.cfg relaxed.cfg",
    "mtp init": "dynft mtp init mo.mtp --species Mo --cutoff 5.0 --min-distance 2.0",
    "mtp train": "dynft mtp train mo.mtp train.cfg",
}


def add_examples(app: typer.Typer, before: str = "") -> None:
    """Put its example below the help of every command of an app, and of those of its groups."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.epilog = f"Example: {EXAMPLES[before + (command.name or command.callback.__name__)]}"
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.name if isinstance(group.name, str) else group.typer_instance.info.name
        add_examples(group.typer_instance, f"{name} ")
