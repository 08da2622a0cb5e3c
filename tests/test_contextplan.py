"""What ``use_context`` refuses at declaration, with the numbers."""

from typing import Any

import pytest

from ray_agents.contextplan import ContextPlan, Source, plan_of
from ray_agents.errors import InvalidDefinition


def refused(budget: int = 1_000, **sources: Any) -> str:
    with pytest.raises(InvalidDefinition) as raised:
        plan_of(budget, sources)
    return raised.value.message


def test_sources_are_given_whole_or_as_dicts() -> None:
    plan = plan_of(1_000, {"a": Source(content="x"), "b": {"content": "y", "max": 400}})
    assert [source.content for source in plan.sources.values()] == ["x", "y"]
    assert plan.volatile_budget == 1_000


def test_what_is_set_aside_is_not_left_for_volatile_sources() -> None:
    stable = Source(content="x", max=300, cache="stable")
    pinned = Source(content="x", max=200, cache="pinned")
    plan = ContextPlan(source_budget=1_000, sources={"a": stable, "b": pinned})
    assert plan.volatile_budget == 500


def test_more_set_aside_than_the_budget_is_refused_with_every_number() -> None:
    told = refused(
        docs={"content": "x", "max": 800, "cache": "pinned"},
        toc={"content": "x", "max": 300, "cache": "slow-changing"},
    )
    assert "'docs' (pinned) 800 + 'toc' (slow-changing) 300 = 1100 tokens" in told
    assert "100 more than source_budget=1000" in told


def test_a_pinned_source_over_the_budget_is_refused() -> None:
    told = refused(docs={"content": "x", "max": 1_200, "cache": "pinned"})
    assert "1200 tokens, 200 more than source_budget=1000" in told


def test_a_volatile_source_that_cannot_get_its_maximum_is_refused() -> None:
    docs = {"content": "x", "max": 400, "cache": "stable"}
    told = refused(docs=docs, talk={"content": "x", "max": 700})
    assert "max=700 is 100 more than the 600 tokens" in told
    assert "leaves 0 tokens for the volatile 'talk'" in refused(
        docs=docs | {"max": 1_000}, talk={"content": "x"}
    )


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"content": "x", "cache": "frozen"}, "no tier 'frozen'; write pinned, stable"),
        ({"content": "x", "cache": "stable"}, "is stable, so it needs a max"),
        ({"content": "x", "max": 3}, "max=3: at least 32"),
        ({"content": 7}, "7 is neither a text, nor messages, nor a function"),
        ({"content": "x", "maximum": 3}, "unexpected keyword argument 'maximum'"),
        ("x", "write Source(content=…, max=…, cache=…) or a dict, not 'x'"),
    ],
)
def test_a_source_that_says_something_else_is_refused(source: Any, told: str) -> None:
    assert told in refused(docs=source)


def test_no_source_no_budget_and_reserved_names_are_refused() -> None:
    assert "at least one source" in refused()
    assert "source_budget=3: at least 32" in refused(3, docs={"content": "x"})
    assert "'tools' is what reports call" in refused(tools={"content": "x"})
