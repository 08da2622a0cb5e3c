"""Blobs whose power fails, or whose users die: what was not synced is lost, wholly or in part.

It is the harshest file system that POSIX allows, but for corruption. After :meth:`cut_power` every
call raises; :meth:`after_power_loss` gives the tree as the next boot finds it: of each file its
synced bytes and some prefix of the rest, and each name that was created or deleted since its
folder was last synced is there or not, as chance will have it. :meth:`after_process_death` gives
it as other processes go on to see it: nothing is lost yet, but what was not synced still may be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from threading import Lock

from ray_agents.errors import StoreUnavailable


@dataclass(slots=True)
class _File:
    data: bytearray
    synced: int
    spoils: int = 0


@dataclass(slots=True)
class _Folder:
    """``durable`` is what a sync has seen; ``current`` is what a look finds."""

    current: dict[str, _File] = field(default_factory=dict[str, _File])
    durable: dict[str, _File] = field(default_factory=dict[str, _File])


class LossyBlobs:
    """Blobs in memory with power that can fail; ``calls_left`` cuts it after so many calls."""

    def __init__(self, *, calls_left: int | None = None) -> None:
        self.calls_left = calls_left
        self._folders: dict[str, _Folder] = {}
        self._lock = Lock()

    @property
    def prompt(self) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        return True

    @property
    def linger(self) -> timedelta:
        """See :class:`ray_agents.ports.Blobs`."""
        return timedelta(0)

    def copy(self) -> LossyBlobs:
        """A tree of the same content, in which nobody has anything open."""
        found, files = LossyBlobs(), dict[int, _File]()
        for path, folder in self._folders.items():
            for file in (*folder.current.values(), *folder.durable.values()):
                files[id(file)] = replace(file, data=bytearray(file.data))
            found._folders[path] = _Folder(
                current={name: files[id(file)] for name, file in folder.current.items()},
                durable={name: files[id(file)] for name, file in folder.durable.items()},
            )
        return found

    def cut_power(self) -> None:
        """From now on every call raises."""
        self.calls_left = 0

    def after_power_loss(self, chance: Random) -> LossyBlobs:
        """The tree as it is found afterwards; ``chance`` decides what unsynced things survive."""
        self.cut_power()
        found = LossyBlobs()
        for path, folder in self._folders.items():
            kept = {
                name: file
                for name, file in (folder.durable | folder.current).items()
                if folder.current.get(name) is folder.durable.get(name) or chance.random() < 0.5
            }
            files = {name: _survivor(file, chance) for name, file in kept.items()}
            found._folders[path] = _Folder(current=files, durable=dict(files))
        return found

    def after_process_death(self) -> LossyBlobs:
        """The tree as it is; everybody who had it open is dead."""
        self.cut_power()
        found = LossyBlobs()
        found._folders = self._folders
        return found

    def spoil(self, name: str) -> None:
        """A sync of that file has failed, and what it was for is lost, whatever later syncs say.

        As on Linux, whoever has it open is told at the next sync; who opens it later is not.
        """
        folder, last = self._place(name)
        if last in folder.current:
            folder.current[last].spoils += 1

    def step(self) -> None:
        """One call to the medium."""
        if self.calls_left is not None:
            if self.calls_left <= 0:
                raise StoreUnavailable("the power is off", path="everything")
            self.calls_left -= 1

    def _place(self, name: str) -> tuple[_Folder, str]:
        path, _, last = name.rpartition("/")
        return self._folders.setdefault(path, _Folder()), last

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            if last in folder.current:
                return False
            folder.current[last] = _File(data=bytearray(data), synced=len(data))
            return True

    def link(self, source: str, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`; both names are of one file, as hard links are."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            if last in folder.current:
                return False
            there, its = self._place(source)
            if its not in there.current:
                raise StoreUnavailable(f"{source!r} does not exist", path=source)
            folder.current[last] = there.current[its]
            return True

    def sync_names(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, _ = self._place(name)
            folder.durable = dict(folder.current)

    def exists(self, name: str) -> bool:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            return last in folder.current

    def read(self, name: str, start: int = 0) -> bytes | None:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            file = folder.current.get(last)
            return None if file is None else bytes(file.data[start:])

    def append(self, name: str) -> LossyAppender:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            file = folder.current.get(last)
        if file is None:
            raise StoreUnavailable(f"{name!r} does not exist", path=name)
        return LossyAppender(self, file, name=name)

    def names(self, folder: str) -> list[str]:
        """See :class:`ray_agents.ports.Blobs`."""
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            self.step()
            paths = [path for path, held in self._folders.items() if held.current]
            inner = {path[len(prefix) :] for path in paths if path.startswith(prefix)}
            names = {path.partition("/")[0] for path in inner if path}
            held = self._folders.get(folder)
            return sorted(names | set(held.current if held else ()))

    def delete(self, name: str) -> None:
        """See :class:`ray_agents.ports.Blobs`."""
        with self._lock:
            self.step()
            folder, last = self._place(name)
            folder.current.pop(last, None)


class LossyAppender:
    """One open file of :class:`LossyBlobs`."""

    def __init__(self, blobs: LossyBlobs, file: _File, *, name: str) -> None:
        self._blobs = blobs
        self._file = file
        self._name = name
        self._spoils = file.spoils
        self._open = True

    def _check(self) -> None:
        if not self._open:
            raise StoreUnavailable(f"{self._name!r} is closed", path=self._name)

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`; a power cut may come in the middle of it."""
        self._check()
        try:
            self._blobs.step()
        except StoreUnavailable:
            self._file.data += data[: len(data) // 2]
            raise
        self._file.data += data

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        self._check()
        self._blobs.step()
        if self._file.spoils != self._spoils:
            self._spoils = self._file.spoils
            raise StoreUnavailable(f"a sync of {self._name!r} has failed", path=self._name)
        if not self._spoils:
            self._file.synced = len(self._file.data)

    def close(self) -> None:
        """See :class:`ray_agents.ports.Appender`; it needs no power."""
        self._open = False


def _survivor(file: _File, chance: Random) -> _File:
    kept = chance.randint(file.synced, len(file.data))
    return _File(data=bytearray(file.data[:kept]), synced=kept)
