"""How an entity looks from outside: its view, from the state and from who owns it."""

from __future__ import annotations

from dataclasses import dataclass

from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.cluster.awake import Awake
from ray_agents.errors import UnknownEntity
from ray_agents.events import WakeStatus
from ray_agents.goals import goal_of
from ray_agents.ledger import Spent
from ray_agents.lifecycle import Known, status_of
from ray_agents.projection import State
from ray_agents.schedule import next_due
from ray_agents.shares import bounds_of, is_used_up
from ray_agents.views import (
    BudgetView,
    Durability,
    EntityView,
    GoalView,
    Origin,
    ParkedWake,
    Spending,
)

NO_BUDGET = Budget()

APPROVAL = "approval"  # what an entity waits for whose tool call people have yet to decide on


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Who holds the log and how far it reaches; ``host`` is None when nobody does.

    ``durability`` is that of the owner, or of the one there would be; ``budget`` is its type's.
    """

    epoch: int
    events: int
    last_event: int
    first: int = 0
    host: str | None = None
    pid: int | None = None
    running: bool = False
    waiting_for: str | None = None
    definition_version: int | None = None
    durability: Durability
    budget: Budget = NO_BUDGET


def portrait(entity: Awake) -> EntityView:
    """An awake entity, described by its owner.

    Raises:
        UnknownEntity: nobody ever lived there.
    """
    services, owner = entity.services, entity.owner
    ownership = Ownership(
        epoch=owner.epoch,
        events=owner.durable_tip,
        first=owner.first,
        last_event=owner.last_time,
        host=services.host,
        pid=services.pid,
        running=entity.handling,
        waiting_for=entity.waiting_for or entity.caller.waiting_for,
        definition_version=services.definitions.newest_version(entity.address.type),
        durability=owner.durability,
        budget=entity.definition.budget,
    )
    return describe(entity.address, entity.state, ownership)


def describe(address: Address, state: State, ownership: Ownership) -> EntityView:
    """An entity from its state and ownership.

    Raises:
        UnknownEntity: nobody ever lived there.
    """
    created = state.created
    if created is None:
        message = f"there is no entity at {str(address)!r}; spawn it first"
        raise UnknownEntity(message, address=str(address))
    undecided = state.waiting and not ownership.running
    known = Known(
        stopped=state.stopped is not None,
        owned=ownership.host is not None,
        placed=ownership.waiting_for is None,
        running=ownership.running,
        unfinished=state.unfinished,
        undecided=undecided,
    )
    return EntityView(
        address=str(address),
        type=address.type,
        id=address.id,
        status=status_of(known),
        created=created.timestamp,
        life=created.life,
        args=created.args,
        tags=state.tags,
        parent=created.parent,
        forked_from=origin_of(state),
        epoch=ownership.epoch,
        events=ownership.events,
        first=ownership.first,
        last_event=ownership.last_event,
        backlog=backlog_of(state),
        parked=parked_in(state),
        approvals=tuple(each.view() for each in state.approvals.values() if each.pending),
        schedules=len(state.timers),
        next_due=next_due(state),
        waiting_for=ownership.waiting_for or (APPROVAL if undecided else None),
        host=ownership.host,
        pid=ownership.pid,
        definition_version=ownership.definition_version,
        durability=ownership.durability,
        spent=spending_of(state.spent),
        over_budget=is_used_up(state, ownership.budget),
        budgets=budgets_of(state, ownership.budget),
        granted_tokens=state.granted.tokens,
        granted_micros=state.granted.micros,
        goal=goal_shown(state),
    )


def spending_of(spent: Spent) -> Spending:
    """What was spent, as doors show it."""
    return Spending(
        **spent.usage.as_row(),
        cost_micros=spent.cost_micros,
        priced_micros=spent.micros,
        unpriced_tokens=spent.unpriced,
        uncounted=spent.uncounted,
    )


def budgets_of(state: State, budget: Budget) -> tuple[BudgetView, ...]:
    """All that bounds an entity, as doors show it."""
    return tuple(
        BudgetView(
            tokens_max=bound.tokens_max,
            cost_micros_max=bound.limits.get("micros"),
            tree=bound.tree,
            share=bound is not budget,
        )
        for bound in bounds_of(state, budget)
    )


def goal_shown(state: State) -> GoalView | None:
    """An entity's goal, as doors show it."""
    goal = goal_of(state)
    if goal is None:
        return None
    return GoalView(
        objective=goal.objective,
        status=goal.status.value,
        token_budget=goal.token_budget,
        tokens_used=goal.tokens_used,
        summary=goal.summary,
    )


def origin_of(state: State) -> Origin | None:
    """Where an entity comes from, as doors show it; None if it was spawned."""
    origin = state.origin
    if origin is None:
        return None
    return Origin(cause=origin.cause.value, address=origin.source, offset=origin.offset)


def parked_in(state: State) -> tuple[ParkedWake, ...]:
    """The parked wakes, as doors show them."""
    return tuple(
        ParkedWake(
            wake=wake.key,
            attempts=wake.attempt,
            error=wake.error or "",
            messages=wake.event_count,
        )
        for wake in state.parked
    )


def backlog_of(state: State) -> int:
    """Messages that no ended or parked wake has taken."""
    begun = [wake for wake in state.wakes.values() if wake.status is not WakeStatus.PARKED]
    return len(state.pending) + sum(wake.event_count + len(wake.joined) for wake in begun)
