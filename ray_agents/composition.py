"""Composes a prompt: what changes least first, then the conversation, then what the run says.

Theory of operation. The system prompt is followed by the texts of ``pinned``, ``stable`` and
``slow-changing`` sources and by the context entries. Messages follow: those of the same tiers, then
the volatile ones in the order of their times, then volatile texts, and last the run's own part,
which is always there and always whole: what it was told, its steps and their results. So within a
run a prompt only grows at its end, and between runs it stays the same up to the volatile part. What
a source tells of the run itself is left out, as the run says it.

Whatever the sources hold, the messages obey the Messages API: they begin with the user, alternate,
no call is parted from its result, and no two have one id. Where a bound has left messages out, the
prompt says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ray_agents.caching import CachePoints, Place, chosen
from ray_agents.callids import CallIds
from ray_agents.contextplan import TIERS, VOLATILE
from ray_agents.contextreport import ContextReport
from ray_agents.contextsource import Filled, Unit
from ray_agents.estimates import BLOCK_TOKENS, tokens_in_blocks, tokens_in_text
from ray_agents.model import Block, Message
from ray_agents.transcript import Turn, say

LEFT_OUT = "[Earlier messages are left out here.]"
GO_ON = "Continue."
PARTED = "\n\n"  # stands between parts of the system prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A composed prompt, where a cache may keep it, and its figures."""

    system: str
    messages: Sequence[Message]
    points: CachePoints
    report: ContextReport
    message_tokens: int  # an estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a prompt is made of.

    ``own`` are the run's turns, or the whole transcript's if there are no ``sources``, which is
    the case if they are None. ``entries`` is the text of the context entries, ``tools_tokens`` what
    the tools take. Shorter prompts than ``cacheable_min`` tokens are not cached.
    """

    system_prompt: str
    own: Sequence[Turn]
    sources: Sequence[Filled] | None = None
    entries: str = ""
    tools_tokens: int = 0
    cacheable_min: int = 0


def composed(parts: Parts) -> Prompt:
    """The prompt that parts make."""
    return _Composing(parts).prompt()


@dataclass(slots=True)
class _Composing:
    parts: Parts
    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])
    tokens: int = 0
    places: list[Place] = field(default_factory=list[Place])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    own_keys: set[str] = field(default_factory=set[str])
    ids: CallIds = field(default_factory=CallIds)

    def prompt(self) -> Prompt:
        parts, sources = self.parts, self.parts.sources or ()
        self.own_keys = {each.key for each in parts.own if each.key}
        if parts.tools_tokens:
            self._count("tools", parts.tools_tokens)
        self._add_text("system_prompt", parts.system_prompt, None)
        for tier in TIERS[:-1]:
            for each in sources:
                if each.tier == tier and each.text:
                    self._add_text(each.name, each.text, each.tokens)
            if tier == TIERS[-2]:
                self._add_text("context_entries", parts.entries, None)
            if self.tokens:
                self.places.append(Place(system=len(self.system), tokens=self.tokens))
        system_tokens = self.tokens
        for tier in TIERS[:-1]:
            for each in sources:
                if each.tier == tier and _has_messages(each):
                    self._add_source(each, each.units)
                    self._mark()
        self._add_volatile(sources)
        self._add_own()
        self._mark_steps()
        self.places.sort(key=lambda place: place.tokens)
        readable = [place.tokens for place in self.places[:-1]]
        cacheable = max(readable, default=0)
        left_out = {each.name: each.left_out for each in sources if each.left_out}
        report = ContextReport(
            sources=self.counts,
            left_out=left_out,
            cacheable=cacheable if cacheable >= parts.cacheable_min else 0,
            estimate=self.tokens,
        )
        return Prompt(
            system=self.system,
            messages=self.messages,
            points=chosen(self.places),
            report=report,
            message_tokens=self.tokens - system_tokens,
        )

    def _count(self, name: str, tokens: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + tokens
        self.tokens += tokens

    def _add_text(self, name: str, text: str, tokens: int | None) -> None:
        """Add to the system prompt; ``tokens`` if they are known."""
        if text.strip():
            self.system = f"{self.system}{PARTED}{text}" if self.system else text
            self._count(name, BLOCK_TOKENS + tokens_in_text(text) if tokens is None else tokens)

    # -- messages ----------------------------------------------------------------------------

    def _say(self, role: str, content: Sequence[Block]) -> None:
        """Say more; a place that would stand in the middle of a message is none."""
        if not self.messages and role == "assistant":
            self._say_text(LEFT_OUT)
        if self.messages and self.messages[-1]["role"] == role:
            self.places = [p for p in self.places if p.messages != len(self.messages)]
        say(self.messages, role, self.ids.apart(content))

    def _say_text(self, text: str) -> None:
        self._say("user", [{"type": "text", "text": text}])

    def _mark(self, *, needed: bool = False, after: int | None = None, less: int = 0) -> None:
        count = len(self.messages) if after is None else after
        if count:
            place = Place(messages=count, tokens=self.tokens - less, needed=needed)
            self.places = [p for p in self.places if p.messages != count]
            self.places.append(place)

    def _add_units(self, units: Iterable[Unit]) -> None:
        for unit in units:
            for each in unit.turns:
                self._say(each.role, each.content)

    def _add_source(self, source: Filled, units: Sequence[Unit]) -> None:
        if source.left_out:
            self._say_text(LEFT_OUT)
        self._add_units(units)
        told = sum(each.tokens for each in source.units) or 1
        self._count(source.name, source.tokens * sum(each.tokens for each in units) // told)

    def _add_volatile(self, sources: Sequence[Filled]) -> None:
        volatile = [each for each in sources if each.tier == VOLATILE]
        timed: list[Unit] = []
        for each in volatile:
            shown = [unit for unit in each.units if not self._is_own(unit)]
            told = sum(unit.tokens for unit in each.units) or 1
            tokens = each.tokens * sum(unit.tokens for unit in shown) // told
            if each.units:
                self._count(each.name, tokens)
            if each.left_out and _has_messages(each):
                self._say_text(LEFT_OUT)
            self._add_units(unit for unit in shown if unit.at is None)
            timed += [unit for unit in shown if unit.at is not None]
        self._add_units(sorted(timed, key=lambda unit: unit.at or 0))
        self._mark()
        for each in volatile:
            if each.text:
                self._say_text(each.text)
                self._count(each.name, each.tokens)

    def _is_own(self, unit: Unit) -> bool:
        """Whether the run's own part says it."""
        own = self.parts.own
        if unit.at is None or not own:
            return False
        if unit.key in self.own_keys:
            return True
        first = own[0]
        return first.kind == "summary" and (first.at is None or unit.at < first.at)

    def _add_own(self) -> None:
        own = self.parts.own
        for each in own:
            self._say(each.role, each.content)
        name = "timeline" if self.parts.sources is None else "run"
        self._count(name, sum(each.tokens for each in own))
        paused = bool(own) and own[-1].role == "assistant"
        if not paused and (not self.messages or self.messages[-1]["role"] == "assistant"):
            self._say_text(GO_ON)

    def _mark_steps(self) -> None:
        """Mark the end of the prompt, and of what was the prompt of the step before."""
        asked = [at for at, each in enumerate(self.messages) if each["role"] == "user"]
        if len(asked) > 1:
            since = asked[-2] + 1
            less = sum(tokens_in_blocks(each["content"]) for each in self.messages[since:])
            self._mark(needed=True, after=since, less=less)
        self._mark(needed=True)


def _has_messages(source: Filled) -> bool:
    """Whether it tells messages, be it that all of them are left out."""
    return bool(source.units) or (not source.text and source.left_out > 0)
