"""What an interrupt cuts short, and the rows that end a run which nobody goes on with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from ray_agents import toolruns
from ray_agents.agent import AgentConfig
from ray_agents.contextplan import plan_of
from ray_agents.events import Draft, Event
from ray_agents.interruption import CANCELLED, LEFT_RUNNING, Interruption, InterruptReceived
from ray_agents.loop import run_agent
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.prompting import Prompting
from ray_agents.runends import LOST, STOPPED, End, ended_runs, unbegun, waited
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED as DIED
from ray_agents.timeline import Timeline
from ray_agents.tools import tool
from tests.cluster import gates


@tool
async def look() -> str:
    """Look."""
    return "seen"


async def interrupted_in_a_tool() -> MemoryJournal:
    """A run that was stopped while one of two tools ran."""
    begun = asyncio.Event()

    @tool
    async def hang() -> None:
        """Hang."""
        begun.set()
        await asyncio.Event().wait()

    journal = MemoryJournal()
    model = FunctionModel(lambda _: Says(text="Well.", calls=[("look", {}), ("hang", {})]))
    agent = AgentConfig(tools=[hang, look])
    running = asyncio.create_task(run_agent(journal, agent, model=model, input="go"))
    await begun.wait()
    journal.interruption.set()
    assert (await running).stop_reason == "interrupted"
    return journal


async def test_the_run_ends_with_a_result_for_each_call() -> None:
    journal = await interrupted_in_a_tool()
    messages = Timeline(journal.rows).messages()
    check_messages(messages)
    assert [block["content"] for block in messages[-1]["content"]] == ["seen", CANCELLED]


async def told_of_hanging_calls(journal: MemoryJournal, *tools: Any) -> list[str]:
    """What is told of the calls of these tools when an interrupt has come in their midst."""
    model = FunctionModel(lambda _: Says(calls=[(each.name, {}) for each in tools]))
    agent = AgentConfig(tools=list({each.name: each for each in tools}.values()))
    running = asyncio.create_task(run_agent(journal, agent, model=model, input="go"))
    loops.append(asyncio.get_running_loop())
    await gates.reached["hanging"].wait()
    journal.interruption.set()
    await running
    return [block["content"] for block in Timeline(journal.rows).messages()[-1]["content"]]


loops: list[asyncio.AbstractEventLoop] = []


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    gates.reset()
    yield
    gates.threads["released"].set()


@tool
async def hang_on() -> None:
    """Hang."""
    gates.reached["hanging"].set()
    await asyncio.Event().wait()


@tool
def block() -> None:
    """Hang in a thread."""
    loops[-1].call_soon_threadsafe(gates.reached["hanging"].set)
    gates.threads["released"].wait(10)


class NoThread(MemoryJournal):
    """One of a host whose threads are all at work."""

    def in_thread(self, work: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


async def test_a_call_that_waited_behind_others_is_told_as_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toolruns, "TOOLS_PARALLEL_MAX", 1)
    told = await told_of_hanging_calls(MemoryJournal(), hang_on, hang_on)
    assert told == [CANCELLED, unbegun("interrupted")]


async def test_so_is_one_that_had_no_thread_yet() -> None:
    assert await told_of_hanging_calls(NoThread(), block, hang_on) == [
        unbegun("interrupted"),
        CANCELLED,
    ]


async def test_one_in_a_thread_is_told_as_left_running() -> None:
    assert await told_of_hanging_calls(MemoryJournal(), block) == [LEFT_RUNNING]


@pytest.mark.parametrize(
    ("status", "told"),
    [(None, unbegun("interrupted")), ("executing", DIED), ("awaiting", waited("interrupted"))],
)
async def test_what_an_attempt_before_has_left_is_told_as_it_was(
    status: str | None, told: str
) -> None:
    call: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "hang_on", "input": {}}
    journal = MemoryJournal(recorded=left_by_an_attempt(call, status))
    journal.interruption.set()
    model = FunctionModel(lambda _: pytest.fail("it was asked"))
    await run_agent(journal, AgentConfig(tools=[hang_on]), model=model, input=None)
    [answer] = [row.value for row in journal.rows if row.type == "tool_call"][-1:]
    assert (answer["status"], answer["error"]) == ("failed", told)


def left_by_an_attempt(call: dict[str, Any], status: str | None) -> list[Event]:
    """The rows of a run whose only tool call has come as far as that."""
    said: dict[str, Any] = {"status": "completed", "finish_reason": "tool_use", "content": [call]}
    drafts = [
        Draft.of("run", "run-1", value={"status": "started", "input": None, "started_at": 0}),
        Draft.of("step", "run-1:s1", value=said),
    ]
    if status is not None:
        drafts.append(Draft.of("tool_call", "run-1:s1:tool:0", value={"status": status}))
    return [Event.at(number, 0, draft) for number, draft in enumerate(drafts)]


async def test_a_run_that_begins_in_an_interrupted_wake_asks_nobody() -> None:
    journal = MemoryJournal()
    journal.interruption.set()
    model = FunctionModel(lambda _: pytest.fail("it was asked"))
    result = await run_agent(journal, AgentConfig(), model=model, input="go")
    assert (result.stop_reason, result.steps, result.text) == ("interrupted", 0, "")


async def test_a_source_is_waited_for_no_longer_than_until_an_interrupt() -> None:
    journal, begun = MemoryJournal(), asyncio.Event()

    async def never() -> str:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("it has ended")

    model, config = FunctionModel(lambda _: pytest.fail("it was asked")), AgentConfig()
    prompting = Prompting(config, model, plan=plan_of(100, {"slow": {"content": never}}))
    running = asyncio.create_task(
        run_agent(journal, config, model=model, input="go", prompting=prompting)
    )
    await begun.wait()
    journal.interruption.set()
    async with asyncio.timeout(10):
        result = await running
    assert (result.stop_reason, result.steps, result.text) == ("interrupted", 0, "")


async def test_a_step_that_a_dead_owner_left_begun_is_ended_with_its_run() -> None:
    journal = MemoryJournal(crash_at=3)
    model = FunctionModel(lambda _: "Well, let me see.")
    with pytest.raises(Crashed):
        await run_agent(journal, AgentConfig(), model=model, input="go")
    again = MemoryJournal(recorded=journal.rows)
    again.interruption.set()
    result = await run_agent(again, AgentConfig(), model=model, input="go")
    steps = [event.value for event in again.rows if event.type == "step"]
    assert (steps[-1]["status"], steps[-1]["finish_reason"]) == ("failed", "interrupted")
    assert result.uncounted == 1
    assert again.rows[-1].type == "run"


@pytest.mark.parametrize("end", [STOPPED, End.of("nobody goes on with it")])
async def test_any_prefix_of_a_run_can_be_ended_by_who_finds_it(end: End) -> None:
    journal = await interrupted_in_a_tool()
    for length in range(len(journal.rows) + 1):
        rows = journal.rows[:length]
        for draft in ended_runs(rows, end, now=2_000_000):
            rows = [*rows, Event.at(len(rows), 0, draft)]
        newest = {(row.type, row.key): row for row in rows if row.text}
        left = [row for row in newest.values() if row.value.get("status") in OPEN]
        assert not [row for row in left if row.type in ("run", "step")]
        assert ended_runs(rows, end, now=2_000_000) == []
        if messages := Timeline(rows).messages():
            check_messages(messages, ends_with_user=False)


OPEN = ("started", "executing")


@pytest.mark.parametrize(
    ("status", "error"),
    [(None, unbegun("interrupted")), ("executing", LOST), ("awaiting", waited("interrupted"))],
)
def test_a_tool_call_is_told_as_far_as_it_had_come_when_all_was_lost(
    status: str | None, error: str
) -> None:
    call: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "hang", "input": {}}
    ended = ended_runs(left_by_an_attempt(call, status), STOPPED, now=5)
    told = [Event.at(0, 0, draft).value for draft in ended]
    assert [(row["status"], row.get("error")) for row in told] == [
        ("failed", error),
        ("completed", None),
    ]


def test_a_run_that_has_ended_is_left_alone() -> None:
    ended = Draft.of("run", "r", value={"status": "failed", "finish_reason": "error"})
    assert ended_runs([Event.at(0, 0, ended)], STOPPED, now=5) == []


@pytest.mark.parametrize("early", [True, False])
async def test_it_cuts_what_is_entered_before_it_and_after_it(early: bool) -> None:
    interruption = Interruption()

    async def wait() -> None:
        async with asyncio.timeout(None) as scope:
            with interruption.cuts(scope):
                await asyncio.Event().wait()

    if early:
        interruption.set()
    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    interruption.set()
    with pytest.raises(TimeoutError):
        await waiting


async def test_it_never_gives_more_time_than_there_was() -> None:
    interruption = Interruption()
    async with asyncio.timeout(60) as scope:
        with interruption.cuts(scope, after=3600):
            before = scope.when()
            interruption.set()
            await asyncio.sleep(0)
            assert scope.when() == before


def test_the_row_is_read_back() -> None:
    row = InterruptReceived(key="s", wake="w", reason="enough", sender="/a/b", timestamp=5)
    assert InterruptReceived.of(Event.at(3, 0, row.draft())) == row
