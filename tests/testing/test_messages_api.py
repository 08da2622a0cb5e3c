"""The stand-in server, as any HTTP client sees it."""

import asyncio
import json
import sys

import httpx
import pytest

from ray_agents.agent import AgentConfig
from ray_agents.demo import calculator
from ray_agents.loop import run_agent
from ray_agents.model import ModelSettings
from ray_agents.models.anthropic import AnthropicModel, close_clients
from ray_agents.testing.journal import MemoryJournal
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer

BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
KEY = {"x-api-key": "any"}


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
