"""Prices: exact, by kind of token, overridden by whoever pays; what has no price costs None."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.errors import InvalidDefinition
from ray_agents.model import DEFAULT_MODEL, Usage
from ray_agents.prices import AS_OF, PRICES, Price, Prices, dollars_of, micros_of

counts = st.integers(0, 10**9)
USAGE = Usage(input_tokens=1, output_tokens=10, cache_write_tokens=100, cache_read_tokens=1000)


def test_each_kind_of_token_has_its_price_and_a_million_of_it_costs_that_much() -> None:
    price = Price.of("3 15 3.75 0.30")
    million = 1_000_000
    assert price.micros(Usage(input_tokens=million)) == 3_000_000
    assert price.micros(Usage(output_tokens=million)) == 15_000_000
    assert price.micros(Usage(cache_write_tokens=million)) == 3_750_000
    assert price.micros(Usage(cache_read_tokens=million)) == 300_000
    assert price.micros(USAGE) == 3 + 150 + 375 + 300


def test_a_model_that_is_not_in_the_table_has_no_price() -> None:
    assert PRICES.of("gpt-x") is None
    assert Prices().of(DEFAULT_MODEL) is None
    assert PRICES.of("") is None


def test_the_default_model_has_a_price_and_the_table_has_a_date() -> None:
    assert PRICES.of(DEFAULT_MODEL) is not None
    assert AS_OF.startswith("20")


def test_a_name_with_a_date_is_that_of_its_model() -> None:
    assert PRICES.of("claude-haiku-4-5-20251001") == PRICES.of("claude-haiku-4-5")
    assert PRICES.of("claude-haiku-4-5-2025") is None


def test_the_first_name_that_has_a_price_counts() -> None:
    mine = Price.of("1 1 1 1")
    assert PRICES.but({"mine": mine}).of("", "mine") == mine
    assert PRICES.but({DEFAULT_MODEL: mine}).of(DEFAULT_MODEL) == mine
    assert PRICES.of(DEFAULT_MODEL) != mine


def test_a_long_prompt_may_cost_more_and_cached_tokens_count_as_prompt() -> None:
    price = PRICES.of("claude-haiku-5-5")
    assert price is not None
    assert price.micros(Usage(input_tokens=50_000, cache_read_tokens=50_000)) == 5_500
    assert price.micros(Usage(input_tokens=50_000, cache_read_tokens=50_001)) == 27_500
    assert price.micros(Usage(output_tokens=200_000)) == 100_000


@given(st.builds(Usage, input_tokens=counts, output_tokens=counts, cache_read_tokens=counts))
def test_no_price_is_off_by_more_than_half_a_micro_dollar(usage: Usage) -> None:
    price = Price.of("2 10 2.50 0.10")
    exact = usage.input_tokens * 20 + usage.output_tokens * 100 + usage.cache_read_tokens
    assert abs(10 * price.micros(usage) - exact) <= 5


@pytest.mark.parametrize("amount", [0.1, Decimal("NaN"), Decimal(-1), "1", True])
def test_money_that_is_not_exact_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidDefinition, match="exactly"):
        Price(input=amount, output=Decimal(1), cache_write=Decimal(1), cache_read=Decimal(1))


def test_a_price_in_whole_dollars_counts() -> None:
    whole: Any = {"input": 3, "output": 15, "cache_write": 4, "cache_read": 1}
    price = Price(**whole)
    assert price == Price.of("3 15 4 1")
    assert price.micros(USAGE) == 3 + 150 + 400 + 1000


@pytest.mark.parametrize("text", ["", "3 15", "3 15 3.75 0.30 1", "3 15 3.75 cheap"])
def test_a_price_is_four_numbers(text: str) -> None:
    with pytest.raises(InvalidDefinition, match="four numbers"):
        Price.of(text)


def test_dollars_and_micro_dollars_are_the_same_money() -> None:
    assert micros_of(Decimal("1.25")) == 1_250_000
    assert dollars_of(1_250_000) == Decimal("1.25")
    assert str(dollars_of(1)) == "0.000001"


def test_a_price_for_long_prompts_says_from_where() -> None:
    with pytest.raises(InvalidDefinition, match="belong together"):
        replace(Price.of("1 1 1 1"), long_from=3)
