"""A run that dies at any append goes on from there: nothing paid twice, nothing done twice."""

from collections import Counter
from typing import Any

import pytest

from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.events import Event, Operation
from ray_agents.loop import run_agent
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import FunctionModel, Says, ScriptedModel
from ray_agents.runs import RunRecord
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED
from ray_agents.tools import tool

ANSWERS = [
    Says(reasoning="Two things.", text="Wait. ", calls=[("send", {"to": "a"}), ("read", {})]),
    Says(text="More. ", calls=[("read", {}), ("send", {"to": "b"}), ("send", {"to": "c"})]),
    "All done.",
]
APPENDS_MAX = 18  # of this run, when nothing goes wrong; the first test checks it


class World:
    """What is outside of the log: counts what was really done, over all attempts."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.asked: Counter[int] = Counter()
        self.recorded = 0
        self.config = AgentConfig(tools=[tool(self.send), tool(idempotent=True)(self.read)])

    async def send(self, to: str) -> str:
        """Send something; not to be repeated."""
        self.done[to] += 1
        return f"sent to {to}"

    def read(self) -> str:
        """Read something."""
        self.done["read"] += 1
        return "read"

    def answer(self, request: ModelRequest) -> Any:
        check_messages(list(request.messages))
        at = sum(message["role"] == "assistant" for message in request.messages)
        assert at >= self.recorded, "a recorded answer was asked for again"
        self.asked[at] += 1
        return ANSWERS[at]

    async def attempt(self, rows: list[Event], **crash: Any) -> tuple[Any, MemoryJournal]:
        journal = MemoryJournal(recorded=rows, **crash)
        self.recorded = RunRecord("run-1", rows).steps_completed
        model = FunctionModel(self.answer)
        try:
            return await run_agent(journal, self.config, model=model, input="go"), journal
        except Crashed:
            return None, journal


async def finish(world: World, rows: list[Event]) -> tuple[AgentRunResult, list[Event]]:
    result, journal = await world.attempt(rows)
    assert result is not None
    assert (result.text, result.steps, len(result.tool_calls)) == ("All done.", 3, 5)
    return result, journal.rows


def check(world: World, result: AgentRunResult, rows: list[Event]) -> None:
    """Nothing was done twice, what was not done is told, and the log shows each text once."""
    for call in result.tool_calls:
        if call.tool_name == "send":
            done = world.done[call.args["to"]]
            assert done == 1 if call.error is None else done <= 1
            assert call.error in (None, INTERRUPTED)
    assert spoken(rows) == ["Two things.", "Wait. ", "More. ", "All done."]


def spoken(rows: list[Event]) -> list[str]:
    """What an observer has of the reasoning and text, who takes back what was deleted."""
    live: dict[str, str] = {}
    for event in rows:
        if event.type in ("text_delta", "reasoning_delta"):
            if event.operation is Operation.DELETE:
                del live[event.key]
            else:
                assert event.key not in live, "inserted twice"
                live[event.key] = event.value["delta"]
    joined: dict[str, str] = {}
    for key, delta in live.items():
        joined[key.rpartition(":")[0]] = joined.get(key.rpartition(":")[0], "") + delta
    return list(joined.values())


async def test_a_step_that_died_and_is_not_begun_again_is_ended_with_its_run() -> None:
    crashed = MemoryJournal(crash_at=2)
    with pytest.raises(Crashed):
        await run_agent(crashed, AgentConfig(), model=ScriptedModel(["Well."]), input="hi")
    kept = crashed.rows_kept(posts_lost=False)
    journal = MemoryJournal(recorded=kept, used_up=True)
    await run_agent(journal, AgentConfig(), model=ScriptedModel([]), input="hi")
    last = [event.value for event in journal.rows if event.type == "step"][-1]
    assert (last["status"], last["finish_reason"], last["uncounted"]) == ("failed", "budget", 1)


async def test_without_a_crash_everything_happens_once() -> None:
    world = World()
    result, rows = await finish(world, [])
    check(world, result, rows)
    assert world.asked == {0: 1, 1: 1, 2: 1}
    assert world.done == {"a": 1, "b": 1, "c": 1, "read": 2}
    assert (await world.attempt([]))[1].appends <= APPENDS_MAX


@pytest.mark.parametrize("posts_lost", [False, True])
@pytest.mark.parametrize("acknowledged_lost", [False, True])
@pytest.mark.parametrize("at", range(1, APPENDS_MAX + 1))
async def test_a_crash_at_any_append_repeats_nothing(
    at: int, acknowledged_lost: bool, posts_lost: bool
) -> None:
    world = World()
    _, journal = await world.attempt([], crash_at=at, acknowledged_lost=acknowledged_lost)
    result, rows = await finish(world, journal.rows_kept(posts_lost=posts_lost))
    check(world, result, rows)
    assert sum(world.asked.values()) <= len(ANSWERS) + 1


@pytest.mark.parametrize("acknowledged_lost", [False, True])
@pytest.mark.parametrize("at", range(2, APPENDS_MAX))
async def test_a_run_that_dies_again_and_again_still_ends(at: int, acknowledged_lost: bool) -> None:
    world = World()
    rows: list[Event] = []
    for _ in range(5):
        crash = {"crash_at": at, "acknowledged_lost": acknowledged_lost}
        result, journal = await world.attempt(rows, **crash)
        rows = journal.rows_kept(posts_lost=True)
        if result is not None:
            break
    result, rows = await finish(world, rows)
    check(world, result, rows)


@pytest.mark.parametrize("kept", range(40))
async def test_a_log_cut_at_any_row_can_be_gone_on_with(kept: int) -> None:
    _, whole = await finish(World(), [])
    result, rows = await finish(World(), whole[:kept])
    assert spoken(rows) == spoken(whole)
    assert {call.error for call in result.tool_calls} <= {None, INTERRUPTED}
