"""Goals: what an entity works towards over many wakes, and how many tokens that may take.

An entity has one goal at most: a row of the collection ``manifests`` (key ``goal``), with the
fields and the meanings of upstream's goals (``packages/agents-runtime/src/goal-api.ts`` in
electric-sql/electric). It counts what the entity's runs use while it is active, and nothing has to
be written for that: the row says what had been used, and what the ledger stood at, when it was
written, so what is used now follows from the ledger, in which each step is or is not, whole.

When the budget is used up, a run ends before its next model call with the stop reason
``goal_budget``, and later ones before their first; the goal's status is then ``budget_limited``.
To go on, set the same objective with more tokens, or clear the goal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ray_agents.effects import Effects
from ray_agents.errors import InvalidPayload
from ray_agents.events import JSON, Draft, Operation, decode
from ray_agents.projection import MANIFEST_TYPE, State

TOKEN_BUDGET = 50_000
OBJECTIVE_CHARS_MAX = 10_000
GOAL_KEY = "goal"


class GoalStatus(StrEnum):
    """``active`` and ``complete`` are set; ``budget_limited`` follows from the tokens used."""

    ACTIVE = "active"
    BUDGET_LIMITED = "budget_limited"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A goal as it is now. ``token_budget`` is None for no bound; times are microseconds, UTC."""

    objective: str
    status: GoalStatus
    token_budget: int | None
    tokens_used: int
    summary: str | None
    created_at: int
    updated_at: int

    @property
    def is_used_up(self) -> bool:
        """Whether runs end for it."""
        return self.status is GoalStatus.BUDGET_LIMITED


class GoalSession(Protocol):
    """What goals need of a session (``context.Session``)."""

    state: State
    effects: Effects

    def now(self) -> int:
        """Microseconds since the epoch."""
        ...


class Goals:
    """The goal of one entity, as one attempt at a wake sees and changes it."""

    def __init__(self, session: GoalSession) -> None:
        self._session = session

    def get(self) -> Goal | None:
        """The goal; None if there is none."""
        return goal_in(self._session.effects.row(MANIFEST_TYPE, GOAL_KEY), self._session.state)

    def set(self, objective: str, token_budget: int | None) -> Goal:
        """Set it; see :meth:`GoalVerbs.set_goal`."""
        if not 0 < len(objective) <= OBJECTIVE_CHARS_MAX:
            message = f"a goal's objective has 1 to {OBJECTIVE_CHARS_MAX} characters"
            raise InvalidPayload(message, field="objective")
        if token_budget is not None and token_budget < 1:
            message = f"token_budget={token_budget!r}: at least 1, or None for no bound"
            raise InvalidPayload(message, field="token_budget")
        before = self.get()
        same = before if before is not None and before.objective == objective else None
        row: dict[str, Any] = {
            "objective": objective,
            "status": GoalStatus.ACTIVE.value,
            "token_budget": token_budget,
            "tokens_used": same.tokens_used if same else 0,
            "created_at": same.created_at if same else self._session.now(),
        }
        return self._write(row, content=["set", objective, token_budget])

    def complete(self, summary: str | None) -> Goal | None:
        """Mark it complete; see :meth:`GoalVerbs.mark_goal_complete`."""
        goal, said = self.get(), (summary or "").strip()
        if goal is None:
            return None
        changed = {"status": GoalStatus.COMPLETE.value, "summary": said or goal.summary}
        return self._write(_row_of(goal) | changed, content=["complete", said])

    def use(self, tokens_used: int, status: GoalStatus | str | None) -> Goal | None:
        """Count more; see :meth:`GoalVerbs.update_goal_usage`."""
        goal = self.get()
        if goal is None:
            return None
        known = [each.value for each in GoalStatus]
        if status is not None and status not in known:
            message = f"status={status!r}: a goal is {', '.join(known)}"
            raise InvalidPayload(message, field="status")
        changed: dict[str, Any] = {"tokens_used": max(goal.tokens_used, tokens_used)}
        changed |= {} if status is None else {"status": GoalStatus(status).value}
        return self._write(_row_of(goal) | changed, content=["use", tokens_used, status])

    def clear(self) -> bool:
        """Have none any more; whether there was one."""
        if self.get() is None:
            return False
        gone = Draft.of(MANIFEST_TYPE, GOAL_KEY, operation=Operation.DELETE)
        self._session.effects.stage("goal", GOAL_KEY, content=["clear"], drafts=[gone])
        return True

    def _write(self, row: dict[str, Any], *, content: JSON) -> Goal:
        """Stage the row; what it says of time and use, another attempt need not repeat."""
        state = self._session.state
        value = {
            "kind": GOAL_KEY,
            "id": GOAL_KEY,
            **row,
            "updated_at": self._session.now(),
            "ledger_tokens": state.spent.tokens,
            "ledger_life": state.incarnation,
        }
        draft = Draft.of(MANIFEST_TYPE, GOAL_KEY, value=value, operation=Operation.UPSERT)
        self._session.effects.stage("goal", GOAL_KEY, content=content, drafts=[draft])
        return self.get() or _goal_of(value, state)


