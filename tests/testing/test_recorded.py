"""Exchanges with the stand-in, recorded through the real SDK and replayed without it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.demo import calculator
from ray_agents.errors import AuthorError, ModelUnavailable
from ray_agents.loop import run_agent
from ray_agents.model import ModelSettings
from ray_agents.models.anthropic import AnthropicModel, close_clients
from ray_agents.models.permission import forbid_real_model_calls
from ray_agents.testing.journal import MemoryJournal
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.recorded import Recording, difference
from ray_agents.testing.script import OVERLOADED, Answer, Script

QUESTION = "What is 17 times 23?"
SCRIPT = [
    Answer(thinking="Hm.", calls=[("calculator", {"expression": "17 * 23"})]),
    OVERLOADED,
    "It is 391.",
]


@pytest.fixture(autouse=True)
async def _clients() -> AsyncIterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    await close_clients()


async def run(url: str, question: str = QUESTION) -> AgentRunResult:
    settings = ModelSettings(base_url=url, api_key="sk-secret", retry_delay=timedelta(0))
    config = AgentConfig(tools=[calculator], model="claude-test")
    model = AnthropicModel(settings)
    return await run_agent(MemoryJournal("r"), config, model=model, input=question)


async def record(path: Path, script: Script = tuple(SCRIPT)) -> AgentRunResult:
    async with MessagesApi(script=script) as api, Recording(path, upstream=api.url) as recording:
        return await run(recording.url)


async def test_a_recorded_run_is_replayed_without_the_server(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    recorded = await record(path)
    async with Recording(path) as recording:
        replayed = await run(recording.url)
    assert (recorded.text, recorded.usage) == (replayed.text, replayed.usage)
    assert len(path.read_text().splitlines()) == 3
    assert "sk-secret" not in path.read_text()


async def test_an_unknown_request_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    await record(path)
    async with Recording(path) as recording:
        with pytest.raises(ModelUnavailable, match=r"messages\.0\.content\.0\.text: .* became"):
            await run(recording.url, "Something else?")


async def test_a_request_is_not_answered_more_often_than_recorded(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    await record(path, ["Hello."])
    async with Recording(path) as recording:
        await run(recording.url)
        with pytest.raises(ModelUnavailable, match="1 times, and it was asked once more"):
            await run(recording.url)


async def test_a_recording_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(AuthorError, match="upstream="):
        await Recording(tmp_path / "none.jsonl").__aenter__()


async def test_recording_a_real_server_can_be_forbidden(tmp_path: Path) -> None:
    with (
        forbid_real_model_calls(),
        pytest.raises(ModelUnavailable, match="forbid_real_model_calls"),
    ):
        await Recording(tmp_path / "a", upstream="https://api.anthropic.com").__aenter__()


def test_where_two_requests_differ() -> None:
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a.1.b: 2 became 3"
    assert difference({"a": [1]}, {"a": [1, 2]}) == "a: 1 became 2 items"
    assert difference({}, {"a": "x"}) == 'a: null became "x"'
