"""Damaged bytes: what is torn is cut, what is corrupt is reported, nothing changed is served."""

from __future__ import annotations

from random import Random

import pytest

from ray_agents.errors import CorruptLog
from ray_agents.events import Event, Operation
from ray_agents.log.codec import LAYOUT, encode_frame, to_events
from ray_agents.log.segment import Claim, Ending, Segment, new_preamble, parse_segment

NAME = "entities/a/b/0000000003.arrows"
HEADER = new_preamble(3, Claim(host="host-1", token="token-1")).data


def frame(first: int, count: int = 2) -> bytes:
    return encode_frame(
        [
            Event(
                offset=offset,
                time=offset,
                type="inbox",
                key=f"key-{offset}",
                operation=Operation.INSERT,
                text=f'{{"n":{offset}}}',
            )
            for offset in range(first, first + count)
        ]
    ).data


FRAMES = [frame(0), frame(2), frame(4, 1), frame(5, 3)]
WHOLE = HEADER + b"".join(FRAMES)
ROWS = [to_events(batch) for batch in parse_segment(NAME, WHOLE).batches]
ENDS = [len(HEADER) + sum(map(len, FRAMES[:n])) for n in range(len(FRAMES) + 1)]


def served(segment: Segment) -> list[list[Event]]:
    return [to_events(batch) for batch in segment.batches]


def test_a_tail_torn_at_any_byte_is_cut_there() -> None:
    for length in range(len(HEADER), len(WHOLE)):
        segment = parse_segment(NAME, WHOLE[:length])
        whole = sum(end <= length for end in ENDS[1:])
        assert served(segment) == ROWS[:whole], length
        expected = Ending.CLEAN if length in ENDS else Ending.TORN
        assert segment.ending is expected, length
        assert segment.position == ENDS[whole]


def test_a_tail_of_zeros_is_cut() -> None:
    for count in (1, 7, 100, 5000):
        segment = parse_segment(NAME, WHOLE + bytes(count))
        assert (served(segment), segment.ending) == (ROWS, Ending.TORN)


def test_a_tail_of_anything_else_is_corruption() -> None:
    for tail in (b"x", b"\0" * 50 + b"\1", bytes(Random(1).randbytes(3000)), WHOLE[:99]):
        segment = parse_segment(NAME, WHOLE + tail)
        assert (served(segment), segment.ending) == (ROWS, Ending.CORRUPT)


def test_a_schema_message_torn_at_any_byte_is_corruption() -> None:
    for length in range(len(HEADER)):
        with pytest.raises(CorruptLog, match="schema message"):
            parse_segment(NAME, WHOLE[:length])


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flip_in_the_schema_message_is_found_or_changes_nothing() -> None:
    for bit in range(len(HEADER) * 8):
        with pytest.raises(CorruptLog, match="schema message"):
            parse_segment(NAME, flipped(WHOLE, bit))


@pytest.mark.parametrize("region", ["head", "first marker", "between", "second marker", "rest"])
def test_a_flip_in_a_frame_never_changes_or_cuts_a_row(region: str) -> None:
    first, second, end = LAYOUT.places.first, LAYOUT.places.second, LAYOUT.places.end
    low, high = {
        "head": (0, first),
        "first marker": (first, first + 36),
        "between": (first + 36, second),
        "second marker": (second, end),
        "rest": (end, len(FRAMES[-1])),
    }[region]
    bits = range(low * 8, high * 8)
    chance = Random(region)
    for number, start in enumerate(ENDS[:-1]):
        limit = min(high, len(FRAMES[number])) * 8
        for bit in chance.sample(bits, min(len(bits), 400)):
            if bit < limit:
                segment = parse_segment(NAME, flipped(WHOLE, start * 8 + bit))
                survived = "marker" in region  # the other one tells
                assert segment.ending is (Ending.CLEAN if survived else Ending.CORRUPT)
                assert served(segment) == (ROWS if survived else ROWS[:number])


def test_a_frame_removed_duplicated_or_moved_is_not_taken_for_torn() -> None:
    for frames in ([0, 2, 3], [0, 1, 1, 2], [1, 0]):
        data = HEADER + b"".join(FRAMES[n] for n in frames)
        assert parse_segment(NAME, data).ending is Ending.CLEAN  # the order of offsets tells
        damaged = data[: ENDS[1]] + data[ENDS[1] + 1 :]
        assert parse_segment(NAME, damaged).ending is Ending.CORRUPT


def test_a_segment_under_another_ones_name_is_corrupt() -> None:
    with pytest.raises(CorruptLog, match="0000000004"):
        parse_segment("entities/a/b/0000000004.arrows", WHOLE)


def test_corruption_names_segment_byte_and_offset() -> None:
    error = parse_segment(NAME, flipped(WHOLE, ENDS[2] * 8 + 5)).corruption()
    assert error.facts == {"segment": NAME, "byte": ENDS[2], "after_offset": 3}
    assert NAME in error.message
