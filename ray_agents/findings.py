"""What a verification finds: frozen values that the log gives and every door can show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ray_agents.events import JSON


class Fault(StrEnum):
    """What is wrong with a file, by what can be done about it."""

    CORRUPT = "corrupt"  # it holds bytes that were never written so
    MISSING = "missing"  # it is named by what is there, and is not there
    DISORDERED = "disordered"  # its bytes are whole, but not what the log says of them
    TORN = "torn"  # it ends in a frame cut short or in zeros, and nobody is writing it
    UNREADABLE = "unreadable"  # the medium, or this version, cannot read it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong in a store.

    ``file`` is a name below the store. ``byte`` is where the damage begins, as near as its digests
    tell; ``after_offset`` is the offset of the last good row before it; None where neither is
    known. ``remedy`` says what to do.
    """

    fault: Fault
    file: str
    what: str
    remedy: str
    byte: int | None = None
    after_offset: int | None = None

    @property
    def place(self) -> str:
        """The file, and where in it."""
        byte = "" if self.byte is None else f", byte {self.byte}"
        after = "" if self.after_offset is None else f", after offset {self.after_offset}"
        return f"{self.file}{byte}{after}"

    def as_json(self) -> JSON:
        """For programs."""
        return {
            "fault": self.fault.value,
            "file": self.file,
            "byte": self.byte,
            "after_offset": self.after_offset,
            "what": self.what,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was looked at (``rows`` that readers are served, ``bytes`` of files) and found.

    ``notes`` are worth knowing and no fault: files that are not ours, records that carry no digest.
    ``repaired`` names the segments whose torn tails were cut.
    """

    logs: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> JSON:
        """For programs."""
        return {
            "sound": self.sound,
            "logs": self.logs,
            "files": self.files,
            "bytes": self.bytes,
            "rows": self.rows,
            "findings": [finding.as_json() for finding in self.findings],
            "notes": list(self.notes),
            "repaired": list(self.repaired),
        }


def together(parts: Iterable[Verification]) -> Verification:
    """Several verifications as one, in their order."""
    each = list(parts)
    return Verification(
        logs=sum(part.logs for part in each),
        files=sum(part.files for part in each),
        bytes=sum(part.bytes for part in each),
        rows=sum(part.rows for part in each),
        findings=tuple(finding for part in each for finding in part.findings),
        notes=tuple(note for part in each for note in part.notes),
        repaired=tuple(name for part in each for name in part.repaired),
    )
