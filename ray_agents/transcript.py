"""A transcript as turns: what was said, one thing at a time, with its place in the log.

They become messages by joining neighbours of one role, so that
user and assistant alternate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ray_agents.estimates import tokens_in_blocks
from ray_agents.model import Block, Message

Kind = Literal["inbox", "run", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One thing that was said.

    ``key`` is that of the message, the run or the compaction that said it. ``at`` is its offset,
    which never falls from one turn to the next; None as long as it is not in the log. ``anchor``
    names the row with which a transcript may begin here, behind a summary; None if it may not.
    ``tokens`` is an estimate.
    """

    kind: Kind
    key: str
    role: str
    content: Sequence[Block]
    at: int | None = None
    anchor: str | None = None
    tokens: int = 0


def turn(
    kind: Kind,
    key: str,
    *,
    role: str,
    content: Sequence[Block],
    at: int | None = None,
    anchor: str | None = None,
) -> Turn:
    """A turn, its tokens estimated."""
    tokens = tokens_in_blocks(content)
    return Turn(kind=kind, key=key, role=role, content=content, at=at, anchor=anchor, tokens=tokens)


def replaced(said: Turn, content: Sequence[Block]) -> Turn:
    """The turn with other content."""
    return replace(said, content=content, tokens=tokens_in_blocks(content))


def say(messages: list[Message], role: str, content: Sequence[Block]) -> None:
    """Add a message, or join it to the last one of its role. Messages are replaced, not changed."""
    if not content:
        return
    if messages and messages[-1]["role"] == role:
        content = [*messages.pop()["content"], *content]
    messages.append({"role": role, "content": list(content)})


def as_messages(turns: Iterable[Turn]) -> list[Message]:
    """The messages that turns are."""
    messages: list[Message] = []
    for each in turns:
        say(messages, each.role, each.content)
    return messages
