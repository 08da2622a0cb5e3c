"""A segment: one owner's Arrow IPC stream file, complete with its owner's name when created.

Theory of operation. The schema message names epoch, host and claim token and is written before
the file has its name, so a segment without an owner cannot exist. Frames follow. Reading stops at
the first byte sequence that is not a whole, intact frame, and says what stands there:

- nothing: the segment ends cleanly;
- ``torn``: a strict prefix of a frame (its marker says it is longer than what is left, or too
  little is left to show a marker and it begins as frames begin) with no whole frame inside, or
  zeros up to the end. It was never acknowledged and may be cut;
- ``corrupt``: anything else. Whoever needs rows from there on gets :class:`CorruptLog`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ray_agents.errors import CorruptLog, StoreUnavailable
from ray_agents.log.arrow import Batch, ipc, pa
from ray_agents.log.codec import LAYOUT, SCHEMA, Layout, decode_frames
from ray_agents.log.marker import (
    BLANK,
    MAGIC,
    WIDTH,
    Marker,
    Places,
    blanked_digest,
    find_places,
    read_marker,
    seal,
)

FORMAT_VERSION = "1"
SCHEMA_BYTES_MAX = 65_536
SEALED_ROW = "log_sealed"
MANIFEST_ROW = "log_manifest"
_NAME = re.compile(r"(\d{10})\.arrows", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who claims a log; ``token`` is unique for each claim."""

    host: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest segment of a log: its epoch, its owner, and whether the owner left cleanly."""

    epoch: int
    host: str
    token: str
    sealed: bool


class Ending(Enum):
    """What stands behind the last whole frame of a segment."""

    CLEAN = "clean"
    TORN = "torn"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """What a segment's schema message says, and the message itself."""

    epoch: int
    host: str
    token: str
    layout: Layout
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The intact part of a segment: one digest and one batch for each frame, oldest first.

    ``position`` is where reading stopped, ``ending`` what stands there.
    """

    name: str
    preamble: Preamble
    digests: tuple[int, ...]
    batches: tuple[Batch, ...]
    position: int
    ending: Ending

    @property
    def sealed(self) -> bool:
        """Whether the owner left cleanly: the last frame is a closing frame."""
        return bool(self.batches) and self.batches[-1].column(2)[-1].as_py() == SEALED_ROW

    @property
    def begun(self) -> bool:
        """Whether the first frame, which holds the manifest, is there."""
        return bool(self.batches)

    @property
    def head(self) -> Head:
        """Who owns or owned it."""
        owner = self.preamble
        return Head(epoch=owner.epoch, host=owner.host, token=owner.token, sealed=self.sealed)

    def followed_by(self, more: Segment) -> Segment:
        """This segment and ``more`` of it, read from ``position`` on."""
        return replace(
            more,
            digests=self.digests + more.digests,
            batches=self.batches + more.batches,
        )

    def corruption(self) -> CorruptLog:
        """The error for whoever needs what stands at ``position``."""
        after = self.batches[-1].column(0)[-1].as_py() if self.batches else None
        where = "before its first row" if after is None else f"after offset {after}"
        return CorruptLog(
            f"segment {self.name!r} is corrupt at byte {self.position}, {where}; "
            "restore the file from a backup",
            segment=self.name,
            byte=self.position,
            after_offset=after,
        )


def segment_name(folder: str, epoch: int) -> str:
    """The name of the segment of ``epoch``."""
    return f"{folder}/{epoch:010d}.arrows"


def epoch_of(name: str) -> int | None:
    """The epoch of a file's name (its last part); None if it is no segment."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def new_preamble(epoch: int, claim: Claim) -> Preamble:
    """What a segment begins with; its ``data`` is a segment that has no frame yet."""
    places = LAYOUT.places
    schema: Any = SCHEMA.with_metadata(
        {
            "ray_agents_format": FORMAT_VERSION,
            "epoch": str(epoch),
            "host": claim.host,
            "token": claim.token,
            "frame_layout": f"{LAYOUT.start.hex()} {places.first} {places.second}",
            "schema_marker": BLANK,
            "schema_marker_again": BLANK,
        }
    )
    data = bytearray(memoryview(schema.serialize()))
    seal(data, find_places(data))
    return Preamble(
        epoch=epoch, host=claim.host, token=claim.token, layout=LAYOUT, data=bytes(data)
    )


def read_preamble(name: str, data: bytes) -> Preamble:
    """The schema message that ``data``, the content of segment ``name``, begins with.

    Raises:
        CorruptLog: it is damaged.
        StoreUnavailable: it is intact but of a format this version does not know.
    """
    message = _schema_message(name, data)
    schema: Any = ipc.read_schema(pa.py_buffer(message))
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    if facts["ray_agents_format"] != FORMAT_VERSION:
        version = facts["ray_agents_format"]
        message = f"segment {name!r} has format {version!r}; upgrade ray-agents to read it"
        raise StoreUnavailable(message, segment=name, version=version)
    if segment_name("", int(facts["epoch"])) != "/" + name.rpartition("/")[2]:
        raise _bad_preamble(name)
    start, first, second = facts["frame_layout"].split(" ")
    places = Places(first=int(first), second=int(second))
    return Preamble(
        epoch=int(facts["epoch"]),
        host=facts["host"],
        token=facts["token"],
        layout=Layout(start=bytes.fromhex(start), places=places),
        data=message,
    )


