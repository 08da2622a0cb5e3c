"""What counts as said by a run beside another."""

from __future__ import annotations

from typing import Any

import pytest

from ray_agents.beside import is_alone
from ray_agents.events import Draft, Event, Operation

BEGUN = ("run", "a", {"status": "started"})
OTHER = ("run", "b", {"status": "started"})


def alone(*rows: tuple[str, str, Any], before: int | None = None) -> bool:
    """Each row is one further in the log; one without a value is deleted."""
    events = [
        Event.at(
            offset,
            0,
            Draft.of(kind, key, value=value)
            if value is not None
            else Draft.of(kind, key, operation=Operation.DELETE),
        )
        for offset, (kind, key, value) in enumerate(rows)
    ]
    return is_alone("a", events, before=before)


@pytest.mark.parametrize(
    "said",
    [
        OTHER,
        ("step", "b:s1", {"status": "completed"}),
        ("tool_call", "b:s1:tool:0", {"status": "failed"}),
        ("steered", "b:s1:steered:0", {"message": "m1"}),
    ],
)
def test_what_another_says_since_it_began_counts_up_to_a_place(said: Any) -> None:
    assert not alone(BEGUN, said)
    assert not alone(BEGUN, said, before=2)
    assert alone(BEGUN, said, before=1)
    assert alone(said, BEGUN)


@pytest.mark.parametrize(
    "row",
    [
        ("step", "b:s1", {"status": "started"}),
        ("tool_call", "b:s1:tool:0", {"status": "executing"}),
        ("tool_call", "b:s1:tool:0", None),
        ("run", "b", {"status": "completed"}),
        ("run", "b", {"status": "started"}),
        ("step", "a:s1", {"status": "completed"}),
        ("step", "a-s1-tool-0-run-1:s1", {"status": "completed"}),
    ],
)
def test_what_says_nothing_new_does_not_count(row: Any) -> None:
    assert alone(OTHER, BEGUN, row)
