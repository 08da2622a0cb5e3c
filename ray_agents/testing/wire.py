"""The Messages API's wire format: an answer as a message, and as the events of its stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ray_agents.model import Usage
from ray_agents.models.scripted import signature_of, words
from ray_agents.testing.script import Answer, Body

Frame = dict[str, Any]


def message_of(answer: Answer, body: Body, *, number: int, charged: Usage) -> Frame:
    """The whole answer, as a call that does not stream gets it; ``number`` makes its ids unique.

    ``charged`` is what the server counts for the input, unless the answer says otherwise.
    """
    content = content_of(answer, number)
    usage = answer.usage or charged + Usage(output_tokens=max(1, len(json.dumps(content)) // 4))
    return {
        "id": f"msg_{number:06d}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": answer.stop_reason or ("tool_use" if answer.calls else "end_turn"),
        "stop_sequence": None,
        "usage": _wire_usage(usage),
    }


def stream_of(message: Frame) -> Iterator[Frame]:
    """The events of a stream that gives that message, a word at a time."""
    begun: Frame = message | {"content": [], "stop_reason": None}
    usage = message["usage"]
    yield {"type": "message_start", "message": begun | {"usage": usage | {"output_tokens": 1}}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": usage["output_tokens"]},
    }
    yield {"type": "message_stop"}


def encoded(frame: Frame) -> bytes:
    """One event as server-sent bytes."""
    return f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n".encode()


def error_of(kind: str, message: str) -> Frame:
    """The body of a refusal, and the data of an error event."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def content_of(answer: Answer, number: int) -> list[Frame]:
    """The content blocks of an answer."""
    if answer.content is not None:
        return [dict(block) for block in answer.content]
    content: list[Frame] = []
    if answer.thinking:
        signed = {"thinking": answer.thinking, "signature": signature_of(answer.thinking)}
        content.append({"type": "thinking", **signed})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for index, (name, args) in enumerate(answer.calls):
        call_id = f"toolu_{number:06d}_{index}"
        content.append({"type": "tool_use", "id": call_id, "name": name, "input": dict(args)})
    return content


def _block_events(index: int, block: Frame) -> Iterator[Frame]:
    begun, deltas = _BLOCKS.get(block["type"], _whole)(block)
    yield {"type": "content_block_start", "index": index, "content_block": begun}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _thinking(block: Frame) -> tuple[Frame, Sequence[Frame]]:
    said = [{"type": "thinking_delta", "thinking": word} for word in words(block["thinking"])]
    signed = {"type": "signature_delta", "signature": block["signature"]}
    return block | {"thinking": "", "signature": ""}, [*said, signed]


def _text(block: Frame) -> tuple[Frame, Sequence[Frame]]:
    said = [{"type": "text_delta", "text": word} for word in words(block["text"])]
    cited = [{"type": "citations_delta", "citation": each} for each in block.get("citations", ())]
    bare = {name: value for name, value in block.items() if name != "citations"}
    return bare | {"text": ""}, [*cited, *said]


def _tool_use(block: Frame) -> tuple[Frame, Sequence[Frame]]:
    text = json.dumps(block["input"])
    pieces = ["", *(text[at : at + 16] for at in range(0, len(text), 16))]
    said = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block | {"input": {}}, said


def _whole(block: Frame) -> tuple[Frame, Sequence[Frame]]:
    return block, ()


_BLOCKS = {
    "thinking": _thinking,
    "text": _text,
    "tool_use": _tool_use,
    "server_tool_use": _tool_use,
}


def usage_in(message: Frame) -> Usage:
    """What a message says that it cost."""
    usage = message["usage"]
    return Usage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_tokens=usage["cache_read_input_tokens"],
        cache_write_tokens=usage["cache_creation_input_tokens"],
    )


def _wire_usage(usage: Usage) -> Frame:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }
