"""`dynft labels`: the ledger of a campaign's labels, and what a user may change in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workflows.campaign.ledger import Entry, Ledger

labels_app = typer.Typer(name="labels", help="List, retry, drop, import labels of a campaign.")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@labels_app.command("list")
def list_labels(
    run: RunFolder,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]…", help="Keys, or how they begin.")] = None,
    status: Annotated[str | None, typer.Option(help="Only those of this status, for example failed.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print every label: where it stands, why, what it cost. Works while the campaign runs."""
    from dynft_core.storage.json_values import json_text
    from workflows.campaign.ledger import STATUSES

    if status is not None and status not in STATUSES:
        raise _input_error("--status", f"one of {', '.join(STATUSES)}", f"'{status}'", "correct it")
    ledger = _ledger(run)
    entries = [ledger.entries[key] for key in _matching(ledger, keys)] if keys else list(ledger.entries.values())
    entries = [entry for entry in entries if status in (None, entry.status)]
    if as_json:
        print(json_text({"labels": [_record(entry) for entry in entries], "counts": dict(ledger.counts)}))
    else:
        print("\n".join(_table(entries, ledger)))


@labels_app.command()
def retry(
    run: RunFolder,
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]…", help="Default: all that failed.")] = None,
) -> None:
    """Queue labels that failed, were quarantined or dropped once more."""
    from workflows.campaign.ledger import GIVEN_UP

    ledger = _ledger(run)
    chosen = _matching(ledger, keys) if keys else list(ledger.failed)
    _refuse(ledger, chosen, GIVEN_UP, "retry what failed, was quarantined or dropped")
    _ask(run, [{"event": "label_retried", "key": key} for key in chosen], "queued again")


@labels_app.command()
def drop(
    run: RunFolder,
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="Keys, or how they begin.")],
    cause: Annotated[str, typer.Option(help="Why, for the ledger.")] = "dropped by the user",
) -> None:
    """Give up labels that no force field was fitted to: the campaign does without them."""
    from workflows.run_folder.folder import state_of
    from workflows.run_folder.lease import is_held

    state, running = state_of(run), is_held(run)
    chosen = _matching(state.ledger, keys)
    for key in chosen:
        if state.ledger.in_use(key):
            got = f"'{key}', which was (role: {state.ledger.entries[key].structure.role})"
            expected = "a label that no force field was fitted to or tested by"
            raise _input_error("KEY", expected, got, "start another campaign without it")
        if running and state.is_being_fitted(key):
            got = f"'{key}', in the fit under way"
            raise _input_error("KEY", "a label that is in no fit", got, "stop the driver (Ctrl-C) first")
    _ask(run, [{"event": "label_dropped", "key": key, "cause": cause} for key in chosen], "dropped")


@labels_app.command("import")
def import_(
    campaign: Annotated[str, typer.Argument(metavar="RUN|CAMPAIGN", help="Run folder; or campaign file or name.")],
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="VASP, pw.x, phonopy, ALAMODE, extended xyz, a run's labels.")
    ],
    run: Annotated[Path | None, typer.Option("--run", help="Run folder for a campaign file.")] = None,
    other_settings: Annotated[
        bool, typer.Option("--other-settings", help="Take also what was computed with any other settings.")
    ] = False,
    allow: Annotated[
        str, typer.Option("--allow", metavar="NAMES", help="Other settings to take, by name: ismear,sigma.")
    ] = "",
    forces_key: Annotated[
        str | None, typer.Option("--forces-key", help="Column of extended xyz with the forces; default: forces.")
    ] = None,
) -> None:
    """Take finished calculations into the training set, each checked."""
    from workflows.commands.import_gathering import Choices
    from workflows.commands.import_labels import import_labels

    allowed = frozenset(name.strip().lower() for name in allow.split(",") if name.strip())
    print(import_labels(campaign, paths, run, Choices(other_settings, allowed, forces_key)))


def _ledger(run: Path) -> Ledger:
    from workflows.run_folder.folder import state_of

    return state_of(run).ledger


def _matching(ledger: Ledger, keys: Sequence[str]) -> list[str]:
    """The full keys that these, or their beginnings, name."""
    found = []
    for name in keys:
        matches = [key for key in ledger.entries if key.startswith(name)]
        if len(matches) != 1:
            got = f"'{name}', which names {len(matches)}"
            raise _input_error("KEY", "the key of one label, or its beginning", got, "see dynft labels list RUN")
        found += matches
    return found


def _refuse(ledger: Ledger, keys: Sequence[str], allowed: Sequence[str], remedy: str) -> None:
    for key in keys:
        if (status := ledger.entries[key].status) not in allowed:
            raise _input_error("KEY", f"a label that is {' or '.join(allowed)}", f"'{key}', {status}", remedy)


def _ask(run: Path, events: Sequence[dict[str, str]], done: str) -> None:
    from workflows.run_folder.folder import take_requests
    from workflows.run_folder.requests import ask

    for event in events:
        ask(run, event)
    taken = take_requests(run)
    print(f"{len(events)} label{'' if len(events) == 1 else 's'} {done if taken else 'named to the running driver'}")


def _input_error(argument: str, expected: str, got: str, remedy: str) -> Exception:
    from dynft_core.errors import InputError

    return InputError(argument, expected, got, remedy)


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.structure.key,
        "role": entry.structure.role,
        "status": entry.status,
        "cause": entry.why,
        "reason": entry.structure.reason,
        "attempts": entry.attempts,
        "seconds": entry.seconds,
        "core_seconds": entry.core_seconds,
    }


def _table(entries: Sequence[Entry], ledger: Ledger) -> list[str]:
    lines = [f"{'key':24s}  {'role':8s}  {'status':11s}  {'attempts':>8s}  {'wall s':>9s}  {'core s':>10s}  cause"]
    for e in entries:
        cost = f"{e.attempts:8d}  {e.seconds:9.2f}  {e.core_seconds:10.2f}"
        line = f"{e.structure.key:24s}  {e.structure.role:8s}  {e.status:11s}  {cost}  {e.why}"
        lines.append(line.rstrip())
    counts = ", ".join(f"{n} {status}" for status, n in ledger.counts.items() if n)
    return [*lines, f"{len(ledger.entries)} labels: {counts or 'none chosen yet'}"]
