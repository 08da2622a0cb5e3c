"""Compaction: when a transcript has grown long, a summary takes the place of all but its end.

Theory of operation. Before a step whose messages come to more than ``threshold`` tokens, a model is
asked for a summary of what goes. The call is a step of the run like any other, with a name in place
of a number and a ``purpose``, so it is recorded before it begins, billed, limited, and not paid
again once it was answered. Beside its answer stands a ``compaction`` row: the summary, and the row
that the transcript begins with from then on. Nothing is taken out of the log: whoever reads it
without regard to such rows (``ctx.timeline_messages(whole=True)``), or as of an offset before one,
finds the conversation whole. A later summary is made of the earlier one and what came since.

What is too long to be read at once, as when compaction is switched on late, is summed up in parts,
one call after another: the first part, then its summary and the next one. No part is longer than
the threshold, which a prompt may be; how long the models' contexts are is not known here.

A run knows nothing of what runs beside it have said since it began. If any of that stands before
the place where its summary ends, the row is an ``own_compaction``: the run goes on with it, for all
others the conversation is as it was, and the next run that finds it too long sums it up.

The model reads the conversation as text, not as messages: so it needs no tools, may be another
provider's, and cannot mistake what it is to sum up for what it is to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from ray_agents.errors import InvalidDefinition
from ray_agents.estimates import tokens_in_text
from ray_agents.events import encode
from ray_agents.model import Block, Message, ModelRequest
from ray_agents.transcript import Turn

PROMPT = (
    "You sum up the conversation of an AI agent, which goes on with your summary in the place of "
    "the conversation. Keep what it needs for that: what it was asked and by whom, what has been "
    "decided, found out and done, by which tools and with which results, names, numbers, files and "
    "identifiers exactly as they were, what is still open and what comes next. Leave out what is "
    "settled and will not matter again. Write plain text and nothing but the summary."
)
PIECE_CHARS_MAX = 8_000  # of one text or result, as the summariser reads it
WORTHWHILE_SHARE = 4  # what goes must come to at least this part of the threshold
PARTS = 2  # to a threshold: estimates may be too low, see ``estimates.py``
KEEP_LAST = 10
SUMMARY_TOKENS_MAX = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """When and how an agent's transcript is summed up.

    Attributes:
        threshold: tokens of messages above which it is, looked at before each step. At least a
            quarter of it must go, else it is left until that is so. No more is summed up at once.
        keep_last: so many messages at the end stay, or a few more: no call is parted from its
            result.
        model: who sums up; None for the agent's own model.
        prompt: what it is told to do.
        max_tokens: of a summary.
        test_responses: replaces that model; None makes summaries up if the agent's own model is
            replaced, too.
    """

    threshold: int
    keep_last: int = KEEP_LAST
    model: str | None = None
    prompt: str = PROMPT
    max_tokens: int = SUMMARY_TOKENS_MAX
    test_responses: Sequence[Any] | Callable[[ModelRequest], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "keep_last", "max_tokens"):
            if getattr(self, name) < 1:
                message = f"Compaction({name}={getattr(self, name)!r}): at least 1"
                raise InvalidDefinition(message, field=name)
        if self.max_tokens >= self.threshold:
            message = (
                f"Compaction(threshold={self.threshold}, max_tokens={self.max_tokens}): a summary "
                "may be as long as what makes one necessary; give a smaller max_tokens"
            )
            raise InvalidDefinition(message, field="max_tokens")


def cut_of(turns: Sequence[Turn], compaction: Compaction, *, scale: float = 1.0) -> int | None:
    """How many turns at the beginning a summary should take the place of; None for none yet.

    If all that should go cannot be read at once, those of its first part. ``scale`` is how many
    tokens of the provider one of our estimate is.
    """
    cut = _whole_cut(turns, compaction)
    return None if cut is None else _part_of(turns, cut, room=compaction.threshold / scale)


def _part_of(turns: Sequence[Turn], cut: int, *, room: float) -> int:
    """As many of the turns before a cut as can be read at once, but one more than a summary."""
    sizes = list(accumulate(0 if each.kind == "summary" else _size(each) for each in turns[:cut]))
    if sizes[-1] <= room:
        return cut
    least = 1 + (turns[0].kind == "summary")
    places = [at for at in range(least, cut) if turns[at].anchor is not None]
    fitting = [at for at in places if sizes[at - 1] * PARTS <= room]
    return (fitting[-1:] or places[:1] or [cut])[0]


def _size(said: Turn) -> int:
    return sum(tokens_in_text(piece) for piece in _pieces(said))


def _whole_cut(turns: Sequence[Turn], compaction: Compaction) -> int | None:
    kept, role = 0, ""
    for index in range(len(turns) - 1, 0, -1):
        kept += turns[index].role != role
        role = turns[index].role
        if kept >= compaction.keep_last and turns[index].anchor is not None:
            goes = sum(each.tokens for each in turns[:index] if each.kind != "summary")
            return index if goes * WORTHWHILE_SHARE >= compaction.threshold else None
    return None


def summary_messages(turns: Sequence[Turn]) -> list[Message]:
    """What the summariser is asked: the conversation as text."""
    told = "\n\n".join(piece for each in turns for piece in _pieces(each))
    content = f"<conversation>\n{told}\n</conversation>\n\nSum this conversation up."
    return [{"role": "user", "content": [{"type": "text", "text": content}]}]


def _pieces(said: Turn) -> Iterator[str]:
    who = "EARLIER SUMMARY" if said.kind == "summary" else said.role.upper()
    for block in said.content:
        match block["type"]:
            case "text":
                yield f"{who}: {_short(block['text'])}"
            case "thinking" | "redacted_thinking":
                pass
            case "tool_use":
                yield f"{who} CALLS {block['name']} {_short(encode(block['input']))}"
            case "tool_result":
                failed = " (failed)" if block.get("is_error") else ""
                yield f"RESULT{failed}: {_short(_text_of(block.get('content') or ''))}"
            case kind:
                yield f"{who}: [{kind}]"


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = cast("list[Block]", content)
    return "\n".join(each.get("text") or f"[{each['type']}]" for each in blocks)


def _short(text: str) -> str:
    if len(text) <= PIECE_CHARS_MAX:
        return text
    half = PIECE_CHARS_MAX // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
