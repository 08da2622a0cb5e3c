"""The second provider's SDK against its stand-in: one seam, the same loop."""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from ray_agents import Context, Registry, Wake, tool
from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.client import AsyncClient
from ray_agents.cluster.local import LocalRuntime
from ray_agents.errors import ModelUnavailable
from ray_agents.model import (
    AnswerBroken,
    Answered,
    Message,
    ModelEvent,
    ModelRequest,
    ModelSettings,
    ReasoningDelta,
    TextDelta,
    ToolSpec,
    Usage,
)
from ray_agents.models.choice import chooser
from ray_agents.models.clients import close_clients
from ray_agents.models.openai import OpenAIModel
from ray_agents.models.permission import forbid_real_model_calls
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.testing.chat_api import ChatApi
from ray_agents.testing.recorded import Recording
from ray_agents.testing.script import OVERLOADED, Answer, Body, Refusal
from tests.models.silence import SILENCE, heard

HI: Message = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
LOOK = ToolSpec(name="look", description="Look.", input_schema={"type": "object", "properties": {}})
NOW = timedelta(0)


@pytest.fixture(autouse=True)
async def _clients() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    await close_clients()


def settings(api: ChatApi, **options: Any) -> ModelSettings:
    return ModelSettings(base_url=f"{api.url}/v1", retry_delay=NOW, retries_max=2, **options)


def request(**options: Any) -> ModelRequest:
    return ModelRequest(model="openai:gpt-test", messages=[HI], **options)


async def ask(model: OpenAIModel, **options: Any) -> list[ModelEvent]:
    return [event async for event in model.stream(request(**options))]


def answer_in(events: Sequence[ModelEvent]) -> Answered:
    assert isinstance(events[-1], Answered)
    return events[-1]


async def test_text_and_reasoning_stream_and_end_with_what_it_cost() -> None:
    usage = Usage(input_tokens=7, output_tokens=5, cache_read_tokens=3)
    async with ChatApi([Answer(thinking="Hm so", text="Hello there.", usage=usage)]) as api:
        events = await ask(OpenAIModel(settings(api)), system="Be brief.", max_tokens=99)
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["Hello ", "there."]
    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == ["Hm ", "so"]
    answer = answer_in(events)
    assert answer.content == [{"type": "text", "text": "Hello there."}]
    assert (answer.usage, answer.model, api.totals.tokens) == (usage, "gpt-test", usage)
    assert api.calls[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert api.calls[0].body["max_completion_tokens"] == 99


async def test_parallel_calls_come_with_their_arguments() -> None:
    script = [Answer(calls=[("look", {}), ("look", {"at": "the sky"})])]
    async with ChatApi(script) as api:
        answer = answer_in(await ask(OpenAIModel(settings(api)), tools=[LOOK]))
    assert [block["input"] for block in answer.content] == [{}, {"at": "the sky"}]
    assert answer.stop_reason == "tool_use"
    assert api.calls[0].body["tools"][0]["function"]["name"] == "look"


@pytest.mark.parametrize("refusal", [Refusal(retry_after=NOW), OVERLOADED])
async def test_a_busy_server_is_asked_again(refusal: Refusal) -> None:
    async with ChatApi([refusal, refusal, "Hello."]) as api:
        assert answer_in(await ask(OpenAIModel(settings(api))))
    assert api.totals.refused == 2


@pytest.mark.parametrize("accident", [{"breaks_after": 2}, {"fails_after": 2}])
async def test_a_stream_that_breaks_is_taken_back_and_begun_again(accident: Any) -> None:
    async with ChatApi([Answer(text="Hello there.", **accident), "Hi."]) as api:
        events = await ask(OpenAIModel(settings(api)))
    kinds = [type(event) for event in events]
    assert kinds == [TextDelta, AnswerBroken, TextDelta, Answered]


@pytest.mark.parametrize("frames", [0, 2])
async def test_a_stream_that_falls_silent_is_begun_again(frames: int) -> None:
    """And is told of, as it may have cost, though nothing was said."""
    async with ChatApi([Answer(text="Hello there.", stalls_after=frames), "Hi."]) as api:
        model = OpenAIModel(settings(api, silence_timeout=SILENCE / 2))
        events = await heard(model.stream(request()), silent=lambda _: api.calls)
    assert AnswerBroken in [type(event) for event in events]


async def test_what_must_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ChatApi(api_key="right") as api:
        with pytest.raises(ModelUnavailable, match=r"401.*check OPENAI_API_KEY"):
            await ask(OpenAIModel(settings(api, api_key="wrong")))
        with pytest.raises(ModelUnavailable, match="leave it out"):
            await ask(OpenAIModel(settings(api)), thinking=2048)
    with pytest.raises(ModelUnavailable, match=r"cannot be reached.*check OPENAI_BASE_URL"):
        await ask(OpenAIModel(settings(api)))
    with pytest.raises(ModelUnavailable, match="set OPENAI_API_KEY"):
        await ask(OpenAIModel(ModelSettings()))
    with forbid_real_model_calls(), pytest.raises(ModelUnavailable, match="forbid_real"):
        await ask(OpenAIModel(ModelSettings(api_key="x")))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelUnavailable, match=r"ray-agents\[openai\]"):
        await ask(OpenAIModel(ModelSettings(api_key="x")))


