"""Progress of a tool: heard at once, then at a bounded rate, the last word too, none afterwards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.agent import AgentConfig
from ray_agents.errors import AuthorError, Fenced, InvalidPayload
from ray_agents.events import Draft
from ray_agents.loop import run_agent
from ray_agents.models.scripted import ScriptedModel
from ray_agents.progress import WORDS_CHARS_MAX, Channel, ToolProgress
from ray_agents.testing.journal import MemoryJournal
from ray_agents.tools import tool
from tests.cluster.conftest import turn_until

LONG = timedelta(hours=1)
say = ToolProgress()


class Posts:
    """Keeps what is posted."""

    def __init__(self, **options: Any) -> None:
        self.said: list[str] = []
        self.channel = Channel(self, "c", {"tool_name": "t"}, **options)

    def __call__(self, drafts: Sequence[Draft]) -> None:
        self.said += [_words(draft) for draft in drafts]


def _words(draft: Draft) -> str:
    return draft.text.partition('"message":"')[2].partition('"')[0]


async def test_the_first_word_is_heard_at_once_and_the_last_at_the_end() -> None:
    posts = Posts(interval=LONG)
    with posts.channel.listening():
        for number in range(100):
            say(f"{number}")
        assert posts.said == ["0"]
    assert posts.said == ["0", "99"]


async def test_between_them_the_newest_is_heard_at_every_interval() -> None:
    posts = Posts(interval=timedelta(milliseconds=1))
    with posts.channel.listening():
        say("a")
        say("b")
        say("c")
        await turn_until(lambda: len(posts.said) == 2)
    assert posts.said == ["a", "c"]


async def test_a_thread_may_speak() -> None:
    posts = Posts(interval=LONG)
    with posts.channel.listening():
        await asyncio.to_thread(say, "from a thread")
        await turn_until(lambda: posts.said)
    assert posts.said == ["from a thread"]


async def test_what_is_said_after_the_end_is_not_heard() -> None:
    posts = Posts(interval=LONG)
    with posts.channel.listening():
        late = asyncio.create_task(asyncio.sleep(0))
        late.add_done_callback(lambda _: say("late"))
    await late
    assert posts.said == []


async def test_where_no_tool_runs_there_is_nothing_to_tell() -> None:
    with pytest.raises(AuthorError, match="while a tool runs"):
        say("hello?")


async def test_a_log_that_refuses_ends_the_tool() -> None:
    def refuse(_: Sequence[Draft]) -> None:
        raise Fenced("gone")

    channel = Channel(refuse, "c", {})
    with pytest.raises(Fenced), channel.listening():
        say("x")


async def test_what_no_log_can_say_is_refused_where_it_is_said() -> None:
    posts = Posts(interval=LONG)
    with posts.channel.listening():
        await asyncio.to_thread(say, "first")
        for words, done in (("x", math.nan), ("\ud800", 1.0)):
            with pytest.raises(InvalidPayload, match="tool_progress"):
                await asyncio.to_thread(say, words, done=done)
            with pytest.raises(InvalidPayload, match="tool_progress"):
                say(words, done=done)
        say("last")
    assert posts.said == ["first", "last"]


async def test_a_tool_in_a_run_tells_its_progress_by_its_call() -> None:
    @tool
    def load(size: int, progress: ToolProgress) -> str:
        """Load, in a thread."""
        progress("x" * 1_000, done=1, total=size)
        return "loaded"

    journal = MemoryJournal()
    model = ScriptedModel([("", [("load", {"size": 3})]), "Done."])
    result = await run_agent(journal, AgentConfig(tools=[load]), model=model, input="go")
    (row,) = [event for event in journal.rows if event.type == "tool_progress"]
    assert row.key == "run-1:s1:tool:0:progress"
    told = {name: row.value[name] for name in ("run_id", "tool_name", "done", "total")}
    assert told == {"run_id": "run-1", "tool_name": "load", "done": 1, "total": 3}
    assert len(row.value["message"]) == WORDS_CHARS_MAX
    assert result.tool_calls[0].result == "loaded"
