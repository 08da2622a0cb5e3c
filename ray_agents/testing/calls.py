"""What a stand-in server has seen and sent: its calls one by one, and its own totals.

The totals are what a ledger is held against. A call counts by how it ended: ``whole`` when the
server has written its last byte, ``cut`` when the stream ended before that, by script or because
the caller left. Whether a caller read what was written, no server knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ray_agents.model import Usage
from ray_agents.testing.script import CROWDED, Answer, Body, Refusal, Script, ScriptReader

CALLS_KEPT_MAX = 10_000
Ended = Literal["refused", "answering", "whole", "cut"]


@dataclass(slots=True, kw_only=True)
class Call:
    """One request that reached the server, the status it got, and how it ended.

    ``usage`` is what the server charges for it; nothing if it was refused.
    """

    body: Body
    headers: Mapping[str, str]
    status: int
    ended: Ended
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counts since the server began. ``whole`` and ``cut`` calls have tokens; refused ones none."""

    calls: int = 0
    refused: int = 0
    whole: int = 0
    cut: int = 0
    counts: int = 0  # requests to count tokens
    at_once: int = 0  # calls that are being answered now
    at_once_most: int = 0
    tokens: Usage = field(default_factory=Usage)
    tokens_cut: Usage = field(default_factory=Usage)

    def as_json(self) -> dict[str, Any]:
        """The totals as JSON."""
        return asdict(self)


class CallBook:
    """Decides what happens to each call, and keeps account of it.

    ``concurrent_max`` refuses with ``crowded`` while so many are being answered. The first
    :data:`CALLS_KEPT_MAX` calls are kept one by one.
    """

    def __init__(
        self, script: Script, *, concurrent_max: int | None = None, crowded: Refusal = CROWDED
    ) -> None:
        self._script = ScriptReader(script)
        self._concurrent_max = concurrent_max
        self._crowded = crowded
        self.calls: list[Call] = []
        self.totals = Totals()

    def decide(self, body: Body, wrong: Refusal | None) -> Answer | Refusal:
        """What to do with a call; ``wrong`` is why it is turned away at once, if it is."""
        if wrong is not None:
            return wrong
        if self._concurrent_max is not None and self.totals.at_once >= self._concurrent_max:
            return self._crowded
        return self._script.next(body)

    def refuse(self, body: Body, headers: Mapping[str, str], refusal: Refusal) -> None:
        """Enter a refused call."""
        self._enter(Call(body=body, headers=headers, status=refusal.status, ended="refused"))
        self.totals.refused += 1

    def begin(self, body: Body, headers: Mapping[str, str], usage: Usage) -> Call:
        """Enter a call that is being answered."""
        call = Call(body=body, headers=headers, status=200, ended="answering", usage=usage)
        self._enter(call)
        totals = self.totals
        totals.at_once += 1
        totals.at_once_most = max(totals.at_once_most, totals.at_once)
        return call

    def end(self, call: Call, *, whole: bool) -> None:
        """Enter how it ended."""
        totals = self.totals
        totals.at_once -= 1
        call.ended = "whole" if whole else "cut"
        if whole:
            totals.whole += 1
            totals.tokens += call.usage
        else:
            totals.cut += 1
            totals.tokens_cut += call.usage

    def _enter(self, call: Call) -> None:
        self.totals.calls += 1
        if len(self.calls) < CALLS_KEPT_MAX:
            self.calls.append(call)
