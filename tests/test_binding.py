"""Tools that ask for the context, and factories over it."""

from __future__ import annotations

from typing import Any

import pytest

from ray_agents.agent import AgentConfig
from ray_agents.binding import bound, is_factory
from ray_agents.errors import InvalidDefinition
from ray_agents.injected import Injected
from ray_agents.progress import ToolProgress
from ray_agents.tools import tool


class Context(Injected):
    """Stands in for the real one."""

    said = "from the context"


@tool
def note(text: str, ctx: Context) -> str:
    """Note something.

    Args:
        text: what
        ctx: not the model's affair
    """
    return f"{text} {ctx.said}"


def make_notes(ctx: Any) -> list[Any]:
    @tool
    def made() -> str:
        """Say it."""
        return ctx.said

    return [made, note]


def by_type(whatever: Context) -> Any:
    return make_notes(whatever)[0]


def untyped(ctx: Any) -> Any:
    return ctx


def forgotten(city: str) -> str:
    return city


def of_two(ctx: Any, other: Any) -> Any:
    return ctx, other


def test_what_is_injected_is_not_in_the_schema() -> None:
    assert set(note.input_schema["properties"]) == {"text"}
    assert note.input_schema["required"] == ["text"]


def test_a_tool_is_given_the_context_it_asks_for() -> None:
    (given,) = bound([note], Context())
    assert given.call(given.check({"text": "hi"})) == "hi from the context"
    assert given.spec == note.spec


def test_the_model_cannot_send_what_is_injected() -> None:
    (given,) = bound([note], Context())
    with pytest.raises(Exception, match="'ctx'"):
        given.check({"text": "hi", "ctx": 3})


def test_factories_make_one_tool_or_several() -> None:
    made = bound([make_notes, by_type], Context())
    assert [each.name for each in made] == ["made", "note", "made"]
    assert made[0].call(made[0].check({})) == "from the context"
    assert made[1].call(made[1].check({"text": "hi"})) == "hi from the context"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (make_notes, True),
        (by_type, True),
        (untyped, True),
        (forgotten, False),
        (of_two, False),
        (note, False),
        (str, False),
        ("x", False),
    ],
)
def test_only_a_function_of_the_context_alone_is_a_factory(value: Any, expected: bool) -> None:
    assert is_factory(value) is expected


def test_an_undecorated_function_is_refused_as_before() -> None:
    with pytest.raises(InvalidDefinition, match="@tool"):
        AgentConfig(tools=bound([forgotten], Context()))


def test_without_a_context_such_a_tool_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidDefinition, match=r"'note' asks for a Context.*use_agent"):
        AgentConfig(tools=[note])


def test_what_is_injected_may_have_any_name() -> None:
    @tool
    def odd(values: Context, function: int, names: ToolProgress) -> str:
        """Be odd."""
        assert isinstance(names, ToolProgress)
        return f"{values.said} {function}"

    (given,) = bound([odd], Context())
    assert given.call(given.check({"function": 1})) == "from the context 1"


def test_a_progress_handle_needs_no_context() -> None:
    @tool
    def load(progress: ToolProgress, size: int) -> str:
        """Load."""
        assert isinstance(progress, ToolProgress)
        return f"{size}"

    AgentConfig(tools=[load])
    assert set(load.input_schema["properties"]) == {"size"}
    assert load.call(load.check({"size": 3})) == "3"
