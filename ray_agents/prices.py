"""What models cost: dollars per million tokens, by kind of token; an unknown model has no price.

The table is data, read on :data:`AS_OF` from the provider's list (for the Messages API itself, no
batches, no regional surcharge; cache writes at the rate of five minutes). It will be out of date,
and it knows no discounts: whoever pays has the last word, ``AgentConfig(prices=PRICES.but({…}))``.
Money is counted in whole micro-dollars, a millionth of a dollar, rounded once for each model call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from ray_agents.errors import InvalidDefinition
from ray_agents.model import Usage

AS_OF = "2026-10-24"
MICROS = 1_000_000
_DATED = re.compile(r"-\d{8}$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens, as ``Decimal``.

    ``long`` is the price of a call whose prompt, cached or not, has more than ``long_from`` tokens.
    """

    input: Decimal
    output: Decimal
    cache_write: Decimal
    cache_read: Decimal
    long_from: int | None = None
    long: Price | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cache_write", "cache_read"):
            check_money(name, getattr(self, name))
        if (self.long_from is None) != (self.long is None):
            raise InvalidDefinition("Price: long_from and long belong together", field="long")

    @classmethod
    def of(cls, text: str) -> Price:
        """A price from four numbers: input, output, cache write, cache read.

        Raises:
            InvalidDefinition: these are not four numbers.
        """
        try:
            asked, said, written, read = map(Decimal, text.split())
        except (ValueError, InvalidOperation) as error:
            message = (
                f"Price.of({text!r}): write four numbers, dollars per million tokens: input, "
                "output, cache write, cache read"
            )
            raise InvalidDefinition(message) from error
        return cls(input=asked, output=said, cache_write=written, cache_read=read)

    def micros(self, usage: Usage) -> int:
        """What one model call of that usage costs, in micro-dollars."""
        prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        if self.long is not None and self.long_from is not None and prompt > self.long_from:
            return self.long.micros(usage)
        cost = (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_write_tokens * self.cache_write
            + usage.cache_read_tokens * self.cache_read
        )
        return int(Decimal(cost).to_integral_value(ROUND_HALF_EVEN))  # whole dollars may be int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices by model name; a name with a date behind it (``-20251001``) is that of its model."""

    by_model: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def but(self, other: Mapping[str, Price]) -> Prices:
        """These prices, and ``other`` in their place where both have one."""
        return Prices(by_model={**self.by_model, **other})

    def of(self, *models: str) -> Price | None:
        """The price of the first of these names that has one; None if none has."""
        known = self.by_model
        found = (known.get(name) or known.get(_DATED.sub("", name)) for name in models)
        return next(filter(None, found), None)


def check_money(name: str, amount: object) -> None:
    """Pass if ``amount`` is an exact amount of money that is not negative.

    Raises:
        InvalidDefinition: it is a float, which is not exact, or no such amount.
    """
    exact = Decimal(amount) if isinstance(amount, Decimal | int) else Decimal("NaN")
    if isinstance(amount, bool) or not exact.is_finite() or exact < 0:
        message = f'{name}={amount!r}: write dollars exactly, as Decimal("1.25"), and not negative'
        raise InvalidDefinition(message, field=name)


def micros_of(dollars: Decimal | int) -> int:
    """Dollars in whole micro-dollars."""
    return int((dollars * Decimal(MICROS)).to_integral_value(ROUND_HALF_EVEN))


def dollars_of(micros: int) -> Decimal:
    """Micro-dollars in dollars, exactly."""
    return Decimal(micros).scaleb(-6)


_HAIKU_5_5_LONG = Price.of("0.50 2.50 0.625 0.05")
_HAIKU_5_5 = Price(
    input=Decimal("0.10"),
    output=Decimal("0.50"),
    cache_write=Decimal("0.125"),
    cache_read=Decimal("0.01"),
    long_from=100_000,
    long=_HAIKU_5_5_LONG,
)

PRICES = Prices(
    by_model={
        "claude-fable-5-1": Price.of("10 50 12.50 0.25"),
        "claude-mythos-5-1": Price.of("10 50 12.50 0.25"),
        "claude-fable-5": Price.of("10 50 12.50 1"),
        "claude-mythos-5": Price.of("10 50 12.50 1"),
        "claude-opus-5-5": Price.of("4 20 5 0.20"),
        "claude-opus-5": Price.of("5 25 6.25 0.50"),
        "claude-opus-4-8": Price.of("5 25 6.25 0.50"),
        "claude-opus-4-7": Price.of("5 25 6.25 0.50"),
        "claude-opus-4-6": Price.of("5 25 6.25 0.50"),
        "claude-opus-4-5": Price.of("5 25 6.25 0.50"),
        "claude-sonnet-5-5": Price.of("2 10 2.50 0.10"),
        "claude-sonnet-5": Price.of("2 10 2.50 0.20"),
        "claude-sonnet-4-6": Price.of("3 15 3.75 0.30"),
        "claude-sonnet-4-5": Price.of("3 15 3.75 0.30"),
        "claude-haiku-5-5": _HAIKU_5_5,
        "claude-haiku-4-5": Price.of("1 5 1.25 0.10"),
    }
)
