"""Events survive the way into a frame and back; plain Arrow reads the same file."""

from __future__ import annotations

import gc
from dataclasses import FrozenInstanceError, replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_agents.events import Draft, Event, Operation
from ray_agents.log.arrow import ipc
from ray_agents.log.codec import LAYOUT, MANY_ROWS_MIN, encode_frame, to_batch, to_events
from ray_agents.log.marker import blanked_digest, read_marker
from ray_agents.log.segment import Claim, Ending, new_preamble, parse_segment

NAME = "log/0000000007.arrows"
HEADER = new_preamble(7, Claim(host="host-1", token="t")).data
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
events_of_a_log = st.lists(
    st.builds(
        Event,
        offset=st.integers(0, 2**62),
        time=st.integers(0, 2**52),
        type=texts,
        key=texts,
        operation=st.sampled_from(Operation),
        text=texts,
        headers=st.dictionaries(texts, texts, max_size=3),
    ),
    min_size=1,
    max_size=8,
)


@given(events_of_a_log)
def test_events_survive_a_frame(events: list[Event]) -> None:
    segment = parse_segment(NAME, HEADER + encode_frame(events).data)
    assert segment.ending is Ending.CLEAN
    assert to_events(segment.batches[0]) == events


@given(st.lists(events_of_a_log, max_size=5))
@settings(max_examples=30)
def test_plain_arrow_reads_every_frame(groups: list[list[Event]]) -> None:
    data = HEADER + b"".join(encode_frame(events).data for events in groups)
    batches = list(ipc.open_stream(data))
    assert [to_events(batch) for batch in batches] == groups
    assert [to_events(batch) for batch in parse_segment(NAME, data).batches] == groups


@given(
    st.lists(events_of_a_log, min_size=1, max_size=4),
    st.integers(0, 4) | st.floats(0, 1),
    st.integers(0, 50),
)
@settings(max_examples=40)
def test_a_segment_cut_at_any_byte_is_clean_or_torn_and_keeps_its_whole_frames(
    groups: list[list[Event]],
    place: float,
    zeros: int,  # an integer is an end of a frame
) -> None:
    """Also if zeros follow a whole frame, as where a file grew and its content never came."""
    frames = [encode_frame(events).data for events in groups]
    ends = [len(HEADER), *accumulate(map(len, frames), initial=len(HEADER))][1:]
    length = len(HEADER) + round(place * (ends[-1] - len(HEADER)))
    if isinstance(place, int):
        length = ends[min(place, len(frames))]
    at_an_end = length in ends
    data = (HEADER + b"".join(frames))[:length] + bytes(zeros if at_an_end else 0)
    segment = parse_segment(NAME, data)
    whole = sum(end <= length for end in ends[1:])
    assert segment.ending is (Ending.CLEAN if at_an_end and not zeros else Ending.TORN)
    assert segment.position == ends[whole]
    assert [to_events(batch) for batch in segment.batches] == groups[:whole]


def test_a_row_may_be_large_and_have_many_headers() -> None:
    headers = {f"ünïcode-{number}": "✓" * number for number in range(200)}
    draft = Draft.of("inbox", "k" * 5000, value={"payload": "\0é\U0001f600" * 200_000})
    event = Event.at(7, 8, replace(draft, headers=headers))
    assert to_events(encode_frame([event]).batch) == [event]
    assert to_events(parse_segment(NAME, HEADER + encode_frame([event]).data).batches[0]) == [event]


@given(events_of_a_log)
def test_both_markers_of_a_frame_tell_its_length_and_digest(events: list[Event]) -> None:
    data, places = encode_frame(events).data, LAYOUT.places
    first = read_marker(data[places.first : places.first + 36])
    assert first is not None
    assert first == read_marker(data[places.second : places.end])
    assert (first.length, first.digest) == (len(data), blanked_digest(data, places))


@pytest.mark.parametrize("count", [1, MANY_ROWS_MIN - 1, MANY_ROWS_MIN, 3 * MANY_ROWS_MIN + 1])
def test_many_events_are_decoded_as_few_are(count: int) -> None:
    events = [
        Event(
            offset=2 * row,
            time=row,
            type=f"type-{row % 3}",
            key=f"{row}",
            operation=list(Operation)[row % 4],
            text="" if row % 4 == 3 else f"{row}",
            headers={"status": f"{row % 5}"} if row % 2 else {},
        )
        for row in range(count)
    ]
    decoded = to_events(to_batch(events))
    assert decoded == events
    assert [event.value for event in decoded] == [event.value for event in events]


def test_an_event_of_many_is_as_immutable_as_any() -> None:
    batch = encode_frame([Event.at(row, 0, Draft(type="t", key="k")) for row in range(2000)]).batch
    with pytest.raises(FrozenInstanceError):
        to_events(batch)[-1].offset = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_many_events_give_the_garbage_collector_nothing_to_look_at() -> None:
    events = [Event.at(row, 0, Draft(type="t", key="k")) for row in range(2000)]
    assert not any(gc.is_tracked(event) for event in to_events(to_batch(events)))


def test_a_batch_says_null_for_the_value_of_a_deletion() -> None:
    event = Event(offset=0, time=0, type="t", key="k", operation=Operation.DELETE, text="")
    assert to_batch([event]).column(5).to_pylist() == [None]


def test_a_segment_names_its_owner_from_the_first_byte_on() -> None:
    segment = parse_segment(NAME, HEADER)
    assert (segment.head.epoch, segment.head.host, segment.head.token) == (7, "host-1", "t")
    assert not segment.head.sealed


def test_a_host_named_like_a_marker_confuses_nobody() -> None:
    data = new_preamble(7, Claim(host="RAm1" * 20, token="RAm1" + "0" * 31)).data
    assert parse_segment(NAME, data).head.host == "RAm1" * 20
