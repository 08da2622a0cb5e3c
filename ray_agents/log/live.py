"""The live segment: frames in, durable frames out; the blocking half of an owner.

One thread at a time calls it (:class:`ray_agents.log.owner.LogOwner` sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from ray_agents.errors import Fenced
from ray_agents.log.codec import Frame
from ray_agents.log.segment import segment_name
from ray_agents.ports import Appender, Blobs
from ray_agents.views import Durability


class LiveSegment:
    """The segment of one epoch while its owner appends to it."""

    def __init__(
        self,
        blobs: Blobs,
        folder: str,
        *,
        epoch: int,
        durability: Durability,
        named: Future[None] | None,
    ) -> None:
        self._blobs = blobs
        self._name = segment_name(folder, epoch)
        self._next = segment_name(folder, epoch + 1)
        self._sync = durability is Durability.SYNC
        self._named = named
        self._file: Appender | None = None

    def _opened(self) -> Appender:
        if self._file is None:
            self._file = self._blobs.append(self._name)
        return self._file

    def commit(self, frame: Frame) -> None:
        """Write one frame, sync as the durability asks, and check the fence.

        Raises:
            Fenced: a newer epoch exists, or our own segment was deleted.
            StoreUnavailable, StoreFull: the medium refused; nothing may be appended any more.
        """
        file = self._opened()
        file.write(frame.data)
        if self._sync:
            self.sync()
        self._check_fence()

    def sync(self) -> None:
        """Make everything written durable, and the first time the segment's name, too."""
        if self._file is not None:
            self._file.sync()
        if self._named is not None:
            self._named.result()
            self._named = None

    def _check_fence(self) -> None:
        if self._blobs.exists(self._next) or not self._blobs.exists(self._name):
            message = f"segment {self._name!r} has been taken over; look the owner up again"
            raise Fenced(message, segment=self._name)

    def finish(self, closing: Frame, *, sync: bool, dropped: Sequence[str]) -> None:
        """Delete ``dropped``, write the ``closing`` frame (not synced), and close."""
        try:
            if sync:
                self.sync()
            for name in dropped:
                self._blobs.delete(name)
            self._opened().write(closing.data)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; twice is harmless."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
