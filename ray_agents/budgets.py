"""Budgets: what an entity may spend in its life, alone or together with all that descend from it.

A budget of a tree takes no word between entities. An entity that is bound by one gives each child
a *share* of it when it spawns it (``shares.py``); the share counts as gone from then on, and is a
budget of the child's tree. So everyone looks at its own log alone, and the sum holds::

    spent + shares given  <=  the budget, or the share          for each entity of the tree
    spent by the tree     <=  the budget of its root            by induction

but for the last step of each run: see :class:`Budget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from ray_agents.errors import InvalidDefinition
from ray_agents.ledger import Granted, Spent
from ray_agents.prices import check_money, micros_of

COST_MAX = Decimal(1_000_000_000)  # dollars: more is a slip, and would be endless in micro-dollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent in a life: tokens of all kinds, and dollars.

    It is looked at before each model call, so the call that goes beyond it is the last; a run then
    ends with the stop reason ``budget``, and every later one before its first call.

    Without ``tree`` it bounds one entity's own agents, and children have budgets of their own. With
    it, it bounds the entity together with all that descend from it by ``ctx.spawn``: a child is
    given a share, ``ctx.spawn(..., budget=Budget(tokens_max=…))``, which is gone for the parent at
    once and for good, whether the child spends it or not, and bounds the child's tree likewise; a
    spawn without one, or with more than is left, is refused. The guarantee: all of them together
    spend no more than the budget, and in addition at most one step (a model call with its retries)
    of each run that is under way when its own entity has nothing left. It holds across crashes, and
    no entity asks another for it. Of a call whose answer was lost, what is known of it counts.

    A life begins with nothing spent and nothing given, and so does a fork or an import, which has
    the budget, or the share, of its source anew: these are an operator's doing, and nobody's child.
    """

    tokens_max: int | None = None
    cost_max: Decimal | None = None
    tree: bool = False

    def __post_init__(self) -> None:
        if self.tokens_max is not None:
            _check_tokens(self.tokens_max)
        if self.cost_max is not None:
            _check_cost(self.cost_max)
        if self.tree and not self.limits:
            raise InvalidDefinition("Budget(tree=True): of what? give tokens_max or cost_max")

    @property
    def limits(self) -> dict[str, int]:
        """What is bounded: ``tokens``, and ``micros`` for micro-dollars."""
        micros = None if self.cost_max is None else micros_of(self.cost_max)
        given = {"tokens": self.tokens_max, "micros": micros}
        return {name: limit for name, limit in given.items() if limit is not None}

    def left(self, spent: Spent, granted: Granted) -> dict[str, int]:
        """What is left of each limit; negative where the last call went beyond it."""
        gone = granted if self.tree else Granted()
        return {
            name: limit - getattr(spent, name) - getattr(gone, name)
            for name, limit in self.limits.items()
        }

    def is_used_up(self, spent: Spent, granted: Granted) -> bool:
        """Whether nothing more may be spent."""
        return any(left <= 0 for left in self.left(spent, granted).values())

    def as_row(self) -> dict[str, Any]:
        """The budget as JSON; money is text, to be exact."""
        cost = None if self.cost_max is None else str(self.cost_max)
        row = {"tokens_max": self.tokens_max, "cost_max": cost}
        return row | {"tree": True} if self.tree else row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Read :meth:`as_row` back."""
        cost = row.get("cost_max")
        return cls(
            tokens_max=row.get("tokens_max"),
            cost_max=None if cost is None else Decimal(cost),
            tree=row.get("tree", False),
        )


def _check_tokens(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidDefinition(f"Budget(tokens_max={limit!r}): a whole number of tokens")
    if limit <= 0:
        raise InvalidDefinition(f"Budget(tokens_max={limit!r}): more than nothing")


def _check_cost(limit: object) -> None:
    exact = Decimal(limit) if isinstance(limit, Decimal | int) else Decimal("NaN")
    if exact.is_finite() and exact <= 0:
        raise InvalidDefinition(f"Budget(cost_max={limit!r}): more than nothing")
    check_money("cost_max", limit)
    if exact > COST_MAX:
        raise InvalidDefinition(f"Budget(cost_max={limit!r}): at most {COST_MAX:,} dollars")
