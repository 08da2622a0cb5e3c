"""The real SDK against the stand-in server."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, get_args

import pytest
from anthropic.types import StopReason

from ray_agents.errors import ModelUnavailable
from ray_agents.media import document, image
from ray_agents.model import (
    AnswerBroken,
    Answered,
    Block,
    Message,
    ModelEvent,
    ModelRequest,
    ModelSettings,
    ReasoningDelta,
    TextDelta,
    ToolCallBegun,
    ToolSpec,
    Usage,
    UsageSeen,
)
from ray_agents.models.anthropic import AnthropicModel, close_clients
from ray_agents.models.permission import forbid_real_model_calls
from ray_agents.models.scripted import signature_of
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import OVERLOADED, Answer, Refusal

FOUND = {
    "type": "web_search_result",
    "url": "https://example.org",
    "title": "X",
    "encrypted_content": "c",
}
CITED = {
    "type": "web_search_result_location",
    "url": "https://example.org",
    "title": "X",
    "cited_text": "x",
    "encrypted_index": "i",
}
HI: Message = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
LOOK = ToolSpec(name="look", description="Look.", input_schema={"type": "object", "properties": {}})
SOON = timedelta(milliseconds=1)
NOW = timedelta(0)


@pytest.fixture(autouse=True)
async def _clients() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    await close_clients()


def model(api: MessagesApi, retries_max: int = 2, api_key: str | None = None) -> AnthropicModel:
    settings = ModelSettings(
        base_url=api.url, api_key=api_key, retries_max=retries_max, retry_delay=NOW
    )
    return AnthropicModel(settings)


def request(*messages: Message, **options: Any) -> ModelRequest:
    return ModelRequest(model="claude-test", messages=messages or (HI,), **options)


async def ask(api: MessagesApi, *messages: Message, **options: Any) -> Sequence[ModelEvent]:
    return [event async for event in model(api).stream(request(*messages, **options))]


def answer_in(events: Sequence[ModelEvent]) -> Answered:
    assert isinstance(events[-1], Answered)
    return events[-1]


async def test_text_streams_and_ends_with_what_it_cost() -> None:
    usage = Usage(input_tokens=7, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2)
    async with MessagesApi(script=[Answer(text="Hello there.", usage=usage)]) as api:
        events = await ask(api, system="Be brief.")
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["Hello ", "there."]
    answer = answer_in(events)
    assert (answer.stop_reason, answer.usage, answer.model) == ("end_turn", usage, "claude-test")
    assert api.calls[0].body["system"] == "Be brief."
    assert api.calls[0].body["cache_control"] == {"type": "ephemeral"}


async def test_parallel_calls_come_with_their_arguments() -> None:
    script = [Answer(text="So: ", calls=[("look", {}), ("look", {"at": "the “sky” " * 9})])]
    async with MessagesApi(script=script) as api:
        events = await ask(api, tools=[LOOK])
    begun = [event for event in events if isinstance(event, ToolCallBegun)]
    blocks = answer_in(events).content[1:]
    assert [(call.id, call.name) for call in begun] == [(b["id"], b["name"]) for b in blocks]
    assert [block["input"] for block in blocks] == [{}, {"at": "the “sky” " * 9}]
    assert answer_in(events).stop_reason == "tool_use"


async def test_thinking_keeps_its_signature_and_is_accepted_when_sent_back() -> None:
    script = [Answer(thinking="Let me see", calls=[("look", {})]), "Done."]
    async with MessagesApi(script=script) as api:
        events = await ask(api, tools=[LOOK], thinking=2048)
        thought, call = answer_in(events).content
        told = {"type": "tool_result", "tool_use_id": call["id"], "content": "sky"}
        reply = {"role": "assistant", "content": [thought, call]}
        again = await ask(api, HI, reply, {"role": "user", "content": [told]}, tools=[LOOK])
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Let me see"
    assert thought["signature"] == signature_of("Let me see")
    assert answer_in(again).content[0]["text"] == "Done."
    assert api.calls[0].body["thinking"] == {"type": "enabled", "budget_tokens": 2048}


async def test_redacted_thinking_and_server_tools_are_kept_as_they_came() -> None:
    content: list[Any] = [
        {"type": "redacted_thinking", "data": "sealed"},
        {"type": "thinking", "thinking": "hm", "signature": signature_of("hm")},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [FOUND]},
        {"type": "text", "text": "Found.", "citations": [CITED]},
    ]
    async with MessagesApi(script=[Answer(content=content), "Yes."]) as api:
        answer = answer_in(await ask(api))
        assert answer.content == content
        again = await ask(api, HI, {"role": "assistant", "content": answer.content}, HI)
    assert answer_in(again).content[0]["text"] == "Yes."


async def test_images_and_documents_are_sent_as_they_are() -> None:
    shown = [image(b"\x89PNG\r\n\x1a\n"), document(b"%PDF"), HI["content"][0]]
    call: Block = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    seen = {"type": "tool_result", "tool_use_id": "t", "content": [image(b"\x89PNG\r\n\x1a\n")]}
    async with MessagesApi(script=["I see."]) as api:
        await ask(
            api,
            {"role": "user", "content": shown},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [seen]},
        )
    assert api.calls[0].body["messages"][0]["content"] == shown
    assert api.calls[0].body["messages"][2]["content"] == [seen]


@pytest.mark.parametrize("reason", get_args(StopReason))
async def test_every_stop_reason_is_passed_on(reason: str) -> None:
    async with MessagesApi(script=[Answer(text="…", stop_reason=reason)]) as api:
        assert answer_in(await ask(api)).stop_reason == reason


@pytest.mark.parametrize("refusal", [Refusal(retry_after=SOON), OVERLOADED])
async def test_a_busy_server_is_asked_again(refusal: Refusal) -> None:
    async with MessagesApi(script=[refusal, refusal, "Hello."]) as api:
        assert answer_in(await ask(api)).content[0]["text"] == "Hello."
    assert [call.status for call in api.calls] == [refusal.status, refusal.status, 200]


async def test_a_server_that_stays_busy_is_reported() -> None:
    async with MessagesApi(script=[Refusal(retry_after=SOON)] * 3) as api:
        with pytest.raises(ModelUnavailable, match="rate limit") as caught:
            await ask(api)
    assert caught.value.facts["http_status"] == 429
    assert len(api.calls) == 3


@pytest.mark.parametrize("accident", [{"breaks_after": 4}, {"fails_after": 4}])
async def test_a_stream_that_breaks_is_taken_back_and_begun_again(accident: Any) -> None:
    async with MessagesApi(script=[Answer(text="Hello there.", **accident), "Hi."]) as api:
        events = await ask(api)
    kinds = [type(event) for event in events if not isinstance(event, UsageSeen)]
    assert kinds == [TextDelta, AnswerBroken, TextDelta, Answered]
    assert answer_in(events).content == [{"type": "text", "text": "Hi."}]


async def test_what_breaks_before_anything_was_said_is_told_of_as_it_may_have_cost() -> None:
    script = [Answer(text="Hello.", fails_after=1), Answer(text="Hi.", breaks_after=0), "Hi."]
    async with MessagesApi(script=script) as api:
        kinds = [type(event) for event in await ask(api)]
    assert kinds == [UsageSeen, AnswerBroken, AnswerBroken, UsageSeen, TextDelta, Answered]


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error", "rate_limit_error"])
async def test_a_server_in_trouble_in_the_middle_is_asked_again(kind: str) -> None:
    script = [Answer(text="Hello there.", fails_after=4, error_kind=kind), "Hi."]
    async with MessagesApi(script=script) as api:
        assert AnswerBroken(reason=f"ended its answer with {kind}: by script") in await ask(api)


async def test_an_error_in_the_middle_that_will_come_again_is_reported() -> None:
    script = [Answer(text="Hello.", fails_after=4, error_kind="invalid_request_error")]
    async with MessagesApi(script=script) as api:
        with pytest.raises(ModelUnavailable, match="will be refused again"):
            await ask(api)


async def test_a_stream_that_falls_silent_is_begun_again() -> None:
    script = [Answer(text="Hello there.", stalls_after=4), "Hi."]
    async with MessagesApi(script=script) as api:
        settings = ModelSettings(
            base_url=api.url, silence_timeout=timedelta(milliseconds=300), retry_delay=NOW
        )
        events = [event async for event in AnthropicModel(settings).stream(request())]
    kinds = [type(event) for event in events]
    assert kinds == [UsageSeen, TextDelta, AnswerBroken, UsageSeen, TextDelta, Answered]


async def test_one_that_is_accepted_and_says_nothing_is_told_of_as_it_may_have_cost() -> None:
    async with MessagesApi(script=[Answer(text="Hello.", stalls_after=0), "Hi."]) as api:
        settings = ModelSettings(
            base_url=api.url, silence_timeout=timedelta(milliseconds=300), retry_delay=NOW
        )
        events = [event async for event in AnthropicModel(settings).stream(request())]
    assert [type(event) for event in events] == [AnswerBroken, UsageSeen, TextDelta, Answered]


async def test_an_answer_that_takes_too_long_is_ended() -> None:
    async with MessagesApi(script=[Answer(text="Hello.", stalls_after=4)]) as api:
        settings = ModelSettings(base_url=api.url, call_timeout=timedelta(milliseconds=300))
        with pytest.raises(ModelUnavailable, match="within call_timeout"):
            async for _ in AnthropicModel(settings).stream(request()):
                pass


async def test_the_pause_between_attempts_is_the_servers() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    refusal = Refusal(retry_after=timedelta(seconds=7))
    async with MessagesApi(script=[refusal, OVERLOADED, "Hi."]) as api:
        patient = AnthropicModel(ModelSettings(base_url=api.url), sleep=sleep, chance=lambda: 0.0)
        assert [event async for event in patient.stream(request())]
    assert pauses == [7.0, 1.0]


async def test_a_stream_that_keeps_breaking_is_reported() -> None:
    async with MessagesApi(script=[Answer(text="Hello.", breaks_after=3)] * 3) as api:
        with pytest.raises(ModelUnavailable, match="3 attempts"):
            await ask(api)


async def test_a_missing_key_is_reported_with_what_to_do() -> None:
    with pytest.raises(ModelUnavailable, match="ANTHROPIC_API_KEY"):
        async for _ in AnthropicModel(ModelSettings()).stream(request()):
            pass


async def test_a_wrong_key_is_reported_with_what_to_do() -> None:
    async with MessagesApi(api_key="right") as api:
        with pytest.raises(ModelUnavailable, match=r"401.*ANTHROPIC_API_KEY") as caught:
            async for _ in model(api, api_key="wrong").stream(request()):
                pass
    assert "wrong" not in str(caught.value)


async def test_an_unreachable_server_is_reported_with_what_to_do() -> None:
    async with MessagesApi() as api:
        pass
    with pytest.raises(ModelUnavailable, match="ANTHROPIC_BASE_URL") as caught:
        async for _ in model(api, retries_max=0).stream(request()):
            pass
    assert caught.value.facts["kind"] == "unreachable"


async def test_a_request_against_the_rules_is_reported_with_the_rule() -> None:
    async with MessagesApi() as api:
        with pytest.raises(ModelUnavailable, match="alternate"):
            await ask(api, HI, HI)


async def test_real_calls_can_be_forbidden_and_the_stand_in_stays_allowed() -> None:
    forbid_real_model_calls()
    try:
        async with MessagesApi(script=["Hello."]) as api:
            assert answer_in(await ask(api))
        with pytest.raises(ModelUnavailable, match="forbid_real_model_calls"):
            async for _ in AnthropicModel(ModelSettings(api_key="x")).stream(request()):
                pass
    finally:
        forbid_real_model_calls(forbidden=False)


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(ModelSettings(api_key="secret"))
