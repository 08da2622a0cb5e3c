"""A model that says what it is given to say, in words, thoughts and calls, and may break off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

from hypothesis import strategies as st

from ray_agents.agent import AgentConfig
from ray_agents.errors import ModelUnavailable
from ray_agents.model import (
    AnswerBroken,
    Answered,
    Block,
    Message,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallBegun,
    Usage,
    UsageSeen,
)
from ray_agents.models.scripted import signature_of
from ray_agents.testing.rules import RuleBroken, check_messages
from tests.simulation.world import SeededClock

STEP = timedelta(milliseconds=10)
said = st.sampled_from(["Well. ", "So it is. ", "Yes. ", " \n", ""]).map(
    lambda words: ("text", words)
)
thought = st.sampled_from(["Hm. ", "I see. "]).map(lambda words: ("thinking", words))
redacted = st.just(("redacted_thinking", "x"))
tool_names = ["look", "write", "fail", "unknown", "act", "hurry"]
called = st.sampled_from(tool_names).map(lambda name: ("call", name))
reasons = st.sampled_from(["end_turn"] * 6 + ["max_tokens", "refusal", "pause_turn"])


@dataclass(frozen=True)
class Speech:
    """One answer: its blocks, why it ends, and how it breaks: not, to be begun anew, for good."""

    blocks: Sequence[tuple[str, str]]
    reason: str
    breaks: str


speeches = st.builds(
    Speech,
    blocks=st.lists(
        st.one_of(thought, said, said, redacted, called, called), min_size=1, max_size=4
    ),
    reason=reasons,
    breaks=st.sampled_from(["no"] * 6 + ["anew", "for good"]),
)


@dataclass
class Speaker:
    """Gives the answers in turn, whoever asks, and checks what it is asked.

    It counts no prompts, so what is long goes by our own estimates.
    """

    script: Sequence[Speech]
    requests: list[list[Message]] = field(default_factory=list[list[Message]])
    refused: list[str] = field(default_factory=list[str])
    ids: count[int] = field(default_factory=count)
    provider: str = "test"

    def for_any(self, _: AgentConfig) -> Speaker:
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        try:
            paused = request.messages[-1]["role"] == "assistant"
            check_messages(list(request.messages), ends_with_user=not paused)
        except RuleBroken as error:
            self.refused.append(str(error))
            raise
        number = len(self.requests)
        self.requests.append(list(request.messages))
        speech = self.script[number] if number < len(self.script) else Speech([], "end_turn", "no")
        yield UsageSeen(usage=Usage(output_tokens=1))
        await SeededClock().sleep(STEP / 4)
        if speech.breaks == "anew":
            async for event in self._spoken(self._content(speech)):
                yield event
            yield AnswerBroken(reason="for a test")
        content = self._content(speech)
        async for event in self._spoken(content):
            yield event
        if speech.breaks == "for good":
            raise ModelUnavailable("for a test")
        calls = any(block["type"] == "tool_use" for block in content)
        reason = "tool_use" if calls and speech.reason == "end_turn" else speech.reason
        yield Answered(content=content, stop_reason=reason, usage=Usage(output_tokens=2))

    def _content(self, speech: Speech) -> list[Block]:
        return [self._block(kind, what) for kind, what in speech.blocks]

    def _block(self, kind: str, what: str) -> Block:
        match kind:
            case "text":
                return {"type": "text", "text": what}
            case "thinking":
                return {"type": kind, "thinking": what, "signature": signature_of(what)}
            case "redacted_thinking":
                return {"type": kind, "data": what}
            case _:
                call = f"t{next(self.ids)}"
                return {"type": "tool_use", "id": call, "name": what, "input": {}}

    async def _spoken(self, content: Sequence[Block]) -> AsyncGenerator[ModelEvent, None]:
        for index, block in enumerate(content):
            match block["type"]:
                case "text":
                    yield TextDelta(block=index, text=block["text"])
                case "thinking":
                    yield ReasoningDelta(block=index, text=block["thinking"])
                case "tool_use":
                    yield ToolCallBegun(block=index, id=block["id"], name=block["name"])
                case _:
                    pass
            await SeededClock().sleep(STEP / 4)
