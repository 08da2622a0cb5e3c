"""What the stand-in Messages API server is told to do with one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ray_agents.model import Usage

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer: thinking first, then text, then calls ``(tool_name, args)``.

    ``word_delay`` passes between two words. ``breaks_after`` cuts the connection after that many
    stream events; ``fails_after`` sends an error event (``overloaded_error``) there instead.
    """

    text: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    thinking: str = ""
    stop_reason: str | None = None
    usage: Usage | None = None
    word_delay: timedelta | None = None
    breaks_after: int | None = None
    fails_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Refuse with an HTTP status and an error of that kind."""

    status: int = 429
    kind: str = "rate_limit_error"
    message: str = "refused by script"
    retry_after: timedelta | None = None


Step = Answer | Refusal | str
Script = Sequence[Step] | Callable[[Body], Step]

OVERLOADED = Refusal(status=529, kind="overloaded_error", message="Overloaded")
