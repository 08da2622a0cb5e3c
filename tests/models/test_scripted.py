"""Models that say what they are told to."""

from collections.abc import Sequence

import pytest

from ray_agents.errors import AuthorError
from ray_agents.model import Answered, Message, Model, ModelEvent, ModelRequest, TextDelta
from ray_agents.models.scripted import FunctionModel, Says, ScriptedModel, scripted


def request(*messages: Message) -> ModelRequest:
    return ModelRequest(model="m", messages=messages or (said("user", "hi"),))


def said(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


async def events_of(model: Model, *messages: Message) -> Sequence[ModelEvent]:
    return [event async for event in model.stream(request(*messages))]


def answer_in(events: Sequence[ModelEvent]) -> Answered:
    assert isinstance(events[-1], Answered)
    return events[-1]


async def test_a_string_is_streamed_word_by_word() -> None:
    events = await events_of(ScriptedModel(["one two"]))
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["one ", "two"]
    assert answer_in(events).content == [{"type": "text", "text": "one two"}]
    assert answer_in(events).stop_reason == "end_turn"


async def test_calls_get_ids_that_are_new_in_their_transcript() -> None:
    model = ScriptedModel([("", [("look", {}), ("look", {})]), ("", [("look", {})])])
    first = answer_in(await events_of(model))
    transcript = (said("user", "hi"), {"role": "assistant", "content": first.content})
    second = answer_in(await events_of(model, *transcript))
    ids = [block["id"] for block in (*first.content, *second.content)]
    assert len(set(ids)) == 3
    assert first.stop_reason == "tool_use"


async def test_the_place_in_the_script_follows_from_the_transcript_alone() -> None:
    model = ScriptedModel(["one", "two"])
    transcript = (said("user", "hi"), said("assistant", "one"), said("user", "again"))
    for _ in range(2):
        assert answer_in(await events_of(model, *transcript)).content[0]["text"] == "two"


async def test_a_script_at_its_end_says_so() -> None:
    with pytest.raises(AuthorError, match="0 responses"):
        await events_of(ScriptedModel([]))


async def test_a_function_sees_the_request_and_may_be_async() -> None:
    async def answer(request: ModelRequest) -> Says:
        return Says(text=request.model, stop_reason="max_tokens")

    assert answer_in(await events_of(FunctionModel(answer))).stop_reason == "max_tokens"
    assert isinstance(scripted(answer), FunctionModel)
    assert isinstance(scripted(["one"]), ScriptedModel)


async def test_what_is_not_a_response_is_refused() -> None:
    with pytest.raises(AuthorError, match="not a response"):
        await events_of(FunctionModel(lambda _: 3))  # pyright: ignore[reportArgumentType]
