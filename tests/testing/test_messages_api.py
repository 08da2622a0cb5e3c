"""The stand-in server, as any HTTP client sees it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from anthropic import AsyncAnthropic, BadRequestError, OverloadedError, RateLimitError
from anthropic.types import MessageParam

from ray_agents.agent import AgentConfig
from ray_agents.demo import calculator
from ray_agents.loop import run_agent
from ray_agents.model import ModelSettings, Usage
from ray_agents.models.anthropic import AnthropicModel, close_clients
from ray_agents.testing.journal import MemoryJournal
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import OVERLOADED, Answer, Refusal

BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
KEY = {"x-api-key": "any"}

Sdk = Callable[[MessagesApi], AsyncAnthropic]
Wait = Callable[..., Awaitable[object]]


async def test_a_call_that_does_not_stream_gets_the_whole_message() -> None:
    async with MessagesApi(script=["Hello."]) as api, httpx.AsyncClient() as client:
        answer = (await client.post(f"{api.url}/v1/messages", json=BODY, headers=KEY)).json()
    assert answer["content"] == [{"type": "text", "text": "Hello."}]
    assert answer["usage"]["output_tokens"] > 0


async def test_a_stream_has_the_events_of_the_real_one_in_order() -> None:
    script = [Answer(thinking="hm", text="a b", calls=[("look", {"at": 1})])]
    body = BODY | {"stream": True}
    async with MessagesApi(script=script) as api, httpx.AsyncClient() as client:
        answer = await client.post(f"{api.url}/v1/messages", json=body, headers=KEY)
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data")]
    kinds = [frame["type"] for frame in frames]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_tokens_are_counted() -> None:
    async with MessagesApi() as api, httpx.AsyncClient() as client:
        url = f"{api.url}/v1/messages/count_tokens"
        assert (await client.post(url, json=BODY, headers=KEY)).json()["input_tokens"] > 0


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_a_missing_or_wrong_key_is_refused(headers: dict[str, str]) -> None:
    async with MessagesApi(api_key="right") as api, httpx.AsyncClient() as client:
        answer = await client.post(f"{api.url}/v1/messages", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_the_demo_agent_calculates_and_remembers() -> None:
    config = AgentConfig(tools=[calculator])
    async with MessagesApi() as api:
        model = AnthropicModel(ModelSettings(base_url=api.url))
        first = MemoryJournal("r1")
        one = await run_agent(first, config, model=model, input="What is 17 times 23?")
        second = MemoryJournal("r2", history=first.rows)
        two = await run_agent(second, config, model=model, input="Multiply that by 2.")
        await close_clients()
    assert (one.text, two.text) == ("17 * 23 is 391.", "391 * 2 is 782.")
    assert [call.status for call in api.calls] == [200] * 4


async def test_as_a_process_it_prints_its_address_first() -> None:
    command = ("-m", "ray_agents.testing.messages_api", "--port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{url}/v1/messages", json=BODY, headers=KEY)
        assert answer.status_code == 200
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
async def sdk() -> AsyncIterator[Sdk]:
    """The real SDK's own client for a server, without retries."""
    made: list[AsyncAnthropic] = []

    def client(api: MessagesApi) -> AsyncAnthropic:
        made.append(AsyncAnthropic(api_key="any", base_url=api.url, max_retries=0))
        return made[-1]

    yield client
    for each in made:
        await each.close()


async def ask(client: AsyncAnthropic, text: str = "hi", **options: Any) -> Any:
    message: MessageParam = {"role": "user", "content": text}
    create: Any = client.messages.create
    return await create(model="m", max_tokens=10, messages=[message], **options)


