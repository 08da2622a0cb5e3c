"""The content of one source, read, checked, and cut to its bound at the boundaries of messages.

Messages are handled in *units* that are never parted: one message, or an assistant's message with
tool calls and the user's message with their results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from ray_agents.contextplan import Content, Source, Tier, TimedMessage
from ray_agents.errors import InvalidDefinition
from ray_agents.estimates import BLOCK_TOKENS, BYTES_PER_TOKEN, tokens_in_text
from ray_agents.model import Block
from ray_agents.runs import calls_in
from ray_agents.timeline import sendable
from ray_agents.transcript import Turn, turn

CUT_TEXT = "\n[cut here: about {tokens} tokens are left out]"
CUT_STEPS = 4  # a bound is enforced in steps of such a part of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Turns that belong together; ``at`` is None if they have no time."""

    turns: tuple[Turn, ...]
    at: int | None

    @property
    def tokens(self) -> int:
        """An estimate."""
        return sum(each.tokens for each in self.turns)

    @property
    def key(self) -> str:
        """The key of what it tells of."""
        return self.turns[0].key


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A source's content within its bound: a text, or units. Tokens, and those left out."""

    name: str
    tier: Tier
    text: str = ""
    units: Sequence[Unit] = ()
    tokens: int = 0
    left_out: int = 0


def read(name: str, content: Content) -> str | list[Unit]:
    """What a source gives, checked.

    Raises:
        InvalidDefinition: it is neither text nor valid messages; the message says where.
    """
    if isinstance(content, str):
        return content.strip()
    turns = [said for at, given in enumerate(content) if (said := _turn(name, at, given)).content]
    return list(_units(name, turns))


def estimate_of(content: str | Sequence[Unit]) -> int:
    """Tokens of a source's content, about."""
    if isinstance(content, str):
        return BLOCK_TOKENS + tokens_in_text(content) if content else 0
    return sum(each.tokens for each in content)


def filled(
    name: str, source: Source, content: str | Sequence[Unit], *, bound: int, scale: float = 1.0
) -> Filled:
    """``content`` within ``bound`` tokens; ``scale`` says how many a token of our estimate is."""
    total = round(estimate_of(content) * scale)
    if isinstance(content, str):
        text = content if total <= bound else _cut(content, bound, total, scale)
        tokens = total if total <= bound else round(estimate_of(text) * scale)
        return Filled(
            name=name, tier=source.cache, text=text, tokens=tokens, left_out=max(0, total - tokens)
        )
    units = content if total <= bound else _newest(content, bound / scale)
    tokens = round(estimate_of(units) * scale)
    return Filled(
        name=name, tier=source.cache, units=units, tokens=tokens, left_out=max(0, total - tokens)
    )


def _cut(text: str, bound: int, total: int, scale: float) -> str:
    """The beginning of a text, up to the end of a line if there is one near."""
    told = CUT_TEXT.format(tokens=max(1, total - bound))
    left = int((bound / scale - BLOCK_TOKENS - tokens_in_text(told) - 1) * BYTES_PER_TOKEN)
    kept = text.encode(errors="surrogatepass")[: max(0, left)].decode(errors="ignore")
    line = kept.rfind("\n")
    return (kept[:line] if line > len(kept) // 2 else kept).rstrip() + told


def _newest(units: Sequence[Unit], bound: float) -> Sequence[Unit]:
    """The newest units within a bound.

    What is left out grows by a quarter of the bound at a time, counted from the first unit: so a
    conversation that has outgrown its bound begins at the same place for many steps, and the
    provider's cache holds it.
    """
    before = list(accumulate((each.tokens for each in units), initial=0))
    step = max(1.0, bound / CUT_STEPS)
    over = before[-1] - bound
    goes = -(-over // step) * step
    first = next(index for index, tokens in enumerate(before) if tokens >= min(goes, before[-1]))
    return units[first:]


def _turn(name: str, at: int, given: object) -> Turn:
    if isinstance(given, TimedMessage):
        role, content, when, key = given.role, given.content, given.at, given.key
    elif isinstance(given, Mapping) and set(cast("dict[str, Any]", given)) == {"role", "content"}:
        message = cast("dict[str, Any]", given)
        role, content, when, key = message["role"], message["content"], None, ""
    else:
        raise _wrong(name, at, f'{given!r} is not {{"role": …, "content": …}} or a TimedMessage')
    if role not in ("user", "assistant"):
        raise _wrong(name, at, f"role {role!r} is neither 'user' nor 'assistant'")
    blocks: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, Sequence):
        blocks = [blocks]
    listed = list(cast("Sequence[Any]", blocks))
    if not all(_is_block(block) for block in listed):
        raise _wrong(name, at, f"content {content!r} is neither a text nor content blocks")
    shown = sendable(listed)
    return turn("run", key, role=role, content=shown, at=when)


def _is_block(block: object) -> bool:
    return isinstance(block, Mapping) and isinstance(cast("Block", block).get("type"), str)


def _units(name: str, turns: Sequence[Turn]) -> Iterator[Unit]:
    index = 0
    while index < len(turns):
        calls = _calls(turns[index])
        many = 2 if calls else 1
        parts = turns[index : index + many]
        _check_results(name, index, calls, parts[-1] if len(parts) == many else None)
        yield Unit(turns=tuple(parts), at=parts[0].at)
        index += many


def _calls(said: Turn) -> list[str]:
    return [block["id"] for block in calls_in(said.content)] if said.role == "assistant" else []


def _check_results(name: str, index: int, calls: Sequence[str], last: Turn | None) -> None:
    """Pass if the calls of a message are answered first thing in the next one, and no others."""
    answered: list[str] = []
    for block in last.content if last is not None and last.role == "user" else ():
        if block["type"] != "tool_result":
            break
        answered.append(block["tool_use_id"])
    content = last.content if last is not None else ()
    results = sum(block["type"] == "tool_result" for block in content)
    if sorted(answered) != sorted(calls) or results != len(answered):
        raise _wrong(
            name, index, f"tool calls {list(calls)} and the results after them, {answered}, differ"
        )


def _wrong(name: str, at: int, told: str) -> InvalidDefinition:
    return InvalidDefinition(f"use_context: source {name!r}, message {at}: {told}", field=name)
