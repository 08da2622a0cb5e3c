"""What a provider's prompt cache would hold and give: tokens read, written, and neither.

Source: the prompt caching section of the Messages API documentation. A prompt is a row of blocks:
tools, then system, then messages. A request marks breakpoints (``cache_control`` on a block, or at
the top for the last one); what stands before one is cached when the call is accepted. It is
read by a later request whose blocks are the same up to there, if that place is at one of its own
breakpoints or at most :data:`LOOK_BACK` blocks before one. Nothing expires here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, cast

from ray_agents.model import Usage

CACHED_TOKENS_MIN = 1024  # a shorter prompt is not cached
LOOK_BACK = 20
CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The end of one block of a prompt: what stands before it, and whether a breakpoint is here."""

    digest: bytes
    tokens: int
    marked: bool


class PromptCache:
    """The prompts that accepted calls have left behind."""

    def __init__(self, *, tokens_min: int = CACHED_TOKENS_MIN) -> None:
        self._tokens_min = tokens_min
        self._kept: set[bytes] = set()

    def charge(self, body: dict[str, Any]) -> Usage:
        """The input tokens of a call, by what the cache had of it; and keep what it marks."""
        places = _places(body)
        marked = [at for at, place in enumerate(places) if place.marked]
        marked = [at for at in marked if places[at].tokens >= self._tokens_min]
        read = max((self._read(places, at) for at in marked), default=0)
        kept = places[marked[-1]].tokens if marked else 0
        self._kept |= {places[at].digest for at in marked}
        total = places[-1].tokens if places else 0
        return Usage(
            input_tokens=total - max(read, kept),
            cache_read_tokens=read,
            cache_write_tokens=max(0, kept - read),
        )

    def _read(self, places: list[_Place], breakpoint_at: int) -> int:
        first = max(0, breakpoint_at - LOOK_BACK)
        known = [p.tokens for p in places[first : breakpoint_at + 1] if p.digest in self._kept]
        return max(known, default=0)


def tokens_in(body: dict[str, Any]) -> int:
    """A request's tokens, by an estimate: about four characters each."""
    places = _places(body)
    return places[-1].tokens if places else 0


def _places(body: dict[str, Any]) -> list[_Place]:
    places: list[_Place] = []
    digest, chars = str(body.get("model", "")).encode(), 0
    for text, marked in _segments(body):
        digest = blake2b(digest + text.encode(), digest_size=16).digest()
        chars += len(text)
        places.append(_Place(digest=digest, tokens=max(1, chars // CHARS_PER_TOKEN), marked=marked))
    if places and body.get("cache_control"):
        places[-1] = replace(places[-1], marked=True)
    return places


def _segments(body: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Every block as text, and whether it is a breakpoint."""
    for tool in body.get("tools") or ():
        yield _segment("tool", tool)
    for block in _blocks(body.get("system")):
        yield _segment("system", block)
    for message in body.get("messages") or ():
        for block in _blocks(message["content"]):
            yield _segment(message["role"], block)


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not content:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return cast("list[dict[str, Any]]", content)


def _segment(where: str, block: dict[str, Any]) -> tuple[str, bool]:
    bare = {name: value for name, value in block.items() if name != "cache_control"}
    return json.dumps([where, bare]), bool(block.get("cache_control"))
