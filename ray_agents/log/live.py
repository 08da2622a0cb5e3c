"""The live segment: frames in, durable frames out; the half of an owner that touches the medium.

What waits for the medium happens in a thread. On a local disk that is only the sync: to append to
a file and to look for a name take a few microseconds there, and the way to a thread and back fifty.
One call at a time is under way (:class:`ray_agents.log.owner.LogOwner` sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from ray_agents.errors import Fenced, StoreUnavailable
from ray_agents.log.codec import Frame
from ray_agents.log.files import LogFiles
from ray_agents.log.segment import Ending, Preamble, Segment, segment_name
from ray_agents.log.threads import LogIO
from ray_agents.ports import Appender
from ray_agents.views import Durability

KEPT_SEGMENT_BYTES_MAX = 65_536
PROMPT_BYTES_MAX = 64 * 1024  # more would hold up the event loop


class LiveSegment:
    """The segment of one epoch while its owner appends to it."""

    def __init__(
        self,
        files: LogFiles,
        preamble: Preamble,
        *,
        durability: Durability,
        named: Future[None] | None,
        io: LogIO,
    ) -> None:
        self.linger = files.blobs.linger
        self._io = io
        self._files = files
        self._blobs = files.blobs
        self._preamble = preamble
        self._name = segment_name(files.folder, preamble.epoch)
        self._next = segment_name(files.folder, preamble.epoch + 1)
        self._sync = durability is Durability.SYNC
        self._named = named
        self._file: Appender | None = None
        self._frames: list[Frame] = []
        self._size = len(preamble.data)

    @property
    def size(self) -> int:
        """Its bytes so far."""
        return self._size

    def _opened(self) -> Appender:
        if self._file is None:
            try:
                self._file = self._blobs.append(self._name)
            except StoreUnavailable:
                self._check_fence()  # who came after us may have deleted it by now
                raise
        return self._file

    def _write(self, frame: Frame) -> None:
        self._opened().write(frame.data)
        self._size += len(frame.data)
        if self._size <= KEPT_SEGMENT_BYTES_MAX:
            self._frames.append(frame)
        else:
            self._frames.clear()

    async def commit(self, frame: Frame) -> None:
        """Write one frame, sync as the durability asks, and check the fence.

        Raises:
            Fenced: a newer epoch exists, or our own segment was deleted.
            StoreUnavailable, StoreFull: the medium refused; nothing may be appended any more.
        """
        if not self._blobs.prompt or len(frame.data) > PROMPT_BYTES_MAX:
            await self._io.run(self._commit, frame)
            return
        self._write(frame)
        if self._sync:
            await self._io.run(self.sync)
        self._check_fence()

    def _commit(self, frame: Frame) -> None:
        self._write(frame)
        if self._sync:
            self.sync()
        self._check_fence()

    def sync(self) -> None:
        """Make everything written durable, and the first time the segment's name, too."""
        if self._file is not None:
            self._file.sync()
        self._wait_for_name()

    def _wait_for_name(self) -> None:
        if self._named is not None:
            self._named.result()
            self._named = None

    def _check_fence(self) -> None:
        if self._blobs.exists(self._next) or not self._blobs.exists(self._name):
            message = f"segment {self._name!r} has been taken over; look the owner up again"
            raise Fenced(message, segment=self._name)

    async def finish(
        self,
        closing: Frame,
        *,
        sync: bool,
        dropped: Sequence[str],
        replaced: Sequence[str] | None = None,
    ) -> None:
        """Delete ``dropped``, write the ``closing`` frame, and close.

        The frame is synced only if it says what is listed instead of the files ``replaced``; then
        those are deleted, too; or if it is the first one, whose manifest readers would believe. In
        any case the segment's name is durable before: of it and the next owner's, a power failure
        might keep the later. A small segment is kept in memory, for the next wake in this process.

        Raises:
            Fenced: somebody else has the log by now; what was replaced still stands.
            StoreUnavailable, StoreFull: the medium refused.
        """
        visit = sync or dropped or replaced is not None or self._named is not None
        if self._blobs.prompt and not visit:
            self._finish(closing, sync=sync, dropped=dropped, replaced=replaced)
        else:
            await self._io.run(self._finish, closing, sync=sync, dropped=dropped, replaced=replaced)

    def _finish(
        self, closing: Frame, *, sync: bool, dropped: Sequence[str], replaced: Sequence[str] | None
    ) -> None:
        first = self._named is not None and not sync
        try:
            self._wait_for_name()
            if sync:
                self.sync()
            for name in dropped:
                self._blobs.delete(name)
            self._write(closing)
            if first or replaced is not None:
                self.sync()
            if replaced is not None:
                self._check_fence()
                for name in replaced:
                    self._blobs.delete(name)
        finally:
            self.close()
        if self._frames:
            self._files.keep(self._written())

    def _written(self) -> Segment:
        """What a reader of the closed file would find."""
        return Segment(
            name=self._name,
            preamble=self._preamble,
            digests=tuple(frame.digest for frame in self._frames),
            batches=tuple(frame.batch for frame in self._frames),
            position=self._size,
            ending=Ending.CLEAN,
        )

    def close(self) -> None:
        """Close the file; twice is harmless."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
