"""What is written when a wake is given up: its runs end, and the ledger goes with their steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ray_agents.approvals import ApprovalRecorded
from ray_agents.cluster.deciding import approval_named, given_up
from ray_agents.cluster.interrupting import left_open
from ray_agents.errors import UnknownApproval
from ray_agents.events import Draft, Event, WakeRecorded, WakeStatus
from ray_agents.ledger import Spent
from ray_agents.log.history import History
from ray_agents.model import Answered, Usage
from ray_agents.projection import State
from ray_agents.runs import RunRecord
from ray_agents.views import ApprovalStatus

WAKE = WakeRecorded(
    key="wake-2",
    status=WakeStatus.PARKED,
    source="inbox",
    from_offset=1,
    to_offset=2,
    event_count=1,
    attempt=3,
    deaths=3,
    host="h",
    definition_version=1,
    timestamp=0,
)
ASKED = ApprovalRecorded(
    key="wake-2-run-1:s1:tool:0",
    status=ApprovalStatus.PENDING,
    run_id="wake-2-run-1",
    tool_call_id="toolu_1",
    tool_name="act",
    args={},
    requested_at=0,
    wake="wake-2",
)
SPENT = Spent(usage=Usage(input_tokens=7), unpriced=7)


def drafts_of(*rows: Draft) -> list[Draft]:
    history = History()
    history.extend([Event.at(2 + at, 0, row) for at, row in enumerate(rows)])
    return given_up([WAKE], State(spent=SPENT), history, now=5)


def test_a_model_call_that_nobody_saw_the_end_of_is_in_step_and_ledger() -> None:
    run = RunRecord("wake-2-run-1", [])
    begun = run.run_started("go", 1), *run.step_started(1, provider="p", model="m", now=2)
    written = drafts_of(*begun)
    assert [draft.type for draft in written] == ["step", "error", "run", "ledger", "wake"]
    ledger = Spent.of(Event.at(0, 0, written[-2]))
    assert ledger == SPENT + Spent(uncounted=1)
    assert Spent.in_row(Event.at(0, 0, written[2]).value) == Spent(uncounted=1)


def test_what_was_counted_before_is_not_counted_again() -> None:
    run = RunRecord("wake-2-run-1", [])
    begun = run.run_started("go", 1), *run.step_started(1, provider="p", model="m", now=2)
    written = drafts_of(*begun, run.usage_seen(1, Usage(input_tokens=7)))
    ledger = Spent.of(Event.at(0, 0, written[-2]))
    assert ledger == SPENT + Spent(uncounted=1)


def test_the_run_of_a_wake_whose_key_begins_alike_goes_on() -> None:
    begun = RunRecord("wake-23-run-1", []).run_started("go", 1)
    assert [draft.type for draft in drafts_of(begun)] == ["wake"]


@pytest.mark.parametrize("gives_up", [True, False])
def test_a_decision_that_is_still_being_written_stands(gives_up: bool) -> None:
    run, call = RunRecord("wake-2-run-1", []), {"type": "tool_use", "id": "toolu_1", "name": "act"}
    rows = [
        run.run_started("go", 1),
        *run.step_started(1, provider="p", model="m", now=2),
        run.step_completed(1, Answered(content=[call], stop_reason="tool_use"), 3),
        run.approval_put(ASKED),
    ]
    history = History()
    history.extend([Event.at(2 + at, 0, row) for at, row in enumerate(rows)])
    approved = ASKED.decided(ApprovalStatus.APPROVED, now=4)
    state = State(wakes={WAKE.key: WAKE}, approvals={ASKED.key: approved})
    services = SimpleNamespace(clock=SimpleNamespace(now=lambda: 5))
    owner = SimpleNamespace(history=history)
    entity: Any = SimpleNamespace(state=state, owner=owner, services=services)
    ended = given_up([WAKE], state, history, now=5) if gives_up else left_open(entity, WAKE)
    assert [draft.type for draft in ended if draft.key == ASKED.key] == ["tool_call"]
    assert "run" in {draft.type for draft in ended}


def test_without_an_open_run_nothing_is_written_but_the_end_of_the_wake() -> None:
    assert [draft.headers["status"] for draft in drafts_of()] == ["skipped"]


def test_nobody_decides_for_a_wake_that_had_ended_without() -> None:
    history = History()
    history.extend([Event.at(3, 0, ASKED.draft())])
    owner = SimpleNamespace(history=history)
    entity: Any = SimpleNamespace(state=State(), owner=owner, name="/a/b")
    with pytest.raises(UnknownApproval, match="'wake-2', in which it did, has ended"):
        approval_named("toolu_1", entity=entity)
