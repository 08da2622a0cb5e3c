"""Spans of time as people read and write them: ``3m ago``, ``0.12 s``, ``90s``."""

from __future__ import annotations

import re
from datetime import timedelta

MICROSECONDS = 1_000_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")


def ago(then: int, *, now: int) -> str:
    """How long ago ``then`` was; both in microseconds since the epoch, 0 meaning never."""
    if then == 0:
        return "never"
    seconds = (now - then) // MICROSECONDS
    if seconds < 1:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def until(instant: int, *, now: int) -> str:
    """How long it is until ``instant``: ``in 3d``, ``in 5 min``; ``now`` if that has passed."""
    seconds = round((instant - now) / MICROSECONDS)
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * size:
            return f"in {round(seconds / size)}{unit}"
    return f"in {lasting(seconds * 1000)}"


def lasting(milliseconds: float) -> str:
    """A duration with as many digits as matter: ``4 ms``, ``0.12 s``, ``3.4 s``, ``2 min 5 s``."""
    if milliseconds < 100:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def duration(text: str) -> timedelta:
    """Read ``90``, ``90s``, ``1.5m``, ``500ms``, ``2h`` or ``1d``; a bare number is seconds.

    Raises:
        ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 500ms, 2m, 1h or 3d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])
