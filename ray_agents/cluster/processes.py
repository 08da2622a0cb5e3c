"""The processes of one runtime: found by its directory, ended by pid *and* start time.

A pid alone may have been given to somebody else since; with the start time it cannot be
mistaken. Nothing is ever ended by name.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

_SAME_START = 0.05  # seconds by which two readings of one start time may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """One process, for ever: its pid and when it started (seconds since the epoch)."""

    pid: int
    started: float
    name: str

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessMark:
        """Mark a running process.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        return cls(pid=process.pid, started=process.create_time(), name=process.name())

    def find(self) -> psutil.Process | None:
        """The process, if it is still the one that was marked and not a zombie."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def marks_in(directory: Path) -> list[ProcessMark]:
    """The processes that name ``directory`` or a file in it in their command line.

    Ray gives its session directory to each of its daemons so; a directory that is ours alone
    thereby tells our daemons from those of every other cluster on the machine.
    """
    found: list[ProcessMark] = []
    for process in psutil.process_iter():
        try:
            if any(_names(word, str(directory)) for word in process.cmdline()):
                found.append(ProcessMark.of(process))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile, or another user's, so not ours
    return found


def _names(word: str, directory: str) -> bool:
    path = word.partition("=")[2] if word.startswith("--") else word
    return path == directory or path.startswith(directory + "/")


def trees_of(marks: Iterable[ProcessMark]) -> list[psutil.Process]:
    """The marked processes that live, and all their descendants, parents first."""
    found: dict[int, psutil.Process] = {}
    for mark in marks:
        if (root := mark.find()) is not None:
            found[root.pid] = root
            found |= {child.pid: child for child in _descendants(root)}
    return list(found.values())


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def terminate(
    processes: Sequence[psutil.Process], *, within: timedelta, by: int = signal.SIGTERM
) -> list[psutil.Process]:
    """Signal each process, wait until all have ended or ``within`` is over; those that live on."""
    for process in processes:
        try:
            process.send_signal(by)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(list(processes), timeout=within.total_seconds())
    return alive
