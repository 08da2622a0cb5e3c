"""Where a prompt is worth a breakpoint of the provider's cache, of which there are few.

A breakpoint has what stands before it written to the cache, and a later prompt that is the same up
to there reads it. Order is tools, system prompt, messages. What counts most is that a step finds
what the step before it wrote: the end of the prompt is marked, and the end of the prompt before it,
for the provider looks back only so many blocks from a mark. What is left goes to the ends of the
cache tiers, so that a run finds what other runs wrote, whatever came after.

Source: the prompt caching section of the Messages API documentation: at most four breakpoints; a
prompt that is shorter than the model's least length is not cached, marked or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

BREAKPOINTS_MAX = 4
CACHEABLE_TOKENS_MIN = 1_024
_LONGER = (
    (re.compile(r"claude-(opus-4-[567]|haiku-4-5)"), 4_096),
    (re.compile(r"claude-sonnet-4-6|claude-3-5-haiku|claude-3-haiku"), 2_048),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePoints:
    """Places in a prompt, each after so much of it.

    ``system`` counts characters of the system prompt, 0 is right behind the tools; ``messages``
    counts messages. ``parts`` are the places at which the system prompt is divided, marked or not:
    a provider takes the same text in other pieces for another text.
    """

    system: tuple[int, ...] = ()
    messages: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place that may be marked: where it is, and the tokens before it.

    ``needed`` ones are marked before any other.
    """

    system: int | None = None
    messages: int | None = None
    tokens: int
    needed: bool = False


def cacheable_tokens_min(model: str) -> int:
    """The shortest prompt that a model's provider caches, in tokens; a guess for unknown ones."""
    return next((least for name, least in _LONGER if name.search(model)), CACHEABLE_TOKENS_MIN)


def chosen(places: Sequence[Place]) -> CachePoints:
    """The places to mark, at most as many as a prompt may have; ``places`` in order."""
    distinct = {(place.system, place.messages): place for place in places}
    kept = list(distinct.values())
    while len(kept) > BREAKPOINTS_MAX:
        kept.remove(_least_useful(kept))
    return CachePoints(
        system=tuple(each.system for each in kept if each.system is not None),
        messages=tuple(each.messages for each in kept if each.messages is not None),
        parts=tuple(each.system for each in distinct.values() if each.system),
    )


def _least_useful(places: Sequence[Place]) -> Place:
    """The one that adds the fewest tokens to the one before it."""
    before = [0, *(place.tokens for place in places)]
    spare = [index for index, place in enumerate(places) if not place.needed]
    return places[min(spare, key=lambda index: places[index].tokens - before[index])]
