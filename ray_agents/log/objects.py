"""Blobs in a bucket: nothing is ever overwritten, so a segment that grows is a series of objects.

Layout. A name is one object, its *base*: what it was created with. Each append to it is one more
object, a *part*, ``<name>.parts/<number in 20 digits>``, numbered from 0 without a gap. The
content of the name is the base and then its parts, up to the first number that is missing.

Why that is a log. Every object is written by a conditional put whose outcome is known
(:mod:`ray_agents.log.bucket`), and a part only after the one before it is certainly there. So an
append is durable, whole and readable by everybody when ``write`` returns, and there is nothing to
sync; all durabilities cost and promise the same. If a part cannot be written, or somebody else's
stands at its number, the appender refuses everything from then on: it never goes on behind a gap,
and the owner's ownership ends (DESIGN invariant 1).

It rests on what S3 (since 2020) and Google promise: whoever gets, looks for or lists objects after
a put or a deletion was answered finds them so.

Deletion takes the base first. From then on the name does not exist: the fence check of an owner
fails at once, and no reader takes a segment that lost its last parts for a shorter one, as each
makes sure of the base after it has listed the parts. If whoever deletes dies in between, parts
without a base are left. They belong to no name, cost storage and nothing else, and never come
back: only creating the same name again could make them count, segments are named by their epoch,
and an epoch is taken once. (The one exception lasts for an instant: a claim on an outdated head
creates an old epoch's name again, sees that it is past, and deletes it, parts included. It is
the lowest epoch there then, which no manifest lists and nobody reads.)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Lock

from ray_agents.errors import CorruptLog, StoreUnavailable
from ray_agents.log.bucket import Bucket
from ray_agents.log.threads import Kept

PARTS = ".parts"
# How names end that are never appended to: nobody looks for their parts.
WHOLE = (".arrow", ".keys", ".json", "FORMAT", "IDENTITY")
FETCHES_MAX = 16
LINGER = timedelta(milliseconds=250)  # a put costs money, and a reader one more request
FRESH_NAMES_MAX = 10_000
KNOWN_BYTES_MAX = 8 * 1024 * 1024
KNOWN_BYTES = 256  # what is known of a name without parts takes, about


class ObjectBlobs:
    """Blobs in a bucket; safe for many threads and processes."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._fresh: set[str] = set()
        self._lock = Lock()
        self._known = Kept(bytes_max=KNOWN_BYTES_MAX)

    def __repr__(self) -> str:
        return f"ObjectBlobs({self._bucket!r})"

    @property
    def prompt(self) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return False

    @property
    def linger(self) -> timedelta:
        """See :class:`ray_agents.ports.Blobs`."""
        return LINGER

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`ray_agents.ports.Blobs`; the name is durable, too."""
        created = self._bucket.put_new(name, data)
        if created and not name.endswith(WHOLE):
            with self._lock:
                if len(self._fresh) >= FRESH_NAMES_MAX:
                    self._fresh.clear()
                self._fresh.add(name)
        return created

    def link(self, source: str, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`: a copy, for a bucket has no second names.

        It goes by way of this machine, as any other new object does: a copy made by the server
        would need a condition of its own.
        """
        data = self.read(source)
        if data is None:
            message = f"{self._bucket.named(source)!r} does not exist"
            raise StoreUnavailable(message, path=self._bucket.named(source))
        return self.create(name, data)

    def sync_names(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`; an object's key is as durable as the object."""

    def exists(self, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return self._bucket.size(name) is not None

    def in_use(self, name: str) -> bool:  # noqa: ARG002 - the same for every name
        """Whether what stands at the end of ``name`` may be a write under way: never, here.

        A part is there whole or not at all. Who has the name open cannot be told.
        """
        return False

    def read(self, name: str, start: int = 0) -> bytes | None:
        """See :class:`ray_agents.ports.Blobs`.

        Raises:
            CorruptLog: a part is missing and later ones are there.
        """
        if name.endswith(WHOLE):
            return self._read_base(name, start)
        hole: _Hole | None = None
        for known in (self._known.get(name) or (), ()):
            try:
                return self._read(name, start, known)
            except _Hole as found:
                hole = found
            self._forget(name)
            if not self.exists(name):
                return None
        message = f"part {hole} of {name!r} is gone; restore it from a backup"
        raise CorruptLog(message, segment=name, after_offset=None)

    def _read_base(self, name: str, start: int) -> bytes | None:
        if start == 0:
            return self._bucket.get(name)
        size = self._bucket.size(name)
        if size is None:
            return None
        return self._bucket.get(name, start) if start < size else b""

    def _read(self, name: str, start: int, known: tuple[int, ...]) -> bytes | None:
        """What is there now. The parts are listed before the base is looked for, see the module."""
        sizes = self._sizes(name, known)
        wanted: list[tuple[str, int]] = []
        position = 0
        if start > 0:
            base = self._bucket.size(name)
            if base is None:
                return None
            position = base
        if start == 0 or start < position:
            wanted.append((name, start))
        for number, size in enumerate(sizes):
            if position + size > start:
                wanted.append((part_name(name, number), max(0, start - position)))
            position += size
        pieces = self._fetched(wanted)
        if wanted and wanted[0][0] == name and pieces[0] is None:
            return None
        missing = [wanted[index][0] for index, piece in enumerate(pieces) if piece is None]
        if missing:
            raise _Hole(missing[0])
        self._known.put(name, sizes, size=KNOWN_BYTES + 8 * len(sizes))
        return b"".join(piece for piece in pieces if piece is not None)

    def _sizes(self, name: str, known: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of all parts, of which the first ones are ``known``.

        Raises:
            _Hole: a number is missing.
        """
        after = part_name(name, len(known) - 1) if known else None
        more: list[int] = []
        for number, part in enumerate(
            self._bucket.listed(f"{name}{PARTS}", after=after), start=len(known)
        ):
            if part.key != part_name(name, number):
                raise _Hole(part_name(name, number))
            more.append(part.size)
        return (*known, *more)

    def _fetched(self, wanted: Sequence[tuple[str, int]]) -> list[bytes | None]:
        if len(wanted) < 2:
            return [self._bucket.get(key, start) for key, start in wanted]
        threads = min(FETCHES_MAX, len(wanted))
        with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
            return list(pool.map(self._bucket.get, *zip(*wanted, strict=True)))

    def append(self, name: str) -> ObjectAppender:
        """See :class:`ray_agents.ports.Blobs`. Opening and syncing write nothing."""
        with self._lock:
            fresh = name in self._fresh
            self._fresh.discard(name)
        if not fresh and not self.exists(name):
            path = self._bucket.named(name)
            message = f"{path!r} cannot be appended to: it does not exist"
            raise StoreUnavailable(message, path=path)
        return ObjectAppender(self, name, number=0 if fresh else None)

    def append_part(self, name: str, number: int | None, data: bytes) -> int:
        """Write the part of that number, of the next one if it is None; the number after it.

        Raises:
            StoreUnavailable, StoreFull: it was refused, its outcome cannot be found out, or
                somebody else has written it.
        """
        if number is None:
            try:
                number = len(self._sizes(name, ()))
            except _Hole as hole:
                message = f"part {hole} of {name!r} is gone; nothing can be appended behind it"
                raise StoreUnavailable(message, path=name) from None
        key = part_name(name, number)
        if not self._bucket.put_new(key, data):
            path = self._bucket.named(key)
            message = f"{path!r} was written by somebody else; look the owner up again"
            raise StoreUnavailable(message, path=path)
        return number + 1

    def names(self, folder: str) -> list[str]:
        """See :class:`ray_agents.ports.Blobs`."""
        return sorted(name for name in self._bucket.names(folder) if not name.endswith(PARTS))

    def delete(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`; the base first, see the module."""
        with self._lock:
            self._fresh.discard(name)
        self._forget(name)
        self._bucket.delete(name)
        if not name.endswith(WHOLE):
            self._bucket.delete(*(part.key for part in self._bucket.listed(f"{name}{PARTS}")))

    def _forget(self, name: str) -> None:
        self._known.put(name, (), size=KNOWN_BYTES)


class ObjectAppender:
    """One name open for appending: each write is a part of its own, durable when it returns."""

    def __init__(self, blobs: ObjectBlobs, name: str, *, number: int | None) -> None:
        self._blobs = blobs
        self._name = name
        self._number = number
        self._ended: str | None = None

    def _check(self) -> None:
        if self._ended is not None:
            message = f"{self._name!r} {self._ended}"
            raise StoreUnavailable(message, path=self._name)

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._check()
        self._ended = "takes nothing more: a write to it failed, and may still appear"
        self._number = self._blobs.append_part(self._name, self._number, data)
        self._ended = None

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`; there is nothing left to do."""
        self._check()

    def close(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._ended = self._ended or "is closed"


class _Hole(Exception):
    """A part is missing, for now or for good; its argument is the key."""


def part_name(name: str, number: int) -> str:
    """The key of a part."""
    return f"{name}{PARTS}/{number:020d}"
