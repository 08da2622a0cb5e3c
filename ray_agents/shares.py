"""Shares: what an entity gives of its tree's budget to each child it spawns, and never gets back.

A share stands in the child's row of the collection ``manifests`` and in its creation. Beside it, in
the same append, stands their sum in the ledger: so what was given is known by reading one row, and
a child has its share or was never spawned. What a handler has staged counts as given already; a
tool that fails gives it back with its other effects, as nothing of it ever left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ray_agents.budgets import Budget
from ray_agents.effects import Effects
from ray_agents.errors import InvalidPayload, OverBudget
from ray_agents.events import Draft, decode
from ray_agents.ledger import Granted
from ray_agents.projection import CHILD_KEY_PREFIX, MANIFEST_TYPE, State

SHARE = "share"


def bounds_of(state: State, budget: Budget) -> tuple[Budget, ...]:
    """All that bounds an entity: its type's ``budget``, and the share it was spawned with."""
    created = state.created
    given = created.budget if created else None
    share = (Budget.of_row(given | {"tree": True}),) if given else ()
    return tuple(bound for bound in (budget, *share) if bound.limits)


def is_used_up(state: State, budget: Budget) -> bool:
    """Whether an entity may spend nothing more, by what its log says."""
    return any(b.is_used_up(state.spent, state.granted) for b in bounds_of(state, budget))


def shares_in(drafts: Iterable[Draft]) -> Granted:
    """The sum of the shares that these rows give."""
    total = Granted()
    for draft in drafts:
        if draft.type == MANIFEST_TYPE and draft.key.startswith(CHILD_KEY_PREFIX) and draft.text:
            share = decode(draft.text).get(SHARE)
            if share is not None:
                total += Granted(**Budget.of_row(share).limits)
    return total


class Shares:
    """What one attempt at one wake may still spend and give."""

    def __init__(self, state: State, effects: Effects, *, budget: Budget) -> None:
        self._state = state
        self._effects = effects
        self._budget = budget
        self._staged = (0, 0, Granted())  # departures, how many rows are counted, and their shares

    @property
    def bounds(self) -> tuple[Budget, ...]:
        """All that bounds the entity."""
        return bounds_of(self._state, self._budget)

    @property
    def used_up(self) -> bool:
        """Whether nothing more may be spent; what is staged counts as given."""
        granted = self._granted()
        return any(bound.is_used_up(self._state.spent, granted) for bound in self.bounds)

    def check(self, child: str, share: Budget | None) -> None:
        """Pass if a child may be spawned with that share, or without one.

        Raises:
            InvalidPayload: a budget of the tree bounds what the share does not.
            OverBudget: the share is more than what is left.
        """
        for bound in (each for each in self.bounds if each.tree):
            for name, left in bound.left(self._state.spent, self._granted()).items():
                field = "tokens_max" if name == "tokens" else "cost_max"
                unit = "tokens" if name == "tokens" else "micro-dollars"
                wanted = share.limits.get(name) if share else None
                if wanted is None:
                    message = (
                        f"the spawn of {child!r}: this entity's budget is one of its tree, so say "
                        f"what the child may spend of it: budget=Budget({field}=…); "
                        f"{max(left, 0)} {unit} are left"
                    )
                    raise InvalidPayload(message, field="budget")
                if wanted > left:
                    message = (
                        f"the spawn of {child!r}: its share of {wanted} {unit} is more than what "
                        f"is left of the tree's budget, {max(left, 0)}; give it less"
                    )
                    raise OverBudget(message, address=child, left=max(left, 0))

    def entered(self, drafts: Sequence[Draft]) -> list[Draft]:
        """``drafts``, which are appended now, and the ledger's row of the shares among them."""
        given = shares_in(drafts)
        if given == Granted():
            return [*drafts]
        return [*drafts, (self._state.granted + given).draft()]

    def _granted(self) -> Granted:
        """What is gone, staged shares included; each staged row is looked at once."""
        departures, counted, total = self._staged
        if departures != self._effects.departures:
            departures, counted, total = self._effects.departures, 0, Granted()
        fresh = self._effects.staged_from(counted)
        total += shares_in(fresh)
        self._staged = (departures, counted + len(fresh), total)
        return self._state.granted + total
