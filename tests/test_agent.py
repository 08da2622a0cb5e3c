"""What an agent may be told."""

import pytest

from ray_agents.agent import AgentConfig
from ray_agents.errors import InvalidDefinition
from ray_agents.tools import tool


@tool
def look() -> str:
    """Look."""
    return "nothing"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"turns_max": 0}, "turns_max"),
        ({"thinking": 1023}, "thinking"),
        ({"thinking": 16_000}, "thinking"),
        ({"tools": [look, look]}, "look"),
        ({"tools": [print]}, "@tool"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidDefinition, match=named):
        AgentConfig(**options)  # pyright: ignore[reportArgumentType]


def test_tools_are_shown_to_the_model_by_their_specs() -> None:
    assert [spec.name for spec in AgentConfig(tools=[look]).specs] == ["look"]