class GoalVerbs:
    """The verbs on goals that a context has."""

    _goals: Goals

    def set_goal(self, objective: str, *, token_budget: int | None = TOKEN_BUDGET) -> Goal:
        """Have a goal, in place of any other; runs count against it from now on.

        The same objective again keeps what was used of it (to give it more tokens); another one
        begins with nothing used.

        Args:
            objective: what is to be reached, for the model and for people.
            token_budget: tokens of all kinds that runs may use for it; None for no bound.

        Raises:
            InvalidPayload: it is empty or too long, or the budget is nothing.
        """
        return self._goals.set(objective, token_budget)

    def get_goal(self) -> Goal | None:
        """The goal, with what runs have used for it by now; None if there is none."""
        return self._goals.get()

    def clear_goal(self) -> bool:
        """Have no goal any more; whether there was one."""
        return self._goals.clear()

    def mark_goal_complete(self, summary: str | None = None) -> Goal | None:
        """Say that the goal is reached, and how: it stays to be read, and counts nothing more."""
        return self._goals.complete(summary)

    def update_goal_usage(
        self, tokens_used: int, *, status: GoalStatus | str | None = None
    ) -> Goal | None:
        """Say that so many tokens were used in all, by work that is no run; it never gets fewer.

        Raises:
            InvalidPayload: there is no such status.
        """
        return self._goals.use(tokens_used, status)


def goal_of(state: State) -> Goal | None:
    """The goal as the log tells of it, open wakes included, whose rows ``State.rows`` lacks."""
    text, at = state.rows.get(MANIFEST_TYPE, {}).get(GOAL_KEY), -1
    for committed in (each for wake in state.effects.values() for each in wake.values()):
        for event in () if committed.shown else committed.events:
            if (event.type, event.key) == (MANIFEST_TYPE, GOAL_KEY) and event.offset > at:
                text, at = None if event.operation is Operation.DELETE else event.text, event.offset
    return goal_in(text, state)


def goal_in(text: str | None, state: State) -> Goal | None:
    """The goal that a row tells of, as it is now; None if there is no row."""
    return None if text is None else _goal_of(decode(text), state)


def _goal_of(row: Mapping[str, Any], state: State) -> Goal:
    used, budget, status = row["tokens_used"], row["token_budget"], GoalStatus(row["status"])
    if status is not GoalStatus.COMPLETE:
        # In a fork, and in an import, the ledger begins anew.
        ledger = row["ledger_tokens"] if row["ledger_life"] == state.incarnation else 0
        used += max(state.spent.tokens - ledger, 0)
        if budget is not None and used >= budget:
            status = GoalStatus.BUDGET_LIMITED
    return Goal(
        objective=row["objective"],
        status=status,
        token_budget=budget,
        tokens_used=used,
        summary=row.get("summary"),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _row_of(goal: Goal) -> dict[str, Any]:
    return {
        "objective": goal.objective,
        "status": goal.status.value,
        "token_budget": goal.token_budget,
        "tokens_used": goal.tokens_used,
        "summary": goal.summary,
        "created_at": goal.created_at,
    }
