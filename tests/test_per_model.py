"""Numbers by model, as an operator writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ray_agents.per_model import PerModel


def test_one_number_is_for_all_models() -> None:
    assert PerModel.parse("1_000").of("any") == 1000


def test_some_models_have_numbers_of_their_own() -> None:
    limits = PerModel.parse("100, claude-opus-5=20, gpt-5.5=7")
    assert [limits.of(m) for m in ("claude-opus-5", "gpt-5.5", "other")] == [20, 7, 100]
    assert PerModel.parse("claude-opus-5=20").of("other") is None


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1,2", "=3", "a=b", "a=0", "1,"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="claude-opus-5=20"):
        PerModel.parse(text)


def test_a_model_has_one_number() -> None:
    with pytest.raises(ValueError, match="'claude-opus-5' stands there twice"):
        PerModel.parse("claude-opus-5=20, claude-opus-5 =30")


@given(
    rest=some.integers(1),
    named=some.dictionaries(some.text("abc:-.5", min_size=1), some.integers(1), max_size=3),
)
def test_what_is_written_is_read_back(rest: int, named: dict[str, int]) -> None:
    limits = PerModel(rest, named)
    assert PerModel.parse(str(limits)) == limits
