"""A model whose answers are written piece by piece, and that stops where a test wants to step in.

Entities that run it are handled in this process, and it is not shipped with them: hand it to a
runtime as ``model_for=model.for_any``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ray_agents.agent import AgentConfig
from ray_agents.model import (
    Answered,
    Block,
    Message,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallBegun,
    Usage,
    UsageSeen,
)
from ray_agents.testing.rules import check_messages
from tests.cluster import gates

SEEN = Usage(input_tokens=7, output_tokens=1)


class Paced:
    """Each answer is a list of pieces: text, ``@gate`` to wait at, ``!tool`` to call one."""

    provider = "paced"

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = answers
        self.requests: list[Sequence[Message]] = []

    def for_any(self, _: AgentConfig) -> Paced:
        """The model of every agent."""
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Check what is asked, and say the next answer."""
        check_messages(list(request.messages))
        number = len(self.requests)
        self.requests.append(request.messages)
        yield UsageSeen(usage=SEEN)
        said, calls = "", list[Block]()
        for piece in self._answers[number]:
            if piece.startswith("@"):
                await gates.wait(piece[1:])
            elif piece.startswith("!"):
                call_id = f"t{number}-{len(calls)}"
                calls.append({"type": "tool_use", "id": call_id, "name": piece[1:], "input": {}})
                yield ToolCallBegun(block=len(calls), id=call_id, name=piece[1:])
            else:
                said += piece
                yield TextDelta(block=0, text=piece)
        content = [*([{"type": "text", "text": said}] if said else []), *calls]
        reason = "tool_use" if calls else "end_turn"
        yield Answered(content=content, stop_reason=reason, usage=SEEN + SEEN)


def words_of(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Each block as its role and what it says."""
    return [
        (message["role"], str(block.get("text") or block.get("content") or block["type"]))
        for message in messages
        for block in message["content"]
    ]