async def test_its_totals_are_what_it_charged(sdk: Sdk) -> None:
    usage = Usage(input_tokens=7, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2)
    script = [Answer(text="a", usage=usage), OVERLOADED, Answer(text="b", usage=usage)]
    async with MessagesApi(script=script) as api:
        client = sdk(api)
        await ask(client)
        with pytest.raises(OverloadedError):
            await ask(client)
        await ask(client)
        told = await client.get("/_totals", cast_to=object)
    totals = api.totals
    assert (totals.calls, totals.refused, totals.whole, totals.cut) == (3, 1, 2, 0)
    assert totals.tokens == usage + usage
    assert totals.as_json() == told
    assert [call.ended for call in api.calls] == ["whole", "refused", "whole"]


async def test_a_stream_that_was_cut_is_counted_apart(sdk: Sdk, wait_until: Wait) -> None:
    script = [Answer(text="a b", breaks_after=4), Answer(text="a b", stalls_after=4), "whole"]
    async with MessagesApi(script=script) as api:
        client = sdk(api)
        with pytest.raises(httpx2.HTTPError):
            async for _ in await ask(client, stream=True):
                pass
        async with await ask(client, stream=True) as stalled:
            await anext(stalled)
        await wait_until(lambda: api.totals.cut == 2)
        async for _ in await ask(client, stream=True):
            pass
        await wait_until(lambda: api.totals.at_once == 0)
    assert api.totals.whole == 1
    assert api.totals.tokens == api.calls[2].usage
    assert api.totals.tokens_cut == api.calls[0].usage + api.calls[1].usage


async def test_more_calls_at_once_than_allowed_are_refused(sdk: Sdk, wait_until: Wait) -> None:
    crowded = Refusal(retry_after=timedelta(seconds=3))
    script = [Answer(text="a", stalls_after=1), "b"]
    async with MessagesApi(script=script, concurrent_max=1, crowded=crowded) as api:
        client = sdk(api)
        async with await ask(client, stream=True):
            with pytest.raises(RateLimitError) as caught:
                await ask(client)
        await wait_until(lambda: api.totals.at_once == 0)
        assert (await ask(client)).content[0].type == "text"
    assert caught.value.response.headers["retry-after"] == "3"
    assert (api.totals.refused, api.totals.at_once_most) == (1, 1)


async def test_a_cached_prompt_is_read_by_the_next_call(sdk: Sdk) -> None:
    mark = {"type": "ephemeral"}
    async with MessagesApi(script=["a", "b"], cached_tokens_min=1) as api:
        first = (await ask(sdk(api), cache_control=mark)).usage
        second = (await ask(sdk(api), cache_control=mark)).usage
    assert first.cache_creation_input_tokens == second.cache_read_input_tokens
    assert (first.cache_read_input_tokens, second.cache_creation_input_tokens) == (0, 0)
    assert api.totals.tokens.cache_read_tokens == second.cache_read_input_tokens


async def test_a_count_is_what_a_call_is_charged(sdk: Sdk) -> None:
    async with MessagesApi(script=["a"]) as api:
        client = sdk(api)
        message: MessageParam = {"role": "user", "content": "hi"}
        counted = await client.messages.count_tokens(model="m", messages=[message])
        with pytest.raises(BadRequestError, match="alternate"):
            await client.messages.count_tokens(model="m", messages=[message, message])
        charged = (await ask(client)).usage
    assert counted.input_tokens == charged.input_tokens
    assert (api.totals.counts, api.totals.calls) == (1, 1)


async def test_words_come_at_the_chosen_rate_and_are_seen_when_written(sdk: Sdk) -> None:
    seen: list[float] = []
    clock = asyncio.get_running_loop().time
    delay = timedelta(milliseconds=2)

    def written(frame: dict[str, Any]) -> None:
        if frame["type"] == "content_block_delta":
            seen.append(clock())

    begun = clock()
    async with MessagesApi(script=["a " * 20], word_delay=delay, written=written) as api:
        async for _ in await ask(sdk(api), stream=True):
            pass
    assert len(seen) == 20
    assert seen[-1] - begun >= 20 * delay.total_seconds()
