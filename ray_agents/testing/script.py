"""What a stand-in for a provider's server is told to do with one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ray_agents.model import Block, Usage

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer: thinking first, then text, then calls ``(tool_name, args)``.

    ``content`` gives whole content blocks instead, of any type. ``usage`` replaces the server's
    own count. ``word_delay`` passes between two words. After so many stream events,
    ``breaks_after`` cuts the connection, ``stalls_after`` says no more until the caller has left,
    and ``fails_after`` sends an error event of ``error_kind``.
    """

    text: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    thinking: str = ""
    content: Sequence[Block] | None = None
    stop_reason: str | None = None
    usage: Usage | None = None
    word_delay: timedelta | None = None
    breaks_after: int | None = None
    stalls_after: int | None = None
    fails_after: int | None = None
    error_kind: str = "overloaded_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Refuse with an HTTP status and an error of that kind."""

    status: int = 429
    kind: str = "rate_limit_error"
    message: str = "refused by script"
    retry_after: timedelta | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the refusal says of when to ask again."""
        if self.retry_after is None:
            return {}
        seconds = self.retry_after.total_seconds()
        return {"retry-after": f"{seconds:g}", "retry-after-ms": f"{seconds * 1000:g}"}


Step = Answer | Refusal | str
Script = Sequence[Step] | Callable[[Body], Step]

OVERLOADED = Refusal(status=529, kind="overloaded_error", message="Overloaded")
CROWDED = Refusal(message="too many calls at once")
AT_ITS_END = Refusal(status=400, kind="invalid_request_error", message="the script is at its end")


class ScriptReader:
    """Goes through a script, one step per call that was not turned away before."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._at = 0

    def next(self, body: Body) -> Answer | Refusal:
        """What to do with the call of that body."""
        if callable(self._script):
            step = self._script(body)
        else:
            step = self._script[self._at] if self._at < len(self._script) else AT_ITS_END
            self._at += 1
        return Answer(text=step) if isinstance(step, str) else step
