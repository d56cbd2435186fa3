"""Reading campaign files, and those that come with dynft."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from dynft_core.errors import FileFormatError, nearest
from workflows.campaign_file.checks import check_values
from workflows.campaign_file.errors import explained
from workflows.campaign_file.schema import COMPUTE, Campaign, ReferenceSection, WalkersSection

BUILT_IN = Path(__file__).parent / "builtin"
"""Campaigns that come with dynft: NAME.toml and the structure it names."""

_PATHS = {"espresso": ("pseudo_dir",), "force_field": ("path",)}
"""Parameters that are paths, by calculator."""


def built_in_names() -> list[str]:
    """Names of the campaigns that come with dynft."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def find_campaign(source: str | Path) -> Path:
    """The campaign file that `source` means: a path, or the name of a built-in campaign.

    Raises:
        FileFormatError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in built_in_names():
        return BUILT_IN / f"{source}.toml"
    if path.is_dir():
        raise FileFormatError("campaign", "a campaign file", f"'{source}', a folder", f"give {path / 'campaign.toml'}")
    raise FileFormatError(
        "campaign",
        f"a campaign file, or one of {', '.join(built_in_names())}",
        f"'{source}', which is not there",
        nearest(str(source), built_in_names(), "make one with: dynft init STRUCTURE"),
    )


def load_campaign(source: str | Path) -> tuple[Campaign, str]:
    """Read and check a campaign; returns it, `crystal.structure` made absolute, and the file's text as it stands.

    Args:
        source: path of a TOML file, or the name of a built-in campaign.

    Raises:
        InputError: file missing or no TOML, unknown key, wrong type or unit, values that contradict each other.
    """
    path = find_campaign(source)
    table, text = _read_toml(path)
    campaign = parse_campaign(table)
    structure = _absolute(campaign.crystal.structure, "crystal.structure", path.parent)
    born = campaign.crystal.born
    born = born if born in (None, COMPUTE) else str((path.parent / str(born)).resolve())
    crystal = campaign.crystal.model_copy(update={"structure": str(structure), "born": born})
    parameters = _with_absolute_paths(campaign.reference, path.parent)
    reference = campaign.reference.model_copy(update={"parameters": parameters})
    walkers = [_with_absolute_structure(w, f"walkers.{i}", path.parent) for i, w in enumerate(campaign.walkers)]
    relaxations = [
        r.model_copy(update={"structures": str(_absolute(r.structures, f"relaxations.{i}.structures", path.parent))})
        for i, r in enumerate(campaign.relaxations)
    ]
    changed = {"crystal": crystal, "reference": reference, "walkers": walkers, "relaxations": relaxations}
    return campaign.model_copy(update=changed), text


def _with_absolute_structure(section: WalkersSection, argument: str, folder: Path) -> WalkersSection:
    """A group of walkers whose structure, if it has one of its own, is where its absolute path says."""
    if section.structure is None:
        return section
    structure = _absolute(section.structure, f"{argument}.structure", folder)
    return section.model_copy(update={"structure": str(structure)})


def _absolute(structure: str, argument: str, folder: Path) -> Path:
    """Where a structure file lies that a campaign file in `folder` names.

    Raises:
        FileFormatError: nowhere.
    """
    found = (folder / structure).resolve()
    if not found.is_file():
        raise FileFormatError(
            argument,
            "a structure file, its path relative to the campaign file",
            f"'{found}', which is not there",
            "correct the path, or put the file there",
        )
    return found


def _with_absolute_paths(reference: ReferenceSection, folder: Path) -> dict[str, Any]:
    """The reference's parameters, paths relative to the campaign's folder made absolute: labels run elsewhere."""
    names = _PATHS.get(reference.calculator.strip().lower(), ())
    paths = {name: reference.parameters[name] for name in names if name in reference.parameters}
    return reference.parameters | {name: str((folder / str(path)).resolve()) for name, path in paths.items()}


def campaign_toml(campaign: Campaign) -> str:
    """The campaign as the text of a campaign file, every key written out."""
    return tomli_w.dumps(campaign.model_dump(exclude_none=True))


def _read_toml(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileFormatError(str(path), "a TOML text file", str(error), "correct the file at that place") from error


def parse_campaign(table: Mapping[str, Any]) -> Campaign:
    """Check the parsed TOML of a campaign.

    Raises:
        InputError: the first thing that is wrong, with the key's full name and what to do.
    """
    try:
        campaign = Campaign.model_validate(dict(table))
    except ValidationError as error:
        # An unknown key explains the missing one that it was meant to be: it is named first.
        problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
        raise explained(problems[0], Campaign) from error
    check_values(campaign)
    return campaign
