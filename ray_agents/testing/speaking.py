"""A stream of a stand-in server, at the speed and with the accident that its script asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ray_agents.testing.script import Answer

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tongue:
    """How a provider's server writes: one event as bytes, which are words, and its error event."""

    encoded: Callable[[Frame], bytes]
    is_word: Callable[[Frame], bool]
    error_of: Callable[[str, str], Frame]


class Spoken:
    """One answer on its way; ``whole`` once its last byte is written."""

    def __init__(self, answer: Answer, frames: Iterable[Frame], tongue: Tongue) -> None:
        self._answer = answer
        self._frames = frames
        self._tongue = tongue
        self.whole = False

    async def chunks(
        self, delay: timedelta, *, written: Callable[[Frame], None] | None = None
    ) -> AsyncIterator[bytes]:
        """The events as bytes, ``delay`` between two words unless the answer has its own."""
        answer, tongue, loop = self._answer, self._tongue, asyncio.get_running_loop()
        pause = (delay if answer.word_delay is None else answer.word_delay).total_seconds()
        due = loop.time()
        for sent, frame in enumerate(self._frames):
            if sent == answer.fails_after:
                yield tongue.encoded(tongue.error_of(answer.error_kind, "by script"))
                return
            if sent == answer.breaks_after:
                raise ConnectionResetError("broken off by script")
            if sent == answer.stalls_after:
                await asyncio.Event().wait()
            if pause and tongue.is_word(frame):
                due += pause
                await asyncio.sleep(max(0.0, due - loop.time()))
            if written is not None:
                written(frame)
            yield tongue.encoded(frame)
        self.whole = True
