"""Messages that a running loop takes in: one row each, which is what every transcript reads.

A steered message stands in the inbox at its own offset, like every other. The row that says that a
run took it in stands where the run did, before the model call that was the first to see it::

    steered      {run}:s3:steered:0       taken in before step 3, counted from 0

It is in the same append as the start of that step, and as the wake's own row, which from then on
lists the message among those it handles (``WakeRecorded.joined``). So either all of them are there
or none, and a run that resumes after a crash has the words in the place they had.

The wake's row is written anew with each such step, with all that have joined so far; so a step
takes in many at a time, and no more than :data:`JOINING_MAX`: the next one has the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_agents.events import Draft, Event, decode
from ray_agents.modes import MODE_HEADER, Mode
from ray_agents.runs import STEERED, RunRecord

JOINING_MAX = 100  # messages that one step takes in


def is_steering(message: Event) -> bool:
    """Whether a message in the inbox is one that a running loop takes in."""
    return message.headers.get(MODE_HEADER) == Mode.STEER


def key_of(record: RunRecord, number: int, index: int) -> str:
    """The key of the row of a message that was taken in before the step of that number."""
    return f"{record.step_key(number)}:{STEERED}:{index}"


def has_joined(record: RunRecord, number: int) -> bool:
    """Whether the run has taken messages in before the step of that number."""
    return record.row(STEERED, key_of(record, number, 0)) is not None


def joining(record: RunRecord, number: int, messages: Sequence[Event]) -> list[Draft]:
    """The rows by which a run takes messages in, before the step of that number."""
    index = 0
    while record.row(STEERED, key_of(record, number, index)) is not None:
        index += 1
    return [
        record.put(
            STEERED,
            key_of(record, number, index + place),
            {"run_id": record.key, "message": message.key, "offset": message.offset},
        )
        for place, message in enumerate(messages)
    ]


def offsets_in(drafts: Sequence[Draft]) -> list[int]:
    """Where the messages stand that ``drafts`` take in."""
    return [decode(draft.text)["offset"] for draft in drafts if draft.type == STEERED]
