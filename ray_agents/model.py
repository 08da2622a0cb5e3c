"""The seam to a language model: what is asked, what streams back, and the protocol between.

Messages and content blocks are JSON in the shape of Anthropic's Messages API, the shape in which
they stand in the log; an adapter for another provider translates at its own edge. A model is
asked once per step and streams :data:`ModelEvent` values; the last one is :class:`Answered`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, Self, runtime_checkable

from ray_agents.caching import CachePoints

Block = dict[str, Any]  # one content block: {"type": "text", "text": …}
Message = dict[str, Any]  # {"role": "user" | "assistant", "content": [Block, …]}
Thinking = int | Literal["adaptive", "between_tools"]  # an int is a budget in tokens

DEFAULT_MODEL = "claude-sonnet-5-5"
DEFAULT_BASE_URL = "https://api.anthropic.com"
THINKING_TOKENS_MIN = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one step or of a whole run, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) - getattr(other, name) for name in USAGE_FIELDS})

    @property
    def tokens(self) -> int:
        """Tokens of all kinds."""
        return sum(getattr(self, name) for name in USAGE_FIELDS)

    def as_row(self) -> dict[str, int]:
        """The four counts by field name, as step and run rows carry them."""
        return {name: getattr(self, name) for name in USAGE_FIELDS}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read the counts from a step or run row; absent ones are 0."""
        return cls(**{name: row.get(name) or 0 for name in USAGE_FIELDS})


USAGE_FIELDS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The tool as the Messages API takes it."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": dict(self.input_schema),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One model call. ``messages`` must be valid for the provider; nobody may change them.

    ``cache_points`` are where a provider's cache should keep the prompt, if it must be told.
    ``answers`` counts the model's messages in the conversation, those left out of ``messages``
    included; None if it is all there.
    """

    model: str
    messages: Sequence[Message]
    system: str = ""
    tools: Sequence[ToolSpec] = ()
    max_tokens: int = 16_000
    thinking: Thinking | None = None
    cache_points: CachePoints = field(default_factory=CachePoints)
    answers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """The model said a piece of text; ``block`` is the index of its content block."""

    block: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """The model thought a piece of reasoning."""

    block: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallBegun:
    """The model began to call a tool; its arguments follow with :class:`Answered`."""

    block: int
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSeen:
    """So much of this answer the provider has counted; should it break off, this is known of it."""

    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerBroken:
    """The stream broke: all that came of this answer is void; it may cost something."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer is complete: its content blocks, thinking signatures included, and its cost."""

    content: Sequence[Block]
    stop_reason: str
    usage: Usage = field(default_factory=Usage)
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallQueued:
    """The call waits for its turn, for the first time or again; nothing of it is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSent:
    """A call that was queued has had its turn, and is under way."""


ModelEvent = (
    TextDelta
    | ReasoningDelta
    | ToolCallBegun
    | UsageSeen
    | AnswerBroken
    | Answered
    | CallQueued
    | CallSent
)


class Model(Protocol):
    """A language model. One object serves many runs at once."""

    @property
    def provider(self) -> str:
        """Its provider's name, for the log."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request, piece by piece; the last event is :class:`Answered`.

        Raises:
            ModelUnavailable: it cannot be reached or refuses; the message says what to do.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A model whose provider counts the tokens of a prompt without answering it."""

    async def count(self, request: ModelRequest) -> int | None:
        """The input tokens of a request; None if the provider does not tell now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How to reach a provider; the doors read the environment and hand this in.

    Attributes:
        call_timeout: one attempt, from the request to the last piece of its answer; one that
            takes longer is ended and not made again.
        silence_timeout: between two pieces of an answer, and before the first.
        retries_max: the retries of one call, whatever was wrong: refused, overloaded, broken off.
        refusals_max: how often a call that waits in a gateway may be refused for want of capacity
            (429, 529) and wait again, besides its retries.
        turn_wait_max: how long a call waits in a gateway for its turn. A run's ``time_max`` and
            a handler's ``handler_time_max`` go on meanwhile.
        retry_delay: the pause before the first retry; it doubles up to ``retry_delay_max``.
        retry_after_max: a server may ask for a pause of its own, up to this; one that asks for
            more is not waited for.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    call_timeout: timedelta = timedelta(minutes=30)
    silence_timeout: timedelta = timedelta(minutes=5)
    connect_timeout: timedelta = timedelta(seconds=5)
    retries_max: int = 4
    refusals_max: int = 20
    turn_wait_max: timedelta = timedelta(hours=1)
    retry_delay: timedelta = timedelta(seconds=0.5)
    retry_delay_max: timedelta = timedelta(seconds=8)
    retry_after_max: timedelta = timedelta(minutes=1)

    @classmethod
    def from_env(cls, env: Mapping[str, str], provider: str = "ANTHROPIC") -> Self:
        """Read ``{provider}_API_KEY`` and ``{provider}_BASE_URL`` from a mapping."""
        return cls(
            api_key=env.get(f"{provider}_API_KEY") or None,
            base_url=env.get(f"{provider}_BASE_URL") or None,
        )

    @property
    def usable(self) -> bool:
        """Whether there is anything to call: a key, or a server that may need none."""
        return self.api_key is not None or self.base_url is not None
