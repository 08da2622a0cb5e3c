"""Our messages as Chat Completions has them, and its stream as ours: the other transcript rules.

Source: the Chat Completions reference of OpenAI, which many servers speak. There, the results of
tools are messages of their own, right after the calls, and hold text only; so images in a result
follow as a user's message. Reasoning cannot be sent back, so it is shown and not kept. What other
providers' blocks say (thinking, server tools) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from ray_agents.media import media_in, text_in
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
from ray_agents.models.answers import TornAnswer, input_in

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_Part = dict[str, Any]


def chat_messages(request: ModelRequest) -> list[Message]:
    """The system prompt and the transcript as Chat Completions takes them."""
    messages: list[Message] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for message in request.messages:
        turn = _assistant if message["role"] == "assistant" else _user
        messages.extend(turn(message["content"]))
    return messages


def chat_tools(request: ModelRequest) -> list[dict[str, Any]]:
    """The tools as Chat Completions takes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": each.name,
                "description": each.description,
                "parameters": dict(each.input_schema),
            },
        }
        for each in request.tools
    ]


def _assistant(content: Sequence[Block]) -> Iterator[Message]:
    said = "".join(block["text"] for block in content if block["type"] == "text")
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in content
        if block["type"] == "tool_use"
    ]
    if calls:
        yield {"role": "assistant", "content": said or None, "tool_calls": calls}
    elif said:
        yield {"role": "assistant", "content": said}


def _user(content: Sequence[Block]) -> Iterator[Message]:
    parts: list[_Part] = []
    for block in content:
        if block["type"] == "tool_result":
            yield _result(block)
            parts.extend(_part(each) for each in media_in(block["content"]))
        else:
            parts.append(_part(block))
    if parts:
        yield {"role": "user", "content": parts}


def _result(block: Block) -> Message:
    text = text_in(block["content"])
    told = f"Error: {text}" if block.get("is_error") else text
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": told}


def _part(block: Block) -> _Part:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source, title = block["source"], block.get("title")
    whole = source["type"] == "base64"
    data = f"data:{source['media_type']};base64,{source['data']}" if whole else ""
    if source["type"] == "text":
        return {"type": "text", "text": source["data"]}
    if block["type"] == "image" and (whole or source["type"] == "url"):
        return {"type": "image_url", "image_url": {"url": data or source["url"]}}
    if whole:
        return {"type": "file", "file": {"filename": title or "document.pdf", "file_data": data}}
    where = source.get("url") or source.get("file_id")
    return {"type": "text", "text": f"[a {block['type']} that cannot be shown here: {where}]"}


class ChatInParts:
    """An answer that is still coming, from the chunks of a stream, as raw JSON.

    Ids of calls that are missing, or stand in the transcript before, are replaced: some servers
    number the calls of each answer from 0, and our transcripts need them unique.
    """

    def __init__(self, request: ModelRequest) -> None:
        self._taken = {
            block["id"]
            for message in request.messages
            for block in message["content"]
            if block["type"] == "tool_use"
        }
        self._text: list[str] = []
        self._calls: dict[int, Block] = {}
        self._arguments: dict[int, list[str]] = {}
        self._stop_reason: str | None = None
        self._refused = False
        self._usage = Usage()
        self._model = request.model

    def take(self, chunk: dict[str, Any]) -> Iterator[ModelEvent]:
        """Take in one chunk; what of it the world should hear."""
        self._model = chunk.get("model") or self._model
        if usage := chunk.get("usage"):
            self._usage = usage_in(usage)
        for choice in chunk.get("choices") or ():
            delta: dict[str, Any] = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                yield ReasoningDelta(block=0, text=thought)
            if words := delta.get("content") or delta.get("refusal"):
                self._refused = self._refused or bool(delta.get("refusal"))
                self._text.append(words)
                yield TextDelta(block=0, text=words)
            for part in delta.get("tool_calls") or ():
                yield from self._call(part)
            self._stop_reason = choice.get("finish_reason") or self._stop_reason

    def answered(self) -> Answered:
        """The whole answer.

        Raises:
            TornAnswer: it is not whole.
        """
        if self._stop_reason is None:
            raise TornAnswer("the stream ended in the middle of the answer")
        text = "".join(self._text)
        content: list[Block] = [{"type": "text", "text": text}] if text else []
        for index, call in self._calls.items():
            content.append(call | {"input": input_in("".join(self._arguments[index]))})
        reason = STOP_REASONS.get(self._stop_reason, self._stop_reason)
        if self._refused:
            reason = "refusal"
        elif self._calls and reason == "end_turn":
            reason = "tool_use"
        return Answered(content=content, stop_reason=reason, usage=self._usage, model=self._model)

    def _call(self, part: dict[str, Any]) -> Iterator[ModelEvent]:
        index: int = part.get("index") or 0
        function: dict[str, Any] = part.get("function") or {}
        if index not in self._calls:
            call_id, name = self._fresh(part.get("id")), function.get("name") or ""
            self._calls[index] = {"type": "tool_use", "id": call_id, "name": name}
            self._arguments[index] = []
            yield ToolCallBegun(block=1 + index, id=call_id, name=name)
        self._arguments[index].append(function.get("arguments") or "")

    def _fresh(self, given: str | None) -> str:
        numbered = (f"call_{number:04d}" for number in count())
        call_id = given if given and given not in self._taken else None
        if call_id is None:
            call_id = next(each for each in numbered if each not in self._taken)
        self._taken.add(call_id)
        return call_id


def usage_in(usage: dict[str, Any]) -> Usage:
    """Tokens as we count them: those read from and written to a cache are not among the input."""
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    return Usage(
        input_tokens=max(0, (usage.get("prompt_tokens") or 0) - read - written),
        output_tokens=usage.get("completion_tokens") or 0,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
