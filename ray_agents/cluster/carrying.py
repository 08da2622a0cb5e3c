"""Entities out of a store as one file, and into it: export and import.

An export reads: each entity's log whole, up to what is acknowledged when its turn comes, and wakes
nobody. An import makes each entity as a fork is made (``forking.py``), with the rows of the file in
place of links: data is taken over, obligations are not, the rows keep their offsets. Before it
makes any, it looks whether all addresses are free. Each entity is there whole or not at all; if an
import breaks off, the same file again goes on with those that are missing.

An imported log begins at an epoch far beyond the exported one. The backup may be restored into the
very place that it was taken of, while a host of that time still believes that it owns the log: were
its epoch used again, it would find "its" segment under its name and acknowledge into the void.
:data:`EPOCHS_BEYOND` is more epochs than an entity goes through between two backups.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from tempfile import TemporaryFile, gettempdir
from typing import BinaryIO, cast

from ray_agents.address import Address
from ray_agents.cluster.asof import settled, state_as_of
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.forking import Describe, first_drafts, made_before, taken
from ray_agents.errors import (
    CorruptLog,
    InvalidAddress,
    InvalidPayload,
    StoreFull,
    StoreUnavailable,
)
from ray_agents.log.arrow import Batch
from ray_agents.log.export import CHUNK_BYTES, Exported, ExportFile, in_portions, write_export
from ray_agents.log.forking import Beginning, begin_log, first_events
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry
from ray_agents.log.owner import Claim, LogIO
from ray_agents.log.reader import LogReader, Past
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.sealed import write_sealed, write_snapshot
from ray_agents.origin import Cause, EntityForked
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import State
from ray_agents.views import EntityView

IMPORTER = "import"  # the owner that an import's first segment names; no host is called so
EPOCHS_BEYOND = 1_000_000
IMPORTED = "the imported file"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entity:
    """An entity that is to be made: as exported, and where; ``known`` if it was made before."""

    exported: Exported
    address: Address
    parent: str | None
    known: bool


class Carrier:
    """Exports from and imports into one store; ``describe`` tells how an entity looks."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock, describe: Describe) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock
        self._describe = describe

    # -- out ----------------------------------------------------------------------------------

    async def export(self, addresses: list[Address]) -> AsyncGenerator[bytes, None]:
        """The bytes of one file with these entities, once it stands on this machine's disk.

        Raises:
            UnknownEntity: nobody ever lived at one of the addresses.
            CorruptLog: a log is damaged.
        """
        logs = [await self._look(address) for address in addresses]
        with _spool() as file:
            await self._io.run(write_export, file, logs)
            await self._io.run(file.seek, 0)
            while data := await self._io.run(file.read, CHUNK_BYTES):
                yield data

    async def _look(self, address: Address) -> tuple[Exported, Iterator[Batch]]:
        """A log as it is now, and its rows, to be read later."""
        reader = LogReader(self._blobs, entity_folder(address), self._io)
        past = await settled(reader, address, clock=self._clock)
        created = (await self._io.run(state_as_of, address, past.history, past.tip)).created
        exported = Exported(
            address=str(address),
            first=past.first,
            since=max(past.first, past.since) if past.first else 0,
            tip=past.tip,
            epoch=past.head.epoch if past.head else 0,
            life=created.life if created else 0,
            parent=created.parent if created else None,
        )
        told = past.history.before(past.first).batches()  # of rows that were let go
        return exported, in_portions(chain(told, _below(past, reader, address)))

    # -- in -----------------------------------------------------------------------------------

    async def take_in(
        self, chunks: AsyncIterator[bytes], *, to: Address | None = None
    ) -> list[EntityView]:
        """Make the entities of an exported file, at their addresses or the one of them at ``to``.

        Durable when this returns; it wakes nobody.

        Raises:
            CorruptLog: the file is damaged.
            InvalidPayload: ``to`` is given, and the file holds several entities.
            InvalidAddress: ``to`` is of another type.
            EntityExists: an address is taken; then nothing has been made.
        """
        with _spool() as file:
            async for chunk in chunks:
                await self._io.run(file.write, chunk)
            source = await self._io.run(_opened, file)
            entities = await self._entities(source, to)
            for entity in entities:
                if not entity.known:
                    await self._io.run(self._make, source, entity)
        return [await self._describe(entity.address) for entity in entities]

    async def _entities(self, source: ExportFile, to: Address | None) -> list[_Entity]:
        """What is to be made, or is there by an earlier import of the same file."""
        if to is not None and len(source.logs) != 1:
            message = (
                f"the file holds {len(source.logs)} entities; only one can be given a new name"
            )
            raise InvalidPayload(message, entities=[log.address for log in source.logs])
        found: list[_Entity] = []
        for exported in source.logs:
            address = Address.parse(exported.address) if to is None else to
            if address.type != Address.parse(exported.address).type:
                message = f"{exported.address!r} cannot become {str(to)!r}: it keeps its type"
                raise InvalidAddress(message, address=str(to))
            known = await made_before(self._blobs, address, source.digest, io=self._io)
            if known not in (None, exported.epoch + EPOCHS_BEYOND):
                raise taken(address)  # it was imported, and has gone on since
            found.append(
                _Entity(
                    exported=exported,
                    address=address,
                    parent=exported.parent if to is None else None,
                    known=known is not None,
                )
            )
        return found

    def _make(self, source: ExportFile, entity: _Entity) -> None:
        exported, folder = entity.exported, entity_folder(entity.address)
        parts = list(source.rows(exported))
        beginning = self._written(exported, parts, folder)
        history = History(parts)
        state = state_as_of(entity.address, history, exported.tip)
        origin = self._origin(source, entity, state)
        events = first_events(beginning, first_drafts(origin, state, history))
        claim = Claim(host=IMPORTER, token=self._clock.fresh_id())
        if not begin_log(self._blobs, folder, events=events, claim=claim):
            raise taken(entity.address)

    def _written(self, exported: Exported, parts: list[Rows], folder: str) -> Beginning:
        """The rows as files of the new log; of what was let go there is a snapshot."""
        epoch, end = exported.epoch + EPOCHS_BEYOND, 0
        files: list[FileEntry] = []
        told: list[Rows] = []
        for rows in parts:
            end = check_order(IMPORTED, rows, start=end).end
            before = rows.before(exported.since)
            told += [before] if before else []
            if end > exported.first:
                kept = rows.behind(exported.first)
                entry = write_sealed(self._blobs, folder, rows=kept, epoch=epoch, indexed=True)
                files.append(entry)
        if not 0 < end <= exported.tip:
            message = f"the rows of {exported.address!r} in the file are not those below its tip"
            raise CorruptLog(message, segment=IMPORTED, after_offset=None)
        snapshot: FileEntry | None = None
        if told:
            snapshot = write_snapshot(
                self._blobs,
                folder,
                rows=Rows([rows.batch for rows in told]),
                end=exported.since,
                epoch=epoch,
            )
        return Beginning(
            epoch=epoch,
            offset=exported.tip,
            time=max(self._clock.now(), parts[-1].last_time),
            files=tuple(files),
            snapshot=snapshot,
            first=exported.first,
        )

    def _origin(self, source: ExportFile, entity: _Entity, state: State) -> EntityForked:
        created, now = state.created, self._clock.now()
        return EntityForked(
            key=source.digest,
            cause=Cause.IMPORT,
            source=entity.exported.address,
            offset=entity.exported.tip,
            life=created.life if created else 0,
            parent=entity.parent,
            created=created.timestamp if created else now,
            woken=state.woken or bool(state.wakes),
            timestamp=now,
            digest=source.digest,
        )


def _below(past: Past, reader: LogReader, address: Address) -> Iterator[Batch]:
    """The rows below the end of ``past``; a file at a time is in memory.

    Raises:
        StoreUnavailable: some of them were let go meanwhile.
    """
    for batch in reader.batches():
        kept = Rows([batch]).before(past.tip)
        if kept is not None:
            yield kept.batch
    if reader.first > past.first:
        message = f"{str(address)!r} has let rows go while it was exported; export it again"
        raise StoreUnavailable(message, address=str(address))


@contextmanager
def _spool() -> Generator[BinaryIO]:
    """A file of this machine's own, without a name, for as long as it is needed.

    Raises:
        StoreFull: there is no room for it.
    """
    try:
        with TemporaryFile(prefix="ray-agents-") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        message = f"no room for the file in {gettempdir()!r} ({error.strerror}); set TMPDIR"
        raise StoreFull(message, path=gettempdir()) from error


def _opened(file: BinaryIO) -> ExportFile:
    file.flush()
    return ExportFile(file, name=IMPORTED)
