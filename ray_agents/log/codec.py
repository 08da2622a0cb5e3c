"""Events to the bytes of a frame, and frames back to columns; pure but for pyarrow.

A frame is the encapsulated Arrow IPC message of one record batch. Its custom metadata carries two
markers (see :mod:`ray_agents.log.marker`), so a reader tells whole, torn and corrupt apart before
Arrow looks at a single byte. The places of the markers are the same in every frame of a segment;
:data:`LAYOUT` measures them once and each segment's schema metadata records them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.events import NO_HEADERS, Event, Operation
from ray_agents.log.arrow import Batch, ipc, pa
from ray_agents.log.marker import BLANK, Places, find_places, seal

COLUMNS = ("offset", "time", "type", "key", "operation", "value", "headers")
SCHEMA: Any = pa.schema(
    [("offset", pa.int64()), ("time", pa.timestamp("us", tz="UTC"))]
    + [(name, pa.string()) for name in COLUMNS[2:]]
)
_ROW: Any = pa.struct(list(SCHEMA))
_INT64: Any = pa.int64()
_OPTIONS: Any = ipc.IpcWriteOptions()
_MARKERS: Any = pa.KeyValueMetadata({"frame_marker": BLANK, "frame_marker_again": BLANK})
_SCHEMA_BYTES: int = SCHEMA.serialize().size
_OPERATIONS = {operation.value: operation for operation in Operation}
_EMPTY = "{}"


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
    """The rows of a record batch."""
    offsets, times, types, keys, operations, values, headers = _lists(batch)
    return [
        Event(
            offset=offsets[row],
            time=times[row],
            type=types[row],
            key=keys[row],
            operation=_OPERATIONS[operations[row]],
            text=values[row] or "",
            headers=NO_HEADERS if headers[row] == _EMPTY else from_json(headers[row]),
        )
        for row in range(len(offsets))
    ]


def _lists(batch: Batch) -> list[list[Any]]:
    times = batch.column(1).view(_INT64)
    return [(times if index == 1 else batch.column(index)).to_pylist() for index in range(7)]


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
