"""Models that say what they are told to: for tests, examples, and ``test_responses``.

A response is a string; or ``(text, [(tool_name, args), …])``; or a :class:`Says`. Nothing is kept
between calls: a :class:`ScriptedModel` finds its place by counting the answers in the transcript,
so it goes on at the right one in another process, after a crash.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from ray_agents.agent import TestResponses
from ray_agents.errors import AuthorError
from ray_agents.events import encode
from ray_agents.model import (
    Answered,
    Block,
    Message,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallBegun,
    Usage,
)
from ray_agents.models.permission import forbid_real_model_calls

__all__ = [
    "FunctionModel",
    "Response",
    "Says",
    "ScriptedModel",
    "forbid_real_model_calls",
    "scripted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """One answer: reasoning first, then text, then calls ``(tool_name, args)``.

    ``stop_reason`` and ``usage`` are made up if not given: a token is about four characters.
    """

    text: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    reasoning: str = ""
    stop_reason: str | None = None
    usage: Usage | None = field(default=None)


Response = str | tuple[str, Sequence[tuple[str, Mapping[str, Any]]]] | Says


class FunctionModel:
    """Answers with what a function (sync or async) makes of the request."""

    provider = "scripted"

    def __init__(self, function: Callable[[ModelRequest], Response | Awaitable[Response]]) -> None:
        self._function = function

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer, word by word, without delay."""
        made = self._function(request)
        response = await made if inspect.isawaitable(made) else made
        says = _read(response)
        content = _content(says, request.messages)
        for index, block in enumerate(content):
            for event in _events(index, block):
                yield event
        reason = says.stop_reason or ("tool_use" if says.calls else "end_turn")
        usage = says.usage or _usage(request, content)
        yield Answered(content=content, stop_reason=reason, usage=usage, model=request.model)


class ScriptedModel(FunctionModel):
    """Gives the responses of a list, one per model call of a conversation.

    Raises:
        AuthorError: when streaming, if the list has no response left.
    """

    def __init__(self, responses: Sequence[Response]) -> None:
        self.responses = tuple(responses)
        super().__init__(self._next)

    def _next(self, request: ModelRequest) -> Response:
        at = request.answers
        if at is None:
            at = sum(message["role"] == "assistant" for message in request.messages)
        if at >= len(self.responses):
            message = f"the script has {len(self.responses)} responses and was asked for one more"
            raise AuthorError(message, responses=len(self.responses))
        return self.responses[at]


def scripted(responses: TestResponses) -> FunctionModel:
    """The model that an agent's ``test_responses`` stand for."""
    return FunctionModel(responses) if callable(responses) else ScriptedModel(responses)


def signature_of(thinking: str) -> str:
    """The made-up signature of a piece of reasoning; the stand-in server checks it."""
    return blake2b(thinking.encode(), digest_size=16).hexdigest()


def _read(response: Any) -> Says:
    if isinstance(response, Says):
        return response
    if isinstance(response, str):
        return Says(text=response)
    if isinstance(response, tuple):
        parts = cast("tuple[Any, ...]", response)
        if len(parts) == 2 and isinstance(parts[0], str):
            return Says(text=parts[0], calls=parts[1])
    message = f"{response!r} is not a response; write text, (text, [(tool, args)]), or Says(…)"
    raise AuthorError(message)


def _content(says: Says, messages: Sequence[Message]) -> list[Block]:
    content: list[Block] = []
    if says.reasoning:
        signed = {"thinking": says.reasoning, "signature": signature_of(says.reasoning)}
        content.append({"type": "thinking", **signed})
    if says.text:
        content.append({"type": "text", "text": says.text})
    taken = {block.get("id") for message in messages for block in message["content"]}
    number = 0
    for name, args in says.calls:
        while (call_id := f"toolu_{number:04d}") in taken:
            number += 1
        taken.add(call_id)
        content.append({"type": "tool_use", "id": call_id, "name": name, "input": dict(args)})
    return content


def _events(index: int, block: Block) -> list[ModelEvent]:
    match block["type"]:
        case "thinking":
            return [ReasoningDelta(block=index, text=w) for w in words(block["thinking"])]
        case "text":
            return [TextDelta(block=index, text=w) for w in words(block["text"])]
        case _:
            return [ToolCallBegun(block=index, id=block["id"], name=block["name"])]


def words(text: str) -> list[str]:
    """``text`` cut after each space; joined, it is ``text`` again."""
    return [piece for piece in text.replace(" ", " \0").split("\0") if piece]


def _usage(request: ModelRequest, content: Sequence[Block]) -> Usage:
    asked = len(request.system) + sum(len(encode(message)) for message in request.messages)
    return Usage(input_tokens=asked // 4, output_tokens=len(encode(content)) // 4)