async def test_its_exchanges_can_be_recorded_too(tmp_path: Any) -> None:
    path = tmp_path / "chat.jsonl"
    async with ChatApi(["Hello."]) as api, Recording(path, upstream=api.url) as recording:
        one = await ask(OpenAIModel(ModelSettings(base_url=f"{recording.url}/v1")))
    async with Recording(path) as recording:
        two = await ask(OpenAIModel(ModelSettings(base_url=f"{recording.url}/v1")))
    assert answer_in(one) == answer_in(two)


# -- the loop over it --------------------------------------------------------------------------

registry = Registry()
CLERK = Address.parse("/clerk/a")


@tool
async def price(item: str) -> str:
    """What an item costs."""
    return {"tea": "3", "cake": "4"}[item]


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@registry.entity("clerk")
async def clerk(ctx: Context, wake: Wake) -> None:
    ctx.use_agent(model="openai:gpt-test", tools=[price, add])
    await ctx.agent.run()


def conversation(body: Body) -> Answer:
    """Asks for both prices at once, then adds them, then says the sum."""
    results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
    if not results:
        return Answer(calls=[("price", {"item": "tea"}), ("price", {"item": "cake"})])
    if len(results) == 2:
        return Answer(text="So: ", calls=[("add", {"a": int(results[0]), "b": int(results[1])})])
    return Answer(text=f"{results[-1]} in all.")


def runtime_on(api: ChatApi, store: Any, **options: Any) -> LocalRuntime:
    return LocalRuntime(store, model_for=chooser(ModelSettings(), openai=settings(api, **options)))


async def test_an_entity_converses_with_two_tools() -> None:
    async with ChatApi(conversation) as api, AsyncClient(runtime_on(api, "memory:")) as client:
        await client.register(registry)
        await client.spawn("/clerk/a")
        reply = await client.ask("/clerk/a", "Tea and cake?")
        again = await client.ask("/clerk/a", "Thanks.")
        await close_clients()
    assert (reply.text, again.text) == ("7 in all.", "7 in all.")
    assert [call.status for call in api.calls] == [200] * 4
    roles = [message["role"] for message in api.calls[3].body["messages"]]
    assert roles == "user assistant tool tool assistant tool assistant user".split()


async def test_a_run_that_a_crash_ended_goes_on(tmp_path: Any, wait_until: Any) -> None:
    def slow_end(body: Body) -> Answer:
        answer = conversation(body)
        return answer if answer.calls else Answer(text=answer.text, stalls_after=1)

    async with ChatApi(slow_end) as api:
        runtime = runtime_on(api, str(tmp_path))
        await runtime.__aenter__()
        await runtime.register(registry)
        await runtime.spawn(CLERK, SpawnRequest())
        await runtime.send(CLERK, SendRequest(payload="Tea and cake?"))
        await wait_until(lambda: api.totals.calls == 3)
        await runtime.crash()
        await close_clients()
    async with ChatApi(conversation) as api, runtime_on(api, str(tmp_path)):
        await wait_until(lambda: api.totals.whole == 1)
        await close_clients()
    assert [m["role"] for m in api.calls[0].body["messages"]][-2:] == ["assistant", "tool"]


def test_the_provider_is_chosen_by_the_models_name() -> None:
    model_for = chooser(ModelSettings())
    names = {"openai:gpt-5.5": "openai", "claude-x": "anthropic", "anthropic:claude-x": "anthropic"}
    for name, provider in names.items():
        assert model_for(AgentConfig(model=name)).provider == provider
