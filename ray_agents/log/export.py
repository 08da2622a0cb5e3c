"""One Arrow IPC file with whole logs in it: how an entity leaves a store, and comes into another.

Any Arrow tool opens it. Its columns are ``entity`` (the address) and those of a log; the rows of an
entity stand together, in offset order. The metadata of the schema:

- ``ray_agents_export``: the version of this format, ``1``;
- ``entities``: a JSON list, in the order of their rows, of ``address``, ``tip`` (its rows are those
  acknowledged below that offset), ``first`` (of what lies below, which its type's retention let
  go, there are only the rows that tell the state), ``epoch`` (its newest), ``life``, ``parent``;
- ``digest``: ``<xxh3:…>``, 16 hex digits: the xxh3_64 of the whole file with these digits set to 0.

The digest is of the file and not one for each entity, for so it covers what is nobody's, too:
schema, footer, padding. It stands where Arrow puts a schema, at the beginning and in the footer,
and is filled in when all has been written. A file whose digests differ from what they are of, or
from each other, is not taken in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from pydantic_core import from_json, to_json
from xxhash import xxh3_64

from ray_agents.errors import InvalidPayload
from ray_agents.log.arrow import Batch, ipc, pa
from ray_agents.log.codec import SCHEMA as LOG_SCHEMA
from ray_agents.log.rows import Rows

VERSION = "1"
SCHEMA: Any = pa.schema([("entity", pa.string()), *LOG_SCHEMA])
BATCH_ROWS = 16_384
BATCH_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024 * 1024  # of the schema: about 500,000 entities
_MAGIC = b"ARROW1"
_DIGITS = 16
_MARK = re.compile(rb"<xxh3:([0-9a-f]{16})>")  # no address holds a '<'
_BLANK = "<xxh3:" + "0" * _DIGITS + ">"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One log in an export, as its metadata tells it.

    Of the rows below the offset ``first``, which were let go, the file holds those that tell, with
    all that follow, the states from the offset ``since`` on.
    """

    address: str
    first: int
    since: int
    tip: int
    epoch: int
    life: int
    parent: str | None


def write_export(file: BinaryIO, logs: Iterable[tuple[Exported, Iterable[Batch]]]) -> str:
    """Write an export into ``file``, which can be read, too, and is empty; its digest. Blocks.

    A log's batches are read as they are written, and its facts before any of them.
    """
    all_logs = list(logs)
    facts = to_json([asdict(exported) for exported, _ in all_logs]).decode()
    metadata = {"ray_agents_export": VERSION, "entities": facts, "digest": _BLANK}
    with ipc.new_file(pa.PythonFile(file, mode="w"), SCHEMA.with_metadata(metadata)) as writer:
        for exported, batches in all_logs:
            for batch in in_portions(batches):
                address = pa.repeat(pa.scalar(exported.address, pa.string()), batch.num_rows)
                columns: list[Any] = [address, *batch.columns]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    places = _places(file)
    digest = _digest(file, [place for place, _ in places])
    for place, _ in places:
        file.seek(place)
        file.write(digest.encode())
    file.flush()
    return digest


def in_portions(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same rows in batches that are neither small nor too large to hold in memory."""
    gathered: list[Batch] = []
    rows = size = 0
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH_ROWS):
            batch = whole.slice(start, BATCH_ROWS)
            gathered.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= BATCH_ROWS or size >= BATCH_BYTES:
                yield pa.concat_batches(gathered)
                gathered, rows, size = [], 0, 0
    if gathered:
        yield pa.concat_batches(gathered)


class ExportFile:
    """An export that was written, verified when it is opened. It blocks.

    Raises:
        InvalidPayload: it is not, byte for byte, what was exported; or it is no export at all.
        InvalidPayload: it is an export of a later version of ray-agents.
    """

    def __init__(self, file: BinaryIO, *, name: str) -> None:
        self._name = name
        self.digest = self._verified(file)
        self._reader: Any = ipc.open_file(pa.PythonFile(file, mode="r"))
        metadata: dict[bytes, bytes] = self._reader.schema.metadata
        version = metadata[b"ray_agents_export"].decode()
        if version != VERSION:
            message = f"{name!r} is an export of version {version}; upgrade ray-agents to read it"
            raise InvalidPayload(message, file=name, version=version)
        self.logs = [Exported(**facts) for facts in from_json(metadata[b"entities"])]
        self._next = 0

    def _verified(self, file: BinaryIO) -> str:
        """The digest, which is that of the bytes there are."""
        places = _places(file)
        said = {digest for _, digest in places}
        if len(places) != 2 or said != {_digest(file, [place for place, _ in places])}:
            message = (
                f"{self._name!r} is no export, or is damaged: its bytes are not those of its "
                "digest; export anew, or take another copy"
            )
            raise InvalidPayload(message, file=self._name)
        return said.pop()

    def rows(self, log: Exported) -> Iterator[Rows]:
        """The rows of a log, in portions; logs are asked for in their order, each once."""
        begun = False
        while self._next < self._reader.num_record_batches:
            batch: Any = self._reader.get_batch(self._next)
            its = batch.column(0)[0].as_py() == log.address
            if begun and not its:
                return
            begun = its
            self._next += 1
            if its:
                yield Rows([pa.RecordBatch.from_arrays(batch.columns[1:], schema=LOG_SCHEMA)])


def _places(file: BinaryIO) -> list[tuple[int, str]]:
    """Where the digests stand, in the header and in the footer, and what they say."""
    size = file.seek(0, 2)
    found: list[tuple[int, str]] = []
    for start, end in _schemas(file, size):
        if 0 <= start < end <= size and end - start <= HEADER_BYTES_MAX:
            data = _read(file, start, end)
            marks = [(start + m.start(1), m[1].decode()) for m in _MARK.finditer(data)]
            found += marks if len(marks) == 1 else []
    return found


def _schemas(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """The two places in which Arrow keeps a file's schema: behind the magic, and in the footer."""
    if size < 32 or _read(file, 0, 6) != _MAGIC or _read(file, size - 6, size) != _MAGIC:
        return []
    header = int.from_bytes(_read(file, 12, 16), "little")
    footer = int.from_bytes(_read(file, size - 10, size - 6), "little")
    return [(16, 16 + header), (size - 10 - footer, size - 10)]


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _digest(file: BinaryIO, places: Iterable[int]) -> str:
    """The digest of the file with the digits at ``places`` set to 0."""
    hashed, position = xxh3_64(), 0
    for place in sorted(places):
        _hash(hashed, file, position, place)
        hashed.update(b"0" * _DIGITS)
        position = place + _DIGITS
    _hash(hashed, file, position, file.seek(0, 2))
    return hashed.hexdigest()


def _hash(hashed: Any, file: BinaryIO, start: int, end: int) -> None:
    file.seek(start)
    while start < end:
        piece = file.read(min(CHUNK_BYTES, end - start))
        if not piece:
            return
        hashed.update(piece)
        start += len(piece)
