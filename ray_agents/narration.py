"""Tells the log what a model says while it says it, grouped so that a log is not one row a token.

The first piece is posted at once; what follows within :data:`WINDOW` is posted together when the
window ends, or when it reaches :data:`WINDOW_CHARS_MAX`. So an observer is never further behind
than one window, and there are at most 25 posts a second of ordinary speech.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from ray_agents.events import Draft
from ray_agents.model import AnswerBroken, Answered, Block, ReasoningDelta, TextDelta, ToolCallBegun
from ray_agents.ports import Journal
from ray_agents.runs import INTERRUPTED, RunRecord

WINDOW = timedelta(milliseconds=40)
WINDOW_CHARS_MAX = 1024


@dataclass(slots=True, kw_only=True)
class _Piece:
    kind: str  # text or reasoning
    key: str
    words: list[str]


class Narration:
    """The answer of one step on its way into the log."""

    def __init__(
        self, journal: Journal, record: RunRecord, *, step: int, window: timedelta = WINDOW
    ) -> None:
        self._journal = journal
        self._record = record
        self._step = step
        self._window = window.total_seconds()
        self._pieces: list[_Piece] = []
        self._chars = 0
        self._said: dict[int, list[str]] = {}  # the text so far, by content block
        self._kinds: dict[str, str] = {}  # by key of a text or reasoning row
        self._deltas: dict[str, int] = {}  # how many it has so far
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None

    def see(self, event: TextDelta | ReasoningDelta | ToolCallBegun | AnswerBroken) -> None:
        """Take in one event of the stream."""
        self._raise_failure()
        match event:
            case TextDelta():
                self._speak("text", event.block, event.text)
            case ReasoningDelta():
                self._speak("reasoning", event.block, event.text)
            case ToolCallBegun():
                self._begin_call(event)
            case AnswerBroken():
                self._void()

    def finish(self, answer: Answered) -> list[Draft]:
        """The rows that are left once the answer is complete; nothing is posted any more."""
        self.close()
        self._raise_failure()
        for index, block in enumerate(answer.content):
            kind = {"text": "text", "thinking": "reasoning"}.get(block["type"])
            if kind and block[block["type"]] and self._key(kind, index) not in self._deltas:
                self._add(kind, index, block[block["type"]])
        return self._ended("completed")

    def cut(self) -> tuple[list[Block], list[Draft]]:
        """The text so far, as content blocks, and the rows that say that no more of it comes."""
        self.close()
        self._raise_failure()
        said = ["".join(words) for _, words in sorted(self._said.items())]
        return [{"type": "text", "text": text} for text in said], self._ended(INTERRUPTED)

    def _ended(self, status: str) -> list[Draft]:
        left = self._drain()
        run_id = self._record.key
        ended = [
            self._record.put(kind, key, {"run_id": run_id, "status": status})
            for key, kind in self._kinds.items()
        ]
        return [*left, *ended]

    def close(self) -> None:
        """Stop the timer; twice is harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _key(self, kind: str, block: int) -> str:
        return f"{self._record.step_key(self._step)}:{kind}:{block}"

    def _speak(self, kind: str, block: int, text: str) -> None:
        if text:
            self._add(kind, block, text)
            if self._timer is None or self._chars >= WINDOW_CHARS_MAX:
                self._post()

    def _add(self, kind: str, block: int, text: str) -> None:
        key = self._key(kind, block)
        if not self._pieces or self._pieces[-1].key != key:
            self._pieces.append(_Piece(kind=kind, key=key, words=[]))
        self._pieces[-1].words.append(text)
        if kind == "text":
            self._said.setdefault(block, []).append(text)
        self._chars += len(text)

    def _begin_call(self, event: ToolCallBegun) -> None:
        key = self._record.call_key(self._step, self._calls)
        self._calls += 1
        call = {"id": event.id, "name": event.name}
        left = self._drain()
        self._journal.post([*left, self._record.tool_call(key, call, "started")])

    def _void(self) -> None:
        self.close()
        self._pieces, self._chars, self._calls = [], 0, 0
        self._said, self._kinds, self._deltas = {}, {}, {}
        void = self._record.answer_voided(self._step)
        if void:
            self._journal.post(void)

    def _drain(self) -> list[Draft]:
        pieces, self._pieces, self._chars = self._pieces, [], 0
        return [draft for piece in pieces for draft in self._rows_of(piece)]

    def _rows_of(self, piece: _Piece) -> list[Draft]:
        run_id, number = self._record.key, self._deltas.get(piece.key, 0)
        self._deltas[piece.key] = number + 1
        delta = {f"{piece.kind}_id": piece.key, "run_id": run_id, "delta": "".join(piece.words)}
        rows = [self._record.put(f"{piece.kind}_delta", f"{piece.key}:{number}", delta)]
        if number == 0:
            self._kinds[piece.key] = piece.kind
            begun = {"run_id": run_id, "status": "streaming"}
            rows.insert(0, self._record.put(piece.kind, piece.key, begun))
        return rows

    def _post(self) -> None:
        self._journal.post(self._drain())
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._window, self._window_ended)

    def _window_ended(self) -> None:
        self._timer = None
        if not self._pieces:
            return
        try:
            self._post()
        except Exception as error:  # noqa: BLE001 -- raised where the run can see it
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
