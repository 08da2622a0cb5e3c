"""Puts an answer together from the events of a Messages API stream, as raw JSON.

Source: the streaming section of the Messages API documentation. Usage counts are cumulative: a
later one replaces an earlier one. Unknown events and deltas are passed over, as it asks.
"""

from __future__ import annotations

import json
from typing import Any, cast

from ray_agents.model import (
    Answered,
    Block,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallBegun,
    Usage,
    UsageSeen,
)

_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}


class TornAnswer(Exception):
    """The stream ended, or went wrong, before the answer was complete."""


class AnswerInParts:
    """An answer that is still coming."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, int] = {}
        self._model = ""
        self._stop_reason: str | None = None
        self._stopped = False

    def take(self, event: dict[str, Any]) -> ModelEvent | None:
        """Take in one stream event; what of it the world should hear, if anything."""
        match event["type"]:
            case "message_start":
                self._model = event["message"].get("model", "")
                self._count(event["message"].get("usage"))
                return UsageSeen(usage=Usage(**self._usage))
            case "content_block_start":
                return self._begin(event["index"], event["content_block"])
            case "content_block_delta":
                return self._extend(event["index"], event["delta"])
            case "content_block_stop":
                self._end(event["index"])
            case "message_delta":
                self._stop_reason = event["delta"].get("stop_reason") or self._stop_reason
                self._count(event.get("usage"))
            case "message_stop":
                self._stopped = True
            case _:
                pass
        return None

    def answered(self) -> Answered:
        """The whole answer.

        Raises:
            TornAnswer: it is not whole.
        """
        if not self._stopped or self._stop_reason is None:
            raise TornAnswer("the stream ended in the middle of the answer")
        return Answered(
            content=[self._blocks[index] for index in sorted(self._blocks)],
            stop_reason=self._stop_reason,
            usage=Usage(**self._usage),
            model=self._model,
        )

    def _begin(self, index: int, block: Block) -> ModelEvent | None:
        self._blocks[index] = {name: value for name, value in block.items() if value is not None}
        if block["type"] == "tool_use":
            return ToolCallBegun(block=index, id=block["id"], name=block["name"])
        if block["type"] == "text" and block["text"]:
            return TextDelta(block=index, text=block["text"])
        return None

    def _extend(self, index: int, delta: dict[str, Any]) -> ModelEvent | None:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
                return TextDelta(block=index, text=delta["text"])
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
                return ReasoningDelta(block=index, text=delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._json.setdefault(index, []).append(delta["partial_json"])
            case "citations_delta":
                block.setdefault("citations", []).append(delta["citation"])
            case _:
                pass
        return None

    def _end(self, index: int) -> None:
        text = "".join(self._json.pop(index, ()))
        if text:
            self._blocks[index]["input"] = input_in(text)

    def _count(self, usage: dict[str, Any] | None) -> None:
        for name, ours in _USAGE.items():
            if usage and usage.get(name) is not None:
                self._usage[ours] = usage[name]


def input_in(text: str) -> dict[str, Any]:
    """The arguments of a call; no text is none.

    What is no JSON object (cut off by ``max_tokens``, say) stays readable: no tool accepts it, and
    the model sees what it sent.
    """
    if not text.strip():
        return {}
    try:
        read: Any = json.loads(text)
    except json.JSONDecodeError:
        read = None
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {"INVALID_JSON": text}
