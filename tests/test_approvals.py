"""Calls that people must approve, in the loop alone: who waits, what runs, what the model reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ray_agents import schedule, wakes
from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.approvals import (
    ApprovalRecorded,
    AwaitsApproval,
    named,
    only_awaits,
    told,
    undecided,
)
from ray_agents.definition import Limits
from ray_agents.errors import AmbiguousApproval, ApprovalDecided, InvalidDefinition
from ray_agents.events import WAKE_HEADER, Event, WakeRecorded, WakeStatus
from ray_agents.loop import run_agent
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.projection import State
from ray_agents.runs import RunRecord
from ray_agents.testing.journal import Crashed, MemoryJournal
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED
from ray_agents.tools import tool
from ray_agents.views import ApprovalStatus

APPROVED, DENIED = ApprovalStatus.APPROVED, ApprovalStatus.DENIED
WAITS = ApprovalRecorded(
    key="wake-2-run-1:s1:tool:0",
    status=ApprovalStatus.PENDING,
    run_id="wake-2-run-1",
    tool_call_id="toolu_1",
    tool_name="delete",
    args={"path": "a"},
    requested_at=1_000,
    wake="wake-2",
)
WAKE = WakeRecorded(
    key="wake-2",
    status=WakeStatus.STARTED,
    source="inbox",
    from_offset=1,
    to_offset=2,
    event_count=1,
    attempt=2,
    deaths=1,
    host="h",
    definition_version=1,
    timestamp=0,
)
AGAIN = wakes.Attempt(host="i", definition_version=7, now=5)


class World:
    """What is outside of the log, over all attempts at one run."""

    def __init__(self, *calls: tuple[str, dict[str, Any]], **limits: Any) -> None:
        self.done: Counter[str] = Counter()
        self.rows: list[Event] = []
        self.told: list[str] = []
        self._calls = calls
        guarded = tool(approval="required")(self.delete)
        self.config = AgentConfig(tools=[guarded, tool(self.look)], **limits)

    async def delete(self, path: str) -> str:
        """Delete."""
        self.done[path] += 1
        return f"deleted {path}"

    async def look(self) -> str:
        """Look."""
        self.done["look"] += 1
        return "looked"

    def _answer(self, request: Any) -> Any:
        check_messages(list(request.messages))
        if len(request.messages) == 1:
            return Says(calls=self._calls)
        self.told = [block["content"] for block in request.messages[-1]["content"]]
        return "Done."

    async def attempt(self, **options: Any) -> AgentRunResult | None:
        """Run or go on; None if it waits, or died."""
        options.setdefault("began", 1 + 1_000_000 * (1 + len(self.rows)))
        journal = MemoryJournal(recorded=self.rows, **options)
        try:
            model = FunctionModel(self._answer)
            return await run_agent(journal, self.config, model=model, input="go")
        except (AwaitsApproval, Crashed):
            return None
        finally:
            self.rows = journal.rows_kept(posts_lost=True)

    @property
    def approvals(self) -> dict[str, ApprovalRecorded]:
        rows = [ApprovalRecorded.of(e) for e in self.rows if e.type == "approval"]
        return {row.key: row for row in rows}

    def decide(self, status: ApprovalStatus, *, now: int = 10, **why: Any) -> None:
        """Decide on all that waits."""
        for each in self.approvals.values():
            if each.pending:
                draft = each.decided(status, now=now, **why).draft()
                self.rows.append(Event.at(1 + self.rows[-1].offset, 0, draft))


LOOK: tuple[str, dict[str, Any]] = ("look", {})
DELETE: tuple[str, dict[str, Any]] = ("delete", {"path": "a"})


async def test_what_needs_no_approval_is_run_before_the_run_waits() -> None:
    world = World(LOOK, DELETE)
    assert await world.attempt() is None
    assert world.done == {"look": 1}
    (asked,) = world.approvals.values()
    assert (asked.pending, asked.tool_name, asked.args) == (True, "delete", {"path": "a"})
    assert await world.attempt() is None  # nobody has decided: it asks nobody twice
    assert len([row for row in world.rows if row.type == "approval"]) == 1


async def test_no_call_of_a_step_that_was_asked_for_runs_before_all_are_decided_on() -> None:
    world = World(DELETE, ("delete", {"path": "b"}))
    await world.attempt()
    first = next(iter(world.approvals.values())).decided(APPROVED, now=10).draft()
    world.rows.append(Event.at(1 + world.rows[-1].offset, 0, first))
    assert await world.attempt() is None
    assert world.done == {}


@pytest.mark.parametrize("status", sorted({*ApprovalStatus} - {APPROVED, ApprovalStatus.PENDING}))
async def test_nothing_runs_that_was_not_approved(status: ApprovalStatus) -> None:
    world = World(DELETE)
    await world.attempt()
    world.decide(status)
    assert await world.attempt() is not None
    assert world.done == {}
    assert world.told[0].startswith("Not run: ")


async def test_approved_calls_are_run_and_denied_ones_explained() -> None:
    for status, said in ((APPROVED, "deleted a"), (DENIED, "denied. The reason given: no")):
        world = World(DELETE, LOOK)
        await world.attempt()
        world.decide(status, reason="no")
        assert await world.attempt() is not None
        assert said in world.told[0]
        assert world.told[1] == "looked"


@pytest.mark.parametrize("acknowledged_lost", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("attempt", [0, 1], ids=["before it waits", "after it was approved"])
async def test_a_crash_at_any_append_asks_once_and_runs_once(
    attempt: int, at: int, acknowledged_lost: bool
) -> None:
    world, result = World(DELETE, LOOK), None
    for number in range(4):
        if number == attempt:
            result = await world.attempt(crash_at=at, acknowledged_lost=acknowledged_lost)
        else:
            result = await world.attempt()
        world.decide(APPROVED)
    assert result is not None
    assert [each.status for each in world.approvals.values()] == [APPROVED]
    assert world.done["a"] <= 1
    deleted = result.tool_calls[0]
    assert deleted.error == INTERRUPTED if deleted.result is None else world.done["a"] == 1


async def test_a_run_that_stops_meanwhile_withdraws_what_it_asked() -> None:
    world = World(DELETE)
    await world.attempt()
    world.config = AgentConfig(tools=world.config.tools, tokens_max=1)
    result = await world.attempt()
    assert result is not None
    assert result.stop_reason == "tokens_max"
    assert [each.status for each in world.approvals.values()] == [ApprovalStatus.WITHDRAWN]


async def test_a_call_of_a_tool_that_is_gone_is_withdrawn() -> None:
    world = World(DELETE)
    await world.attempt()
    world.config = AgentConfig(tools=[tool(world.look)])
    assert await world.attempt() is not None
    assert [each.status for each in world.approvals.values()] == [ApprovalStatus.WITHDRAWN]
    assert world.told == ["There is no tool 'delete'; there are: look."]


async def test_time_that_people_take_is_not_the_runs() -> None:
    world = World(DELETE, time_max=timedelta(seconds=10))
    await world.attempt()
    (asked,) = world.approvals.values()
    hour = 3_600_000_000
    world.decide(APPROVED, now=asked.requested_at + hour)
    result = await world.attempt(began=asked.requested_at + hour)
    assert result is not None
    assert (result.text, result.stop_reason) == ("Done.", "end_turn")


def test_waiting_side_by_side_is_waited_once() -> None:
    def span(number: int, first: int, last: int | None) -> Event:
        key = f"r:s{number // 10}:tool:{number % 10}"
        status = APPROVED if last else ApprovalStatus.PENDING
        row = replace(WAITS, key=key, status=status, requested_at=first, decided_at=last)
        return Event.at(number, 0, row.draft())

    recorded = [span(10, 100, 200), span(11, 100, 300), span(20, 500, 550), span(30, 600, None)]
    assert RunRecord("r", recorded).awaited == 250
    inside = [span(40, 150, 350), span(50, 400, 450), span(60, 410, 420)]
    assert RunRecord("r", [*recorded, *inside]).awaited == 350


def test_a_row_is_read_back_as_it_was_written() -> None:
    draft = replace(WAITS, expires_at=7, by="ann").draft()
    assert draft.headers == {"status": "pending", WAKE_HEADER: "wake-2"}
    assert ApprovalRecorded.of(Event.at(1, 0, draft)) == replace(WAITS, expires_at=7, by="ann")


def test_the_first_decision_stands() -> None:
    decided = WAITS.decided(DENIED, now=5, reason="no")
    assert (decided.decided_at, decided.reason) == (5, "no")
    assert decided.decided(DENIED, now=6, reason="never") is decided
    with pytest.raises(ApprovalDecided, match="'toolu_1' of 'delete' was denied already") as caught:
        decided.decided(APPROVED, now=6)
    assert caught.value.facts["status"] == "denied"


@pytest.mark.parametrize(
    ("status", "by", "words"),
    [
        (APPROVED, "ann", "was approved by ann already; the first decision stands"),
        (ApprovalStatus.WITHDRAWN, None, "was withdrawn, for its run was interrupted"),
        (ApprovalStatus.EXPIRED, None, "has expired: nobody decided"),
    ],
)
def test_why_no_other_decision_can_be_made_is_told(
    status: ApprovalStatus, by: str | None, words: str
) -> None:
    with pytest.raises(ApprovalDecided, match=words):
        WAITS.decided(status, now=5, by=by).decided(DENIED, now=6)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (DENIED, "too much", "Not run: this call was denied. The reason given: too much"),
        (ApprovalStatus.EXPIRED, None, "Not run: nobody approved this call in time."),
        (ApprovalStatus.WITHDRAWN, None, "Not run: this call was withdrawn, for its run was "),
    ],
)
def test_a_model_is_told_why_a_call_was_not_run(
    status: ApprovalStatus, reason: str | None, words: str
) -> None:
    assert told(WAITS.decided(status, now=5, reason=reason)).startswith(words)


def test_a_call_is_named_by_its_key_or_by_an_id_that_no_other_has() -> None:
    old = replace(WAITS, key="older", tool_call_id="toolu_0", status=DENIED)
    assert named([old, WAITS], "toolu_1") is WAITS
    assert named([old, WAITS], "older") is old
    assert named([WAITS], "other") is None
    assert named([replace(old, tool_call_id=WAITS.key), WAITS], WAITS.key) is WAITS


@pytest.mark.parametrize("status", [APPROVED, ApprovalStatus.PENDING])
def test_an_id_that_comes_twice_names_nothing(status: ApprovalStatus) -> None:
    old = replace(WAITS, key="older", status=status)
    with pytest.raises(AmbiguousApproval, match=f"older, {status.value}") as caught:
        named([old, WAITS], "toolu_1")
    assert caught.value.facts["keys"] == ["older", WAITS.key]
    assert named([old, WAITS], WAITS.key) is WAITS


def test_no_end_of_a_run_takes_the_place_of_a_decision() -> None:
    ends = [WAITS.decided(ApprovalStatus.WITHDRAWN, now=2_000).draft()]
    assert list(undecided(ends, {WAITS.key: WAITS})) == ends
    assert not list(undecided(ends, {WAITS.key: WAITS.decided(APPROVED, now=1_500)}))


def test_a_group_of_tasks_may_wait_and_nothing_else() -> None:
    waits, fails = AwaitsApproval("w"), ValueError("f")
    assert only_awaits(waits)
    assert only_awaits(BaseExceptionGroup("g", [waits, BaseExceptionGroup("h", [waits])]))
    assert not only_awaits(BaseExceptionGroup("g", [waits, fails]))
    assert not only_awaits(fails)


def test_a_wake_that_waits_is_not_ready_and_goes_on_with_its_attempt() -> None:
    waiting = wakes.waiting(WAKE, now=3)
    state = State(wakes={"wake-2": waiting}, approvals={"k": WAITS})
    assert (wakes.ready(state), wakes.due(state), state.unfinished) == (False, False, False)
    state.approvals["k"] = WAITS.decided(APPROVED, now=4)
    assert wakes.ready(state)
    begun = wakes.again(waiting, AGAIN, Limits())
    assert (begun.status, begun.attempt, begun.deaths) == (WakeStatus.STARTED, 2, 1)
    assert (begun.host, begun.definition_version) == ("i", 1)


def test_an_approval_that_is_bounded_is_due_when_it_expires() -> None:
    bounded = replace(WAITS, expires_at=9)
    state = State(approvals={"k": bounded, "l": WAITS})
    assert schedule.expiries(state) == [9]
    assert schedule.expired(state, now=8) == []
    assert schedule.expired(state, now=9) == [bounded.decided(ApprovalStatus.EXPIRED, now=9)]


@pytest.mark.parametrize(
    "options",
    [
        {"approval": "perhaps"},
        {"approval_timeout": timedelta(1)},
        {"approval": "required", "approval_timeout": timedelta(0)},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidDefinition, match="approval"):
        tool(**options)(World().look)
