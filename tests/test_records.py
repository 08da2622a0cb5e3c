"""The built-in collections, as a handler reads them from the log."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ray_agents.errors import MissingKey
from ray_agents.events import Draft, Event, Operation
from ray_agents.records import TYPE_OF, Records, latest_rows
from tests.cluster.logs import random_log


def records_of(events: Sequence[Event]) -> Records:
    return Records(lambda types: [event for event in events if event.type in types])


def rows(*drafts: Draft) -> list[Event]:
    return [Event.at(n, 0, draft) for n, draft in enumerate(drafts)]


def test_the_newest_value_of_each_key_counts() -> None:
    started = Draft.of("run", "r", value={"key": "r", "status": "started"})
    done = Draft.of("run", "r", value={"key": "r", "status": "completed"})
    records = records_of(rows(started, Draft.of("run", "q", value=1), done))
    assert records.runs.list() == [{"key": "r", "status": "completed"}, {"value": 1, "key": "q"}]
    assert records.runs.get("q")["value"] == 1
    assert len(records.runs) == 2


def test_a_deleted_row_is_left_out() -> None:
    gone = Draft.of("text", "t", operation=Operation.DELETE)
    assert latest_rows(rows(Draft.of("text", "t", value={}), gone)) == {}


def test_a_message_is_processed_once_its_wake_has_ended() -> None:
    events = random_log(3, steps=120, kill_chance=0)
    ends = [e.value for e in events if e.type == "wake" and e.value["status"] in ENDS]
    for row in records_of(events).inbox.list():
        (offset,) = [e.offset for e in events if e.type == "inbox" and e.key == row["key"]]
        ended = any(end["from_offset"] <= offset < end["to_offset"] for end in ends)
        assert row["status"] == ("processed" if ended else "pending")


ENDS = ("handled", "skipped")


def test_what_is_not_there_is_named() -> None:
    records = records_of([])
    with pytest.raises(MissingKey, match="'runs' has no row 'r'"):
        records.runs.get("r")
    with pytest.raises(
        AttributeError, match="no built-in collection 'rums'; there are: approvals, "
    ):
        _ = records.rums
    assert dir(records) == sorted(TYPE_OF)
