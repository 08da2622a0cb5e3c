"""Rows and JSON: what is written is read back, and what JSON cannot say is refused at once."""

from __future__ import annotations

from datetime import UTC, datetime
from json import dumps, loads
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.errors import InvalidPayload
from ray_agents.events import (
    Draft,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    ErrorRecorded,
    Event,
    MessageReceived,
    Operation,
    OutboxKind,
    WakeRecorded,
    WakeStatus,
    decode,
    digest_of,
    encode,
    wire_offset,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


def at(draft: Draft, offset: int = 7) -> Event:
    return Event.at(offset, 1_000, draft)


@given(value=values)
def test_a_value_is_read_back_as_it_was_written(value: Any) -> None:
    assert decode(encode(value)) == value
    assert loads(encode(value)) == value


@given(value=values, key=texts, operation=st.sampled_from(Operation))
def test_a_row_crosses_a_door_whole(value: Any, key: str, operation: Operation) -> None:
    event = at(Draft.of("t", key, value=value, operation=operation, headers={"h": key}))
    assert Event.from_json(loads(dumps(event.as_json()))) == event


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        {"\udfff": 1},
        ["a", {"b": "\ud800"}],
        float("nan"),
        [float("inf")],
        {"x": -float("inf")},
        object(),
        b"\xff",
        lambda: None,
    ],
)
def test_what_json_cannot_say_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidPayload, match="'the thing' 1 cannot be written as JSON"):
        encode(value, "'the thing' 1")


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidPayload):
        encode(endless)


def test_words_like_nan_are_only_words() -> None:
    assert decode(encode("NaN and Infinity")) == "NaN and Infinity"


def test_dates_become_text() -> None:
    assert decode(encode(datetime(2026, 1, 2, tzinfo=UTC))) == "2026-01-02T00:00:00Z"


@given(value=st.dictionaries(texts, values, max_size=4))
def test_a_digest_does_not_depend_on_the_order_of_names(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert digest_of({"a": value, "b": 1}) == digest_of({"b": 1, "a": turned})


@given(one=values, other=values)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    same = dumps(one, sort_keys=True) == dumps(other, sort_keys=True)
    assert (digest_of(one) == digest_of(other)) == same


WAKE = WakeRecorded(
    key="wake-3",
    status=WakeStatus.PARKED,
    source="inbox",
    from_offset=1,
    to_offset=3,
    event_count=2,
    attempt=3,
    deaths=1,
    host="h",
    definition_version=2,
    timestamp=5,
    error="no",
)


@pytest.mark.parametrize(
    "fact",
    [
        EntityCreated(
            entity_type="t",
            args={"a": 1},
            tags={"k": "v"},
            parent=None,
            life=1,
            spawn_id="s",
            timestamp=1,
        ),
        EntityStopped(reason=None, life=0, timestamp=1),
        MessageReceived(key="m", payload=[1], message_type="t", sender="/a/b", timestamp=1),
        WAKE,
        ErrorRecorded(key="e", error_code="X", message="m", wake="wake-3"),
    ],
)
def test_a_fact_is_read_back_from_its_row(fact: Any) -> None:
    assert fact.of(at(fact.draft())) == fact


def test_an_outbox_row_is_read_back_and_taken_out() -> None:
    staged = EffectStaged(key="k", kind=OutboxKind.SEND, target="/a/b", body={"x": 1})
    assert EffectStaged.of(at(staged.draft({"h": "1"}))) == staged
    assert staged.delivered().operation is Operation.DELETE


def test_the_status_of_a_wake_stands_in_the_headers() -> None:
    assert WAKE.draft().headers == {"status": "parked"}
    assert not WAKE.closed


def test_a_deletion_has_no_value() -> None:
    event = at(Draft.of("t", "k", value="ignored", operation=Operation.DELETE))
    assert event.value is None
    assert Event.from_json(event.as_json()) == event


def test_an_offset_on_the_wire_sorts_as_a_number() -> None:
    assert wire_offset(7) == "0000000000000000_0000000000000007"
    assert wire_offset(9) < wire_offset(10)
