"""The agent loop, deliberately broken in a process: each way is one that the trials must catch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_agents.cluster.session import RunJournal
from ray_agents.events import Draft, decode
from ray_agents.ledger import COST
from ray_agents.model import USAGE_FIELDS
from ray_agents.runs import VOIDED, RunRecord
from ray_agents.runwriting import RunWriter


def break_it(way: str) -> None:
    """Break this process's loop in the way of that name; an empty one leaves it whole."""
    if way:
        WAYS[way]()


def _about_to_execute(staged: list[Draft]) -> bool:
    calls = [
        decode(draft.text)["status"] for draft in staged if draft.type == "tool_call" and draft.text
    ]
    return bool(calls) and set(calls) == {"executing"}


def _tools_start_unrecorded() -> None:
    commit = RunWriter.commit

    async def lazy(self: Any) -> None:
        if not _about_to_execute(self._staged):
            await commit(self)

    RunWriter.commit = lazy


def _tools_start_before_their_step_is_recorded() -> None:
    commit = RunWriter.commit

    async def lazy(self: Any) -> None:
        held: list[Draft] = []
        if _about_to_execute(self._staged):
            held = [draft for draft in self._staged if draft.type == "step"]
            self._staged = [draft for draft in self._staged if draft.type != "step"]
        await commit(self)
        self._staged = held + self._staged

    RunWriter.commit = lazy


def _an_answered_call_is_made_again() -> None:
    recorded: Any = RunJournal.recorded

    def forgetful(self: Any) -> Any:
        rows = list(recorded(self))
        steps = [at for at, row in enumerate(rows) if row.type == "step"]
        answered = [at for at in steps if rows[at].value["status"] == "completed"]
        return rows[: answered[-1]] if answered else rows

    RunJournal.recorded = forgetful


def _every_interrupted_tool_runs_again() -> None:
    unanswered: Any = RunRecord.unanswered

    def rash(self: Any, number: int) -> Any:
        return [(key, block, None) for key, block, _ in unanswered(self, number)]

    RunRecord.unanswered = rash


def _broken_calls_cost_nothing() -> None:
    started: Any = RunRecord.step_started

    def forgetful(self: Any, number: Any, **facts: Any) -> Any:
        drafts = started(self, number, **facts)
        row = self.row("step", self.step_key(number))
        for name in (*USAGE_FIELDS, COST, VOIDED):
            row.pop(name, None)
        return [*drafts[:-1], self.put("step", self.step_key(number), row)]

    RunRecord.step_started = forgetful


WAYS: Mapping[str, Callable[[], None]] = {
    "tools start unrecorded": _tools_start_unrecorded,
    "tools start before their step is recorded": _tools_start_before_their_step_is_recorded,
    "an answered call is made again": _an_answered_call_is_made_again,
    "every interrupted tool runs again": _every_interrupted_tool_runs_again,
    "broken calls cost nothing": _broken_calls_cost_nothing,
}
