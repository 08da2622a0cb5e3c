"""What an entity has spent: tokens by kind, and money as far as the models' prices are known.

Each step's row counts what its model calls cost, the broken ones too as far as the provider had
said when they broke. Beside every such row stands, in the same append, the *ledger*: one row that
sums the entity's whole life. So a wake knows the sum by reading one row, however long the log is,
and a step is in both or in neither.

A life begins with nothing spent; so does a fork and an import, whose inherited steps others paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ray_agents.events import Draft, Event, Operation, decode
from ray_agents.model import USAGE_FIELDS, Usage

COST = "cost_micros"
UNCOUNTED = "uncounted"
STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Tokens, money, and what is not known of either.

    ``micros`` is what the priced tokens cost, in micro-dollars; ``unpriced`` counts tokens of
    models without a price. ``uncounted`` counts model calls whose end was not seen (the stream
    broke, the process died): the provider may have billed more for them than is counted here.
    """

    usage: Usage = field(default_factory=Usage)
    micros: int = 0
    unpriced: int = 0
    uncounted: int = 0

    TYPE = "ledger"
    KEY = "entity"

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            usage=self.usage + other.usage,
            micros=self.micros + other.micros,
            unpriced=self.unpriced + other.unpriced,
            uncounted=self.uncounted + other.uncounted,
        )

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            usage=self.usage - other.usage,
            micros=self.micros - other.micros,
            unpriced=self.unpriced - other.unpriced,
            uncounted=self.uncounted - other.uncounted,
        )

    @property
    def tokens(self) -> int:
        """Tokens of all kinds."""
        return self.usage.tokens

    @property
    def cost_micros(self) -> int | None:
        """What it cost, in micro-dollars; None if a part of it has no price."""
        return None if self.unpriced else self.micros

    def as_row(self) -> dict[str, int | None]:
        """The fields of a step's or a run's row that say the same; :meth:`in_row` reads them."""
        row = {**self.usage.as_row(), COST: self.cost_micros}
        return row | {UNCOUNTED: self.uncounted} if self.uncounted else row

    @classmethod
    def in_row(cls, row: Mapping[str, Any]) -> Self:
        """What the row of a step says; rows of before there were prices have none."""
        usage, cost = Usage.of(row), row.get(COST)
        return cls(
            usage=usage,
            micros=cost or 0,
            unpriced=usage.tokens if cost is None else 0,
            uncounted=row.get(UNCOUNTED) or 0,
        )

    def draft(self) -> Draft:
        """The ledger's row: this is the sum now."""
        value = {**self.usage.as_row(), **{name: getattr(self, name) for name in _SUMS}}
        return Draft.of(self.TYPE, self.KEY, value=value, operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the ledger's row back."""
        row = event.value
        usage = Usage(**{name: row[name] for name in USAGE_FIELDS})
        return cls(usage=usage, **{name: row[name] for name in _SUMS})


def billed_in(rows: Iterable[Draft | Event]) -> dict[str, Spent]:
    """What the steps among ``rows`` have cost, by key: the last row of each says it."""
    return {
        row.key: Spent.in_row(decode(row.text)) for row in rows if row.type == STEP and row.text
    }


def added_by(after: Mapping[str, Spent], before: Mapping[str, Spent]) -> Spent:
    """How much more the steps of ``after`` have cost than ``before``: what the ledger gains."""
    return sum((spent - before.get(key, Spent()) for key, spent in after.items()), Spent())


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What an entity has given its children to spend, in all: tokens, and micro-dollars."""

    tokens: int = 0
    micros: int = 0

    KEY = "granted"

    def __add__(self, other: Granted) -> Granted:
        return Granted(tokens=self.tokens + other.tokens, micros=self.micros + other.micros)

    def draft(self) -> Draft:
        """The ledger's other row: this is the sum now."""
        value = {"tokens": self.tokens, "micros": self.micros}
        return Draft.of(Spent.TYPE, self.KEY, value=value, operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        return cls(**event.value)


_SUMS = ("micros", "unpriced", UNCOUNTED)
