"""What ``ctx.use_context`` declares: named sources of a prompt, their bounds and cache tiers.

Upstream's reference names the parts (``website/docs/agents/usage/context-composition.md`` in
electric-sql/electric): a budget over all sources, sources with content, maximum and tier. The
tiers say how often a source changes, and so where it stands: what changes least comes first, for a
provider caches a prompt only up to the first difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from ray_agents.errors import InvalidDefinition
from ray_agents.model import Block, Message

Tier = Literal["pinned", "stable", "slow-changing", "volatile"]
TIERS: tuple[Tier, ...] = get_args(Tier)
VOLATILE: Tier = "volatile"
SOURCE_TOKENS_MIN = 32  # less could not even say what was cut
RESERVED = frozenset({"tools", "system_prompt", "context_entries", "timeline", "run"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedMessage:
    """A message with its place in time; messages of several volatile sources are told in order.

    ``at`` is an offset of the entity's log. ``key`` is that of the message or run it tells of.
    """

    at: int
    role: str
    content: str | Sequence[Block]
    key: str = ""


Content = str | Sequence[Message | TimedMessage]
Told = Content | Callable[[], Content | Awaitable[Content]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of a prompt.

    Attributes:
        content: a text; messages ``{"role": …, "content": text or blocks}``; messages with a time,
            as ``ctx.timeline_messages()`` gives them; or a function of nothing, async or not, that
            returns one of these and is called once for each agent run.
        max: tokens it may take; of a longer text the end is left out, of messages the oldest. Only
            a volatile source needs none: it may take what the others leave of the budget.
        cache: how often it changes, one of :data:`TIERS`.
    """

    content: Told
    max: int | None = None
    cache: Tier = VOLATILE


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlan:
    """The sources of a prompt, by name; ``source_budget`` in tokens.

    Sources that are not volatile have their whole maximum set aside. The volatile ones share what
    is left, those declared first before the others.

    Raises:
        InvalidDefinition: it cannot hold; the message has the numbers.
    """

    source_budget: int
    sources: Mapping[str, Source]

    def __post_init__(self) -> None:
        if self.source_budget < SOURCE_TOKENS_MIN:
            message = f"source_budget={self.source_budget!r}: at least {SOURCE_TOKENS_MIN} tokens"
            raise InvalidDefinition(message, field="source_budget")
        if not self.sources:
            raise InvalidDefinition("use_context: give at least one source", field="sources")
        for name, source in self.sources.items():
            self._check(name, source)
        if self.volatile_budget < 0:
            parts = [
                f"{name!r} ({source.cache}) {source.max}"
                for name, source in self.sources.items()
                if source.cache != VOLATILE
            ]
            total = self.source_budget - self.volatile_budget
            raise _wrong(
                f"{' + '.join(parts)} = {total} tokens, {-self.volatile_budget} more than "
                f"source_budget={self.source_budget}; lower a max or raise the budget"
            )
        for name, source in self.sources.items():
            self._check_volatile(name, source)

    @property
    def volatile_budget(self) -> int:
        """Tokens that are left for the volatile sources together."""
        aside = [each.max or 0 for each in self.sources.values() if each.cache != VOLATILE]
        return self.source_budget - sum(aside)

    def _check(self, name: str, source: Source) -> None:
        if name in RESERVED:
            raise _wrong(f"{name!r} is what reports call a part of their own; rename the source")
        if source.cache not in TIERS:
            raise _wrong(f"source {name!r}: no tier {source.cache!r}; write {', '.join(TIERS)}")
        if source.max is None:
            if source.cache != VOLATILE:
                raise _wrong(f"source {name!r} is {source.cache}, so it needs a max, in tokens")
        elif source.max < SOURCE_TOKENS_MIN:
            raise _wrong(f"source {name!r}: max={source.max!r}: at least {SOURCE_TOKENS_MIN}")
        content: Any = source.content
        if not (isinstance(content, Sequence) or callable(content)):
            raise _wrong(
                f"source {name!r}: {content!r} is neither a text, nor messages, nor a function"
            )

    def _check_volatile(self, name: str, source: Source) -> None:
        if source.cache != VOLATILE:
            return
        left = self.volatile_budget
        if left < SOURCE_TOKENS_MIN:
            raise _wrong(
                f"source_budget={self.source_budget} leaves {left} tokens for the volatile "
                f"{name!r}, which needs at least {SOURCE_TOKENS_MIN}; raise the budget"
            )
        if source.max is not None and source.max > left:
            raise _wrong(
                f"source {name!r}: max={source.max} is {source.max - left} more than the {left} "
                f"tokens that source_budget={self.source_budget} leaves for volatile sources"
            )


def plan_of(source_budget: int, sources: Mapping[str, Source | Mapping[str, Any]]) -> ContextPlan:
    """A plan from what a handler writes: sources, or dicts of their fields.

    Raises:
        InvalidDefinition: as :class:`ContextPlan`, or a field is unknown.
    """
    return ContextPlan(
        source_budget=source_budget,
        sources={name: _source_of(name, given) for name, given in sources.items()},
    )


def _source_of(name: str, given: object) -> Source:
    if isinstance(given, Source):
        return given
    if isinstance(given, Mapping):
        try:
            return Source(**cast("dict[str, Any]", given))
        except TypeError as error:
            raise _wrong(f"source {name!r}: {error}; it has content, max and cache") from error
    raise _wrong(
        f"source {name!r}: write Source(content=…, max=…, cache=…) or a dict, not {given!r}"
    )


def _wrong(told: str) -> InvalidDefinition:
    return InvalidDefinition(f"use_context: {told}", field="sources")
