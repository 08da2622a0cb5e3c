"""The entities of a store, and the log of each as columns, with its life beside every row.

Entities are listed shard by shard, so their number costs no memory. Each log is read by the
readers' rule (:mod:`ray_agents.log.reader`): it serves no row that is later taken back, whatever
its owner does meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from ray_agents.address import Address, check_type
from ray_agents.cluster.folders import ENTITIES, entity_folder
from ray_agents.errors import CorruptLog, InvalidAddress
from ray_agents.events import EntityCreated
from ray_agents.log.arrow import Batch, pa, pc
from ray_agents.log.codec import COLUMNS
from ray_agents.log.owner import LogIO
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs

LIFE: Any = pa.int32()
_TIME: Any = pa.timestamp("us", tz="UTC")
_TYPE_AT = COLUMNS.index("type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows are wanted; None means all of them.

    ``addresses`` win over ``entity_type``; ``since`` is microseconds since the epoch, UTC.
    """

    entity_type: str | None = None
    addresses: tuple[Address, ...] | None = None
    types: frozenset[str] | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of one log in offset order, and the life of each: null before the first one."""

    address: Address
    batch: Batch
    lives: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A log that cannot be read on."""

    address: Address
    error: CorruptLog


def entities(blobs: Blobs, selection: Selection) -> Iterator[Address]:
    """The addresses in a store, by type and shard; those that are selected.

    Raises:
        InvalidAddress: the selected type is none.
    """
    if selection.addresses is not None:
        yield from selection.addresses
        return
    chosen = selection.entity_type
    for type_name in [check_type(chosen)] if chosen else blobs.names(ENTITIES):
        for shard in blobs.names(f"{ENTITIES}/{type_name}"):
            for entity_id in blobs.names(f"{ENTITIES}/{type_name}/{shard}"):
                address = _address(type_name, entity_id)
                if address is not None:
                    yield address


def _address(type_name: str, entity_id: str) -> Address | None:
    try:
        return Address.of(type_name, entity_id)
    except InvalidAddress:
        return None  # a folder that some program left there; no entity was ever made in it


def read_log(
    blobs: Blobs, address: Address, *, selection: Selection, io: LogIO
) -> Iterator[Piece | Damaged]:
    """The selected rows of one log, a piece for each file; blocks. Damage ends it."""
    life: int | None = None
    try:
        for batch in LogReader(blobs, entity_folder(address), io).batches():
            lives, life = _lives(batch, life)
            yield _selected(Piece(address=address, batch=batch, lives=lives), selection)
    except CorruptLog as error:
        yield Damaged(address=address, error=error)


def _lives(batch: Batch, life: int | None) -> tuple[Any, int | None]:
    """The life of each row; it changes where an entity is created."""
    created = pc.indices_nonzero(pc.equal(batch.column(_TYPE_AT), EntityCreated.TYPE)).to_pylist()
    if not created:
        return _repeated(life, batch.num_rows), life
    runs: list[Any] = []
    begin = 0
    for row in created:
        runs.append(_repeated(life, row - begin))
        life = from_json(batch.column(COLUMNS.index("value"))[row].as_py())["life"]
        begin = row
    runs.append(_repeated(life, batch.num_rows - begin))
    return pa.concat_arrays(runs), life


def _repeated(life: int | None, count: int) -> Any:
    return pa.repeat(pa.scalar(life, LIFE), count)


def _selected(piece: Piece, selection: Selection) -> Piece:
    mask: Any = None
    if selection.types is not None:
        wanted = pa.array(sorted(selection.types), pa.string())
        mask = pc.is_in(piece.batch.column(_TYPE_AT), wanted)
    if selection.since is not None:
        begin = pa.scalar(selection.since, _TIME)
        late = pc.greater_equal(piece.batch.column(COLUMNS.index("time")), begin)
        mask = late if mask is None else pc.and_(mask, late)
    if mask is None:
        return piece
    return Piece(
        address=piece.address, batch=piece.batch.filter(mask), lives=piece.lives.filter(mask)
    )
