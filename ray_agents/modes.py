"""When a message is taken in: by the next wake, by the loop that runs, or in place of what runs.

The words are upstream's (``mode`` of ``sendEntityMessage``, electric-sql/electric,
``website/docs/agents/reference/built-in-collections.md``), which says little of what they do and
has ``immediate`` as the default; its meaning here:

``queued``
    The next wake takes it, with all else that waits. The default.
``steer``
    A running agent loop takes it in before its next model call, as words of the user; also when
    the loop would otherwise have ended. It belongs to the wake of that loop then and causes none
    of its own. If no loop takes it in before the wake ends, it is as if it were queued.
``immediate``
    What runs is interrupted, as by ``interrupt``, and the next wake takes the message, with all
    else that waits. A wake that only waits, for its next attempt or until people have decided on
    its tool calls, is not what runs: it has its end first, and the message then is as if queued.
"""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How a message meets a wake that runs; see the module."""

    QUEUED = "queued"
    STEER = "steer"
    IMMEDIATE = "immediate"


MODE_HEADER = "mode"  # of an inbox row, unless it is queued
