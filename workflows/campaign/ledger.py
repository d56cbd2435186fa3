"""The ledger of labels: one key for each structure ever chosen, what became of it, why, and what it cost.

candidate ──► queued ──► accepted
    │            ├─────► failed        the reference gave no result
    ▼            ├─────► quarantined   it gave one that is no label of the structure, or it kills its workers
 dropped ◄───────┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from typing import Any, Literal, get_args

from dynft_core.reference.failures import REFUSED, Failure, FailureKind
from dynft_core.vocabulary import Role, StructureRef

LabelStatus = Literal["candidate", "queued", "accepted", "failed", "quarantined", "dropped"]

TRAINING: tuple[Role, ...] = ("initial", "flagged", "chosen", "audit")
"""Roles of the labels that force fields are fitted to, the harmonic one of the start apart."""
STATUSES: tuple[LabelStatus, ...] = get_args(LabelStatus)
OPEN: tuple[LabelStatus, ...] = ("candidate", "queued")
SET_ASIDE = "of the start set aside: the audits contradict them"
"""Cause of accepted labels that are in no fit any more."""
GIVEN_UP: tuple[LabelStatus, ...] = ("failed", "quarantined", "dropped")


@dataclass(frozen=True)
class Entry:
    """One label.

    Attributes:
        status: where it stands; cause: why it was dropped or set aside, in a sentence.
        failure: why its latest attempt gave no label.
        attempts: how often it was begun and answered, or was lost.
        seconds: wall time of the attempts that answered; core_seconds: the same times their cores.
        gain: what it was chosen for, nats (nan: not by a batch selection).
        n_atoms: of its cell, once it has been computed (0: not known).
    """

    structure: StructureRef
    status: LabelStatus
    cause: str = ""
    failure: Failure | None = None
    attempts: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    gain: float = nan
    n_atoms: int = 0

    @property
    def why(self) -> str:
        """Why it is where it is, where that needs saying."""
        return self.cause or str(self.failure or "")


@dataclass(frozen=True)
class Ledger:
    """All labels, in the order in which their structures were chosen. Mappings are never changed in place.

    Attributes:
        entries: by key.
        candidates, queued: keys of these statuses; unfitted: accepted, and in no force field yet. All are small
            whatever the number of entries: planning looks at them alone.
        unflagged: keys of all other roles than 'flagged'; untrained: those of them whose labels no force field but the
            harmonic one is fitted to. Both are few.
        counts: number of entries by status.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    candidates: frozenset[str] = frozenset()
    queued: frozenset[str] = frozenset()
    unfitted: frozenset[str] = frozenset()
    unflagged: frozenset[str] = frozenset()
    untrained: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))

    def choose(self, refs: Iterable[StructureRef], status: Literal["candidate", "queued"]) -> Ledger:
        """With these structures. One that was chosen before, by content, keeps its first role and label."""
        new = {ref.key: Entry(ref, status) for ref in refs if ref.key not in self.entries}
        if not new:
            return self
        counts = {**self.counts, status: self.counts[status] + len(new)}
        return replace(
            self,
            entries={**self.entries, **new},
            candidates=self.candidates | new.keys() if status == "candidate" else self.candidates,
            queued=self.queued | new.keys() if status == "queued" else self.queued,
            unflagged=self.unflagged.union(key for key, e in new.items() if e.structure.role != "flagged"),
            untrained=self.untrained.union(key for key, e in new.items() if e.structure.role not in TRAINING),
            counts=counts,
        )

    def set(self, key: str, status: LabelStatus, **changes: Any) -> Ledger:
        """With another status, and other fields, of one entry."""
        return self.changed({key: replace(self.entries[key], status=status, **changes)})

    def changed(self, new: Mapping[str, Entry]) -> Ledger:
        """With these entries in the place of those of the same keys. All at once: the entries are copied each time."""
        counts = dict(self.counts)
        for key, entry in new.items():
            counts[self.entries[key].status] -= 1
            counts[entry.status] += 1

        def members(keys: frozenset[str], status: LabelStatus) -> frozenset[str]:
            now = {key for key, entry in new.items() if entry.status == status}
            return keys if keys.intersection(new) == now else keys.difference(new).union(now)

        return replace(
            self,
            entries={**self.entries, **new},
            candidates=members(self.candidates, "candidate"),
            queued=members(self.queued, "queued"),
            unfitted=members(self.unfitted, "accepted"),
            counts=counts,
        )

    def attempted(
        self, key: str, status: LabelStatus, outcome: Mapping[str, Any], failure: Failure | None = None
    ) -> Ledger:
        """After an attempt that answered, or was lost, with this outcome."""
        before = self.entries[key]
        return self.set(
            key,
            status,
            cause="",
            failure=failure,
            attempts=before.attempts + 1,
            seconds=before.seconds + float(outcome.get("seconds") or 0.0),
            core_seconds=before.core_seconds + float(outcome.get("core_seconds") or 0.0),
            n_atoms=int(outcome.get("n_atoms") or before.n_atoms),
        )

    @property
    def costs(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Atoms and core-seconds of the labels that were computed at one attempt and told both."""
        known = [
            (e.n_atoms, e.core_seconds) for e in self.entries.values()
            if e.status == "accepted" and e.n_atoms and e.attempts == 1
        ]  # fmt: skip
        return tuple(n for n, _ in known), tuple(seconds for _, seconds in known)

    def in_use(self, key: str) -> bool:
        """Whether a force field was fitted to this label, or is scored by it: then it stays."""
        entry = self.entries[key]
        return entry.status == "accepted" and (key not in self.unfitted or entry.structure.role not in TRAINING)

    def fitted(self, keys: Iterable[str]) -> Ledger:
        """Once these labels are in a force field."""
        return replace(self, unfitted=self.unfitted.difference(keys))

    def set_aside(self, keys: Sequence[str]) -> Ledger:
        """With these accepted labels in no force field any more."""
        if not keys:
            return self
        return self.changed({key: replace(self.entries[key], cause=SET_ASIDE) for key in keys}).fitted(keys)

    def revived(self) -> Ledger:
        """With everything that failed or was refused queued again."""
        return self.changed({key: replace(self.entries[key], status="queued", failure=None) for key in self.failed})

    @cached_property
    def open(self) -> frozenset[str]:
        """Keys that are neither accepted nor given up."""
        return self.candidates | self.queued

    @cached_property
    def unknown(self) -> frozenset[str]:
        """Keys of structures that train, and that no force field was fitted to: in its covariance at most."""
        return (self.open | self.unfitted) - self.untrained

    @property
    def accepted(self) -> frozenset[str]:
        """Keys with a label."""
        return frozenset(key for key, entry in self.entries.items() if entry.status == "accepted")

    @property
    def failed(self) -> dict[str, Failure]:
        """Why, by key, of those that failed or were refused."""
        return {k: e.failure for k, e in self.entries.items() if e.failure and e.status in ("failed", "quarantined")}

    @property
    def n_failed(self) -> int:
        """How many failed or were refused."""
        return self.counts["failed"] + self.counts["quarantined"]

    def of_role(self, *roles: Role) -> tuple[StructureRef, ...]:
        """The structures chosen for these roles, sorted by walker and walk: the same whoever was faster."""
        keys = self.entries if "flagged" in roles else self.unflagged
        return tuple(ref for ref in self.sorted(keys) if ref.role in roles)

    def labels(self, *roles: Role) -> tuple[StructureRef, ...]:
        """Those of these roles that have a label."""
        return tuple(ref for ref in self.of_role(*roles) if self.entries[ref.key].status == "accepted")

    def sorted(self, keys: Iterable[str]) -> tuple[StructureRef, ...]:
        """The structures of these keys in the order of walker and walk."""
        return tuple(sorted((self.entries[key].structure for key in keys), key=lambda r: (r.segment, r.index)))

    def waiting(self, *roles: Role) -> tuple[StructureRef, ...]:
        """Those of these roles whose label neither came nor was given up."""
        return tuple(ref for ref in self._open if ref.role in roles)

    def new(self, *roles: Role) -> tuple[StructureRef, ...]:
        """Labels of these roles that no force field was fitted to."""
        return tuple(ref for ref in self._unfitted if ref.role in roles)

    @cached_property
    def _open(self) -> tuple[StructureRef, ...]:
        return self.sorted(self.open)

    @cached_property
    def _unfitted(self) -> tuple[StructureRef, ...]:
        return self.sorted(self.unfitted)


def refusal(failure: Failure) -> LabelStatus:
    """The status of a label whose attempt answered so."""
    return "quarantined" if failure.kind in REFUSED else "failed"


def causes(failed: Iterable[Failure]) -> Failure | None:
    """The classes of failure, the commonest first, each with its commonest reason; None without any."""
    by_kind: dict[FailureKind, Counter[str]] = {}
    for failure in sorted(failed, key=str):
        by_kind.setdefault(failure.kind, Counter())[str(failure)] += 1
    common = sorted(by_kind.items(), key=lambda item: -item[1].total())[:3]
    words = "; ".join(f"{reasons.total()} × {reasons.most_common(1)[0][0]}" for _, reasons in common)
    return Failure(common[0][0], words) if common else None
