"""Events to the bytes of a frame, and frames back to columns; pure but for pyarrow.

A frame is the encapsulated Arrow IPC message of one record batch. Its custom metadata carries two
markers (see :mod:`ray_agents.log.marker`), so a reader tells whole, torn and corrupt apart before
Arrow looks at a single byte. The places of the markers are the same in every frame of a segment;
:data:`LAYOUT` measures them once and each segment's schema metadata records them.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any, cast

from pydantic_core import from_json, to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.events import NO_HEADERS, Event, Operation
from ray_agents.log.arrow import Batch, ipc, pa
from ray_agents.log.marker import BLANK, Places, find_places, seal

COLUMNS = ("offset", "time", "type", "key", "operation", "value", "headers")
VALUE_COLUMN = COLUMNS.index("value")
SCHEMA: Any = pa.schema(
    [("offset", pa.int64()), ("time", pa.timestamp("us", tz="UTC"))]
    + [(name, pa.string()) for name in COLUMNS[2:]]
)
_ROW: Any = pa.struct(list(SCHEMA))
_INT64: Any = pa.int64()
_STRING: Any = pa.string()
_OPTIONS: Any = ipc.IpcWriteOptions()
_MARKERS: Any = pa.KeyValueMetadata({"frame_marker": BLANK, "frame_marker_again": BLANK})
_SCHEMA_BYTES: int = SCHEMA.serialize().size
_OPERATIONS = {operation.value: operation for operation in Operation}
_EMPTY = "{}"
MANY_ROWS_MIN = 512  # so many rows share what they say of types, operations and headers
UNTRACKED_AT_ONCE = 256  # fewer than are allocated between two collections of the youngest


def _headers(text: str) -> Mapping[str, str]:
    return NO_HEADERS if text == _EMPTY else from_json(text)


_bare = cast("Callable[[type[Event]], Event]", object.__new__)
_untrack: Any = ctypes.pythonapi["PyObject_GC_UnTrack"]
_untrack.argtypes, _untrack.restype = [ctypes.py_object], None
_PUTS: list[Any] = [Event.__dict__[each.name].__set__ for each in fields(Event)]
_MEANINGS: dict[str, Callable[[str], Any]] = {  # of columns that say the same in many rows
    "type": str,
    "operation": _OPERATIONS.__getitem__,
    "headers": _headers,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How every frame of a segment begins: its first bytes, and where its markers are."""

    start: bytes
    places: Places


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One append as bytes, and the same rows as a record batch."""

    data: bytes
    digest: int
    batch: Batch


def to_batch(events: Sequence[Event]) -> Batch:
    """``events`` as one record batch."""
    rows = [
        (
            event.offset,
            event.time,
            event.type,
            event.key,
            event.operation.value,
            event.text or None,
            to_json(dict(event.headers)).decode() if event.headers else _EMPTY,
        )
        for event in events
    ]
    return pa.RecordBatch.from_struct_array(pa.array(rows, _ROW))


def to_events(batch: Batch) -> list[Event]:
    """The rows of a record batch.

    Column by column into the slots of bare events, nothing of it in a loop of Python's own: the
    constructor of a frozen dataclass takes longer than all of this. Many events are taken from the
    garbage collector, too, which would look for cycles among them again and again and take as long
    as everything else; there are none, as an event holds texts and numbers.
    """
    rows = batch.num_rows
    columns = [
        iter(_values(column, _MEANINGS.get(name)))
        for column, name in zip(batch.columns, COLUMNS, strict=True)
    ]
    if rows < MANY_ROWS_MIN:
        return _filled(columns, rows)
    events: list[Event] = []
    for begin in range(0, rows, UNTRACKED_AT_ONCE):
        some = _filled(columns, min(UNTRACKED_AT_ONCE, rows - begin))
        deque[None](map(_untrack, some), maxlen=0)
        events += some
    return events


def _filled(columns: Sequence[Iterator[Any]], count: int) -> list[Event]:
    events = list(map(_bare, repeat(Event, count)))
    for put, column in zip(_PUTS, columns, strict=True):
        deque[None](map(put, events, column), maxlen=0)
    return events


def _values(column: Any, meaning: Callable[[str], Any] | None) -> Iterable[Any]:
    if column.type != _STRING:
        return column.view(_INT64).to_numpy().tolist()
    if meaning is None:
        return (column.fill_null("") if column.null_count else column).to_pylist()
    if len(column) < MANY_ROWS_MIN:
        return map(meaning, column.to_pylist())
    coded = column.dictionary_encode()
    meanings: list[Any] = [meaning(text) for text in coded.dictionary.to_pylist()]
    return map(meanings.__getitem__, coded.indices.to_numpy().tolist())


def encode_frame(events: Sequence[Event]) -> Frame:
    """``events`` (at least one) as one frame."""
    batch = to_batch(events)
    data = _serialise(batch)
    digest = seal(data, LAYOUT.places)
    return Frame(data=bytes(data), digest=digest, batch=batch)


def _serialise(batch: Batch) -> bytearray:
    sink = pa.BufferOutputStream()
    writer = ipc.new_stream(sink, SCHEMA, options=_OPTIONS)
    writer.write_batch(batch, custom_metadata=_MARKERS)
    return bytearray(memoryview(sink.getvalue())[_SCHEMA_BYTES:])


def _measure() -> Layout:
    probe = Event(offset=0, time=0, type="t", key="k", operation=Operation.INSERT, text="0")
    data = _serialise(to_batch([probe]))
    return Layout(start=bytes(data[:8]), places=find_places(data))


LAYOUT = _measure()


def decode_frames(schema_bytes: bytes, frames: bytes | memoryview) -> list[Batch]:
    """The record batches of verified frames that follow a verified schema message."""
    if not frames:
        return []
    return list(ipc.open_stream(pa.py_buffer(schema_bytes + frames)))


def chain_digest(digests: Sequence[int]) -> str:
    """One digest, 16 hex digits, for a sequence of frames."""
    return xxh3_64_hexdigest(b"".join(digest.to_bytes(8, "big") for digest in digests))
