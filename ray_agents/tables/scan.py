"""``scan``: the acknowledged rows of one entity, or of the whole fleet, as one Arrow table.

Theory of operation. Sealed files alone could be read as a ``pyarrow.dataset``, but a live tail is
a stream whose safe end only the readers' rule knows. So logs are read by our own reader, one file
of each at a time, a few logs ahead; rows of small logs are gathered, so that a fleet of a million
sleepers becomes some hundred large batches and not a million small ones.

Two forms, because they are for two things. :func:`scan` gives a table: it may be read as often as
you like and is what everybody's tools take. :func:`scan_batches` gives a reader, for fleets that
are larger than memory: it holds some batches and can be read once. It is no Dataset, because each
pass over a Dataset would see another state of logs that go on growing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from ray_agents.address import Address
from ray_agents.errors import CorruptLog, InvalidPayload, StoreUnavailable
from ray_agents.log.arrow import Batch, pa
from ray_agents.log.codec import SCHEMA as LOG_SCHEMA
from ray_agents.log.owner import LogIO
from ray_agents.log.store import check_format, look_into, open_blobs
from ray_agents.ports import Blobs
from ray_agents.projection import USER_TYPE_PREFIX
from ray_agents.records import TYPE_OF
from ray_agents.tables.fleet import LIFE, Damaged, Piece, Selection, entities, read_log

READ_AHEAD_LOGS = 8
READ_AHEAD_BYTES = 1024 * 1024  # of each of them, and at least one file
BATCH_ROWS = 65_536
BATCH_BYTES = 16 * 1024 * 1024

SCHEMA: Any = pa.schema(
    [("address", pa.string()), ("entity_type", pa.string()), ("life", LIFE), *LOG_SCHEMA]
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Store = str | PathLike[str] | Blobs
OnCorrupt = Callable[[str, CorruptLog], None]


def scan(
    store: Store,
    *,
    types: Iterable[str] | None = None,
    collections: Iterable[str] | None = None,
    since: datetime | None = None,
    address: str | Sequence[str] | None = None,
    entity_type: str | None = None,
    on_corrupt: OnCorrupt | None = None,
) -> Any:
    """The acknowledged rows of a store's logs, as a ``pyarrow.Table``.

    It wakes nobody, needs neither Ray nor a running runtime, and may run while entities work:
    each log is read up to its acknowledged end at the moment its turn comes (and while an owner
    that follows a crash is taking over, up to what its predecessors listed). The columns are
    those of :data:`SCHEMA`: ``address``, ``entity_type``, ``life`` (null before the first
    ``entity_created``), ``offset``, ``time``, ``type``, ``key``, ``operation``, ``value`` (JSON
    text, null for a deletion) and ``headers`` (JSON text). Rows of a log stand together, in
    offset order; logs are ordered by type and shard.

    Args:
        store: where the logs are kept, as in ``RAY_AGENTS_STORE``.
        types: only rows of these types (``"step"``), or built-in collections (``"steps"``).
        collections: only rows of these state collections of the user's, by name; with ``types``,
            these too.
        since: only rows of that time and later; it must carry its zone.
        address: only this entity, or these.
        entity_type: only entities of this type.
        on_corrupt: called with the address and the error of each log that is damaged, whose rows
            from the damaged file on are then left out; None raises instead.

    Raises:
        CorruptLog: a log is damaged; ``facts["address"]`` says which.
        InvalidAddress, InvalidPayload: an argument does not say what it must.
        StoreUnavailable: there is no such store, or it cannot be read.
    """
    chosen = select(types, collections, since=since, address=address, entity_type=entity_type)
    batches = read_batches(open_store(store), chosen, on_corrupt=on_corrupt)
    return pa.Table.from_batches(list(batches), SCHEMA)


def scan_batches(
    store: Store,
    *,
    types: Iterable[str] | None = None,
    collections: Iterable[str] | None = None,
    since: datetime | None = None,
    address: str | Sequence[str] | None = None,
    entity_type: str | None = None,
    on_corrupt: OnCorrupt | None = None,
) -> Any:
    """The same as :func:`scan`, read as it is asked for: a ``pyarrow.RecordBatchReader``.

    It can be read once, and holds some batches and some files at a time, however large the fleet
    is. What ``scan`` raises of logs, reading a batch raises here.
    """
    chosen = select(types, collections, since=since, address=address, entity_type=entity_type)
    batches = read_batches(open_store(store), chosen, on_corrupt=on_corrupt)
    return pa.RecordBatchReader.from_batches(SCHEMA, batches)


def select(
    types: Iterable[str] | None,
    collections: Iterable[str] | None,
    *,
    since: datetime | None = None,
    address: str | Sequence[str] | None = None,
    entity_type: str | None = None,
) -> Selection:
    """What the arguments of :func:`scan` ask for."""
    wanted: set[str] | None = None
    if types is not None or collections is not None:
        wanted = {TYPE_OF.get(name, name) for name in types or ()}
        wanted |= {USER_TYPE_PREFIX + name for name in collections or ()}
    texts = [address] if isinstance(address, str) else address
    return Selection(
        entity_type=entity_type,
        addresses=None if texts is None else tuple(Address.parse(text) for text in texts),
        types=None if wanted is None else frozenset(wanted),
        since=None if since is None else microseconds(since),
    )


def microseconds(since: datetime) -> int:
    """Since the epoch.

    Raises:
        InvalidPayload: the time has no zone.
    """
    if since.tzinfo is None:
        message = f"since={since!r} has no zone; write datetime(…, tzinfo=UTC)"
        raise InvalidPayload(message, field="since")
    return (since - _EPOCH) // timedelta(microseconds=1)


def open_store(store: Store) -> Blobs:
    """The store to be read; unlike a runtime's, it must be there already.

    Raises:
        StoreUnavailable: it is not.
    """
    if not isinstance(store, str | PathLike):
        return store
    url = fspath(store)
    if "://" in url:
        blobs = look_into(url)  # nothing is written: whoever asks may be allowed to read only
        check_format(blobs, url)
        return blobs
    if not Path(url).expanduser().is_dir():
        message = f"there is no store at {url!r}; give the folder that the runtime was started with"
        raise StoreUnavailable(message, path=url)
    return open_blobs(url)


def read_batches(
    blobs: Blobs, selection: Selection, *, on_corrupt: OnCorrupt | None
) -> Generator[Batch]:
    """The selected rows, in batches of :data:`SCHEMA`."""
    gathered: list[Piece] = []
    rows = size = 0
    for piece in _pieces(blobs, selection):
        if isinstance(piece, Damaged):
            _report(piece, on_corrupt)
        elif piece.batch.num_rows:
            gathered.append(piece)
            rows += piece.batch.num_rows
            size += piece.batch.nbytes
            if rows >= BATCH_ROWS or size >= BATCH_BYTES:
                yield _as_one(gathered)
                gathered, rows, size = [], 0, 0
    if gathered:
        yield _as_one(gathered)


def _report(damaged: Damaged, on_corrupt: OnCorrupt | None) -> None:
    address, error = str(damaged.address), damaged.error
    told = CorruptLog(f"{address}: {error.message}", **error.facts | {"address": address})
    if on_corrupt is None:
        raise told from error
    on_corrupt(address, told)


def _pieces(blobs: Blobs, selection: Selection) -> Iterator[Piece | Damaged]:
    """The pieces of all logs in order; threads read the first ones of some logs ahead."""
    io = LogIO(threads_max=READ_AHEAD_LOGS, kept_bytes_max=0)
    try:
        under_way: deque[Any] = deque()
        for address in entities(blobs, selection):
            log = read_log(blobs, address, selection=selection, io=io)
            under_way.append(io.start(_first_pieces, log))
            if len(under_way) >= READ_AHEAD_LOGS:
                yield from _oldest(under_way)
        while under_way:
            yield from _oldest(under_way)
    finally:
        io.close()


def _oldest(under_way: deque[Any]) -> Iterator[Piece | Damaged]:
    first, rest = under_way.popleft().result()
    yield from first
    yield from rest


def _first_pieces(
    log: Iterator[Piece | Damaged],
) -> tuple[list[Piece | Damaged], Iterator[Piece | Damaged]]:
    first: list[Piece | Damaged] = []
    size = 0
    for piece in log:
        first.append(piece)
        size += 0 if isinstance(piece, Damaged) else piece.batch.nbytes
        if size >= READ_AHEAD_BYTES:
            break
    return first, log


def _as_one(pieces: Sequence[Piece]) -> Batch:
    """The pieces as one batch, with the columns that say whose rows they are."""
    counts = [piece.batch.num_rows for piece in pieces]
    batch = pa.concat_batches([piece.batch for piece in pieces])
    columns = [
        _spread([str(piece.address) for piece in pieces], counts),
        _spread([piece.address.type for piece in pieces], counts),
        pa.concat_arrays([piece.lives for piece in pieces]),
    ]
    return pa.RecordBatch.from_arrays([*columns, *batch.columns], schema=SCHEMA)


def _spread(names: Sequence[str], counts: Sequence[int]) -> Any:
    """Each name as often as its count says."""
    return pa.concat_arrays(
        [pa.repeat(pa.scalar(name), count) for name, count in zip(names, counts, strict=True)]
    )
