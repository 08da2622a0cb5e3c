"""The system below a store on disk, one call of which fails, or all from one on.

It stands in for the module ``os`` in :mod:`ray_agents.log.posix`. Syncs do nothing here but count
and fail: what they are good for is another test's concern.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
BROKEN = (errno.EIO,)
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (*BROKEN, errno.EMFILE),
    "create": (*BROKEN, *FULL, errno.EMFILE),
    "write": (*BROKEN, *FULL),
    "fdatasync": (*BROKEN, *FULL),
    "fsync": (*BROKEN, *FULL),
    "close": (*BROKEN, *FULL),
    "link": (*BROKEN, *FULL),
    "makedirs": (*BROKEN, *FULL),
    "unlink": BROKEN,
    "rmdir": BROKEN,
    "stat": BROKEN,
    "fstat": BROKEN,
    "listdir": BROKEN,
    "pread": BROKEN,
}
TAKES_SPACE = frozenset({"create", "write", "fdatasync", "fsync", "link", "makedirs"})
SHORT, HALF, DONE = "short", "half", "done"
WAYS: dict[str, tuple[str, ...]] = {
    "write": (SHORT, HALF, DONE),
    "pread": (SHORT,),
    **dict.fromkeys(("link", "fdatasync", "unlink"), (DONE,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What the call of that number does instead: raise, after doing it in some way or not at all.

    ``short`` does half of it and raises nothing; ``half`` does half and raises; ``done`` does it
    all and raises. ``lasting``: so do all calls from then on, or all that take space.
    """

    at: int
    error: int
    way: str | None = None
    lasting: bool = False

    def __str__(self) -> str:
        name = "" if self.way == SHORT else errno.errorcode[self.error]
        return f"{self.at}:{name}:{self.way or ''}:{'lasting' if self.lasting else ''}"


def failures_at(number: int, call: str) -> list[Failure]:
    """All that can go wrong in that call."""
    found = [Failure(at=number, error=error) for error in ERRORS[call]]
    found += [
        Failure(at=number, error=errno.ENOSPC if way == HALF else errno.EIO, way=way)
        for way in WAYS.get(call, ())
    ]
    lasting = [error for error in (*BROKEN, *FULL[:1]) if _lasts(error, call)]
    return found + [Failure(at=number, error=error, lasting=True) for error in lasting]


def _lasts(error: int, call: str) -> bool:
    """Whether this call is among those that fail while this error lasts."""
    return call in TAKES_SPACE if error in FULL else call != "close"


class FailingSystem:
    """The module ``os``; ``calls`` are the names of those made so far, ``failed`` how many did."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self.calls: list[str] = []
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._call, name, real) if name in ERRORS else real

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        kind = "create" if name == "open" and args[1] & os.O_CREAT else name
        self.calls.append(kind)
        failure = self.failure
        if name in {"fdatasync", "fsync"}:
            real = _nothing
        if failure is None or not self._is_due(failure, kind):
            return real(*args, **options)
        self.failed += 1
        if failure.way in (SHORT, HALF):
            done = real(args[0], *_half(name, *args[1:]))
            if failure.way == SHORT:
                return done
        elif failure.way == DONE or name == "close":
            real(*args, **options)
        raise OSError(failure.error, os.strerror(failure.error))

    def _is_due(self, failure: Failure, kind: str) -> bool:
        if not failure.lasting:
            return len(self.calls) == failure.at
        return len(self.calls) >= failure.at and _lasts(failure.error, kind)


def _nothing(_: int) -> None:
    return None


def _half(name: str, first: Any, *rest: Any) -> tuple[Any, ...]:
    if name == "write":
        return (bytes(first)[: max(1, len(first) // 2)],)
    return (max(1, first // 2), *rest)
