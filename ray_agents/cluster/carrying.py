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

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast

from ray_agents.address import Address
from ray_agents.cluster.asof import settled, state_as_of
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.forking import described, first_drafts, made_before, taken
from ray_agents.errors import CorruptLog, InvalidAddress, InvalidPayload
from ray_agents.log.arrow import Batch
from ray_agents.log.export import CHUNK_BYTES, Exported, ExportFile, in_portions, write_export
from ray_agents.log.forking import Beginning, begin_log, first_events
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry
from ray_agents.log.owner import Claim, LogIO
from ray_agents.log.reader import LogReader
from ray_agents.log.rows import Rows, check_order
from ray_agents.log.sealed import write_sealed
from ray_agents.origin import Cause, EntityForked
from ray_agents.ports import Blobs, Clock
from ray_agents.projection import State, fold
from ray_agents.views import EntityView

IMPORTER = "import"  # the owner that an import's first segment names; no host is called so
EPOCHS_BEYOND = 1_000_000
IMPORTED = "the imported file"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entity:
    """An entity that is to be made: as exported, and where."""

    exported: Exported
    address: Address
    parent: str | None
    known: EntityView | None


class Carrier:
    """Exports from and imports into one store."""

    def __init__(self, blobs: Blobs, *, io: LogIO, clock: Clock) -> None:
        self._blobs = blobs
        self._io = io
        self._clock = clock

    # -- out ----------------------------------------------------------------------------------

    async def export(self, addresses: list[Address]) -> AsyncGenerator[bytes, None]:
        """The bytes of one file with these entities, once it stands on this machine's disk.

        Raises:
            UnknownEntity: nobody ever lived at one of the addresses.
            CorruptLog: a log is damaged.
        """
        logs = [await self._look(address) for address in addresses]
        with TemporaryFile(prefix="ray-agents-export-") as file:
            await self._io.run(write_export, cast("BinaryIO", file), logs)
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
            tip=past.tip,
            epoch=past.head.epoch if past.head else 0,
            life=created.life if created else 0,
            parent=created.parent if created else None,
        )
        return exported, _below(past.tip, reader)

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
        with TemporaryFile(prefix="ray-agents-import-") as file:
            async for chunk in chunks:
                await self._io.run(file.write, chunk)
            source = await self._io.run(_opened, file)
            return [
                entity.known or await self._io.run(self._make, source, entity)
                for entity in await self._entities(source, to)
            ]

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
            if known is not None and known.epoch != exported.epoch + EPOCHS_BEYOND:
                raise taken(address)  # it was imported, and has gone on since
            parent = exported.parent if to is None else None
            found.append(_Entity(exported=exported, address=address, parent=parent, known=known))
        return found

    def _make(self, source: ExportFile, entity: _Entity) -> EntityView:
        exported, folder = entity.exported, entity_folder(entity.address)
        epoch = exported.epoch + EPOCHS_BEYOND
        files: list[FileEntry] = []
        parts: list[Rows] = []
        for rows in source.rows(exported):
            check_order(IMPORTED, rows, start=files[-1].end if files else 0)
            files.append(write_sealed(self._blobs, folder, rows=rows, epoch=epoch, indexed=True))
            parts.append(rows)
        if not files or files[-1].end > exported.tip:
            message = f"the rows of {exported.address!r} in the file are not those below its tip"
            raise CorruptLog(message, segment=IMPORTED, after_offset=None)
        history = History(parts)
        state = state_as_of(entity.address, history, exported.tip)
        now = self._clock.now()
        beginning = Beginning(
            epoch=epoch,
            offset=exported.tip,
            time=max(now, history.last_time),
            files=tuple(files),
        )
        origin = self._origin(source, entity, state, now=now)
        events = first_events(beginning, first_drafts(origin, state, history))
        claim = Claim(host=IMPORTER, token=self._clock.fresh_id())
        if not begin_log(self._blobs, folder, events=events, claim=claim):
            raise taken(entity.address)
        return described(entity.address, fold(events, state), events)

    def _origin(
        self, source: ExportFile, entity: _Entity, state: State, *, now: int
    ) -> EntityForked:
        created = state.created
        return EntityForked(
            key=source.digest,
            cause=Cause.IMPORT,
            source=entity.exported.address,
            offset=entity.exported.tip,
            life=created.life if created else 0,
            parent=entity.parent,
            created=created.timestamp if created else now,
            timestamp=now,
            digest=source.digest,
        )


def _below(tip: int, reader: LogReader) -> Iterator[Batch]:
    """The rows below ``tip``, in portions; a file at a time is in memory."""

    def cut() -> Iterator[Batch]:
        for batch in reader.batches():
            kept = Rows([batch]).before(tip)
            if kept is not None:
                yield kept.batch

    return in_portions(cut())


def _opened(file: IO[bytes]) -> ExportFile:
    file.flush()
    return ExportFile(cast("BinaryIO", file), name=IMPORTED)