def _schema_message(name: str, data: bytes) -> bytes:
    found = _schema_markers(data)
    if len(found) != 2:
        raise _bad_preamble(name)
    (first, marker), (second, again) = found
    message = data[: marker.length]
    places = Places(first=first, second=second)
    intact = marker == again and len(message) == marker.length
    if not intact or blanked_digest(message, places) != marker.digest:
        raise _bad_preamble(name)
    return message


def _schema_markers(data: bytes) -> list[tuple[int, Marker]]:
    found: list[tuple[int, Marker]] = []
    at = data.find(MAGIC, 0, SCHEMA_BYTES_MAX)
    while at >= 0 and len(found) < 2:
        marker = read_marker(data[at : at + WIDTH])
        if marker is not None:
            found.append((at, marker))
        at = data.find(MAGIC, at + 1, SCHEMA_BYTES_MAX)
    return found


def _bad_preamble(name: str) -> CorruptLog:
    message = f"segment {name!r} is corrupt in its schema message; restore it from a backup"
    return CorruptLog(message, segment=name, byte=0, after_offset=None)


def parse_segment(name: str, data: bytes) -> Segment:
    """The intact part of a segment's content.

    Raises:
        CorruptLog: the schema message is damaged. Damage further on is in ``ending``.
    """
    preamble = read_preamble(name, data)
    return parse_frames(name, preamble, data[len(preamble.data) :])


def parse_frames(name: str, preamble: Preamble, data: bytes, *, at: int | None = None) -> Segment:
    """The intact frames of ``data``, which begins at byte ``at`` of the segment."""
    at = len(preamble.data) if at is None else at
    view = memoryview(data)
    position, digests, ending = 0, list[int](), Ending.CLEAN
    while position < len(data):
        found = _frame_at(view[position:], preamble.layout)
        if isinstance(found, Ending):
            ending = found
            break
        digests.append(found.digest)
        position += found.length
    return Segment(
        name=name,
        preamble=preamble,
        digests=tuple(digests),
        batches=tuple(decode_frames(preamble.data, view[:position])),
        position=at + position,
        ending=ending,
    )


def _frame_at(rest: memoryview, layout: Layout) -> Marker | Ending:
    """The whole frame at the start of ``rest``, or what stands there instead."""
    places = layout.places
    marker = read_marker(bytes(rest[places.first : places.first + WIDTH]))
    marker = marker or read_marker(bytes(rest[places.second : places.end]))
    if marker is None:
        return _unmarked(rest, layout)
    if marker.length > len(rest):
        cut_short = _begins(rest, layout) and not _holds_frame(rest, layout)
        return Ending.TORN if cut_short else Ending.CORRUPT
    if blanked_digest(rest[: marker.length], places) != marker.digest:
        return Ending.CORRUPT
    return marker


def _holds_frame(rest: memoryview, layout: Layout) -> bool:
    """Whether a whole frame stands somewhere behind the beginning of ``rest``.

    Then something is missing in the middle, and what follows may have been acknowledged. No value
    can look like a frame: it is text, and frames begin with bytes that UTF-8 never has.
    """
    data, places = bytes(rest), layout.places
    at = data.find(layout.start, 1)
    while at >= 0:
        marker = read_marker(data[at + places.first : at + places.first + WIDTH])
        whole = marker is not None and marker.length <= len(data) - at
        if (
            marker
            and whole
            and blanked_digest(rest[at : at + marker.length], places) == marker.digest
        ):
            return True
        at = data.find(layout.start, at + 1)
    return False


def find_scars(preamble: Preamble, data: bytes, *, stop: int) -> list[int]:
    """Where, up to byte ``stop``, whole frames begin that have one damaged marker.

    Reading survives on the other one; verification is stricter.
    """
    places, at, found = preamble.layout.places, len(preamble.data), list[int]()
    while at < stop:
        first = read_marker(data[at + places.first : at + places.first + WIDTH])
        second = read_marker(data[at + places.second : at + places.end])
        if first != second:
            found.append(at)
        known = first or second
        if known is None:
            break
        at += known.length
    return found


def _unmarked(rest: memoryview, layout: Layout) -> Ending:
    too_short = len(rest) < layout.places.first + WIDTH
    if (too_short and _begins(rest, layout)) or not bytes(rest).strip(b"\0"):
        return Ending.TORN
    return Ending.CORRUPT


def _begins(rest: memoryview, layout: Layout) -> bool:
    return layout.start.startswith(bytes(rest[: len(layout.start)]))
