"""The wake state of a log, read so that its cost follows what is open and not what is past.

``load(history) == fold(every row)``, by test. Theory of operation. Let the *cut* be the end of the
range of the oldest wake that has not ended, or of the last that has. All rows a wake commits come
after its range, and wakes run one after another; so before the cut nothing is open, and the last
row of each key tells all there is to know. Those are found by column, without decoding the others;
from the cut on, rows are folded one by one. Only messages behind the watermark are decoded, and of
the schedules, which come and go beside the wakes, only those that are pending.

``essential`` names the rows that all of this depends on: of each key before the cut the first and
the last, everything that is open, and what stands behind the cut. A snapshot is just these rows.
``load(those + what came later) == fold(every row)``, by test.
"""

from __future__ import annotations

from dataclasses import replace

from ray_agents.deferral import DeliveryDeferred
from ray_agents.definition import Definition
from ray_agents.events import (
    EffectStaged,
    EntityCreated,
    Event,
    MessageReceived,
    SendScheduled,
    WakeRecorded,
    WakeStatus,
)
from ray_agents.ledger import Granted, Spent
from ray_agents.log.codec import to_batch
from ray_agents.log.history import History
from ray_agents.log.rows import Place, Rows
from ray_agents.log.tidying import Essence, Upkeep
from ray_agents.origin import EntityForked
from ray_agents.progress import PROGRESS_TYPE
from ray_agents.projection import CONTROL_TYPES, Outgoing, State, Timer, fold, is_row_type
from ray_agents.runs import COMPACTION, DELTA_TYPES

FOLDED_ROWS_MAX = 64  # so few rows are folded sooner than any column of them is looked at
DIGEST = "digest"
ENDS = (WakeStatus.HANDLED.value, WakeStatus.SKIPPED.value)


def load(history: History, *, tip: int | None = None) -> State:
    """The wake state after every row of ``history``, which ends at ``tip`` if that is known."""
    if tip is not None and tip <= FOLDED_ROWS_MAX:
        return fold(history.read(0))
    created = history.find(EntityCreated.TYPE, "entity")
    if created is None:
        return State()
    life = created.offset
    still_open, ended = history.unended(WakeRecorded.TYPE, header="status", ends=ENDS, start=life)
    cut = _cut(history, life, [WakeRecorded.of(event).to_offset for event in still_open])
    row_types = frozenset(name for name in history.types() if is_row_type(name))
    state = State(
        created=EntityCreated.of(created), life_offset=life, ids_offset=life, watermark=life
    )
    forked = history.find(EntityForked.TYPE, "entity")
    if forked is not None and forked.offset > life:
        state.come_from(EntityForked.of(forked), forked.offset)
    types = row_types | {EffectStaged.TYPE, DeliveryDeferred.TYPE}
    for event in history.latest(types, start=life, stop=cut, skip=SendScheduled.is_row):
        if event.type == EffectStaged.TYPE:
            state.outbox[event.key] = Outgoing.of(event)
        elif event.type == DeliveryDeferred.TYPE:
            state.deferred[event.key] = DeliveryDeferred.of(event)
        else:
            state.rows.setdefault(event.type, {})[event.key] = event.text
    if SendScheduled.TYPE in row_types:
        state.timers = _timers(history, life)
    fold(history.read(cut, types=CONTROL_TYPES | row_types), state)
    _take_sums(history, state)
    state.woken = state.woken or (ended is not None and _was_awake(history, state, ended))
    if state.alive:
        waiting = history.read(state.watermark, types={MessageReceived.TYPE})
        state.pending = [event for event in waiting if event.offset not in state.steered]
    return state


def _take_sums(history: History, state: State) -> None:
    """The rows that stand for all of their kind: spent, given, and the newest summary."""
    spent, granted = (history.find(Spent.TYPE, key) for key in (Spent.KEY, Granted.KEY))
    if spent is not None and spent.offset > state.ids_offset:
        state.spent = Spent.of(spent)
    if granted is not None and granted.offset > state.ids_offset:
        state.granted = Granted.of(granted)
    summary = history.last(COMPACTION)
    if summary is not None and summary.offset > state.life_offset:
        state.compacted = summary


def _was_awake(history: History, state: State, ended: int) -> bool:
    """Whether any wake was really one: the first of a fork may take what nobody will handle."""
    if state.origin is None or state.origin.woken:
        return True
    (row,) = history.read(ended, stop=ended + 1)
    return WakeRecorded.of(row).attempt > 0


def essential(history: History) -> Essence | None:
    """The rows from which, with all that come later, :func:`load` gives the same state.

    None if nobody ever lived there.
    """
    created = history.find(EntityCreated.TYPE, "entity")
    if created is None:
        return None
    life = created.offset
    still_open, ended = history.unended(WakeRecorded.TYPE, header="status", ends=ENDS, start=life)
    open_wakes = [WakeRecorded.of(event) for event in still_open]
    cut = _cut(history, life, [wake.to_offset for wake in open_wakes])
    row_types = frozenset(name for name in history.types() if is_row_type(name))
    places = history.places(
        row_types | {EffectStaged.TYPE, DeliveryDeferred.TYPE}, start=life, stop=cut
    )
    forked = history.find(EntityForked.TYPE, "entity")
    ledger = history.find(Spent.TYPE, Spent.KEY)
    granted = history.find(Spent.TYPE, Granted.KEY)
    alone = (life, ended, *(row.offset for row in (forked, ledger, granted) if row is not None))
    found = {each for each in alone if each is not None}
    found.update(*(_ends_of(place) for pair, place in places.items() if _counts(pair, place)))
    found.update(timer.offset for timer in _timers(history, life).values())
    found.update(history.offsets(CONTROL_TYPES | row_types, start=cut))
    messages = {MessageReceived.TYPE}
    for wake in open_wakes:
        found.update(history.offsets(messages, start=wake.from_offset, stop=wake.to_offset))
    pending = [event.offset for event in load(history).pending]
    found.update(pending)
    last = history.last(WakeRecorded.TYPE)
    found.update(
        row.offset for row in (last, history.last(COMPACTION)) if row and row.offset >= life
    )
    held_from = min([cut, *pending, *(wake.from_offset for wake in open_wakes)])
    return Essence(offsets=found, held_from=held_from)


def upkeep_of(definition: Definition) -> Upkeep:
    """How the log of an entity of this type is kept."""
    retention = definition.retention
    return Upkeep(
        essential=essential,
        remember=remembered,
        fleeting=frozenset() if definition.keep_deltas else DELTA_TYPES | {PROGRESS_TYPE},
        age=retention.age,
        bytes_max=retention.bytes_max,
    )


def digest_of_message(event: Event) -> str:
    """What makes two messages of one id the same, of one that was let go, too."""
    return event.headers.get(DIGEST) or MessageReceived.of(event).digest


def remembered(rows: Rows) -> Rows | None:
    """What is kept of messages that are let go: id, offset, and the digest of what they said."""
    messages = rows.between(0, rows.end, limit=None, types={MessageReceived.TYPE})
    kept = [
        replace(event, text="", headers={**event.headers, DIGEST: MessageReceived.of(event).digest})
        for event in messages
        if event.text
    ]
    return Rows([to_batch(kept)]) if kept else None


def _counts(pair: tuple[str, str], place: Place) -> bool:
    return not place.gone and not SendScheduled.is_row(*pair)


def _ends_of(place: Place) -> set[int]:
    return {place.first, place.last}


def _timers(history: History, life: int) -> dict[str, Timer]:
    """The delayed sends of this life that are pending, in the order of their acceptance."""
    pending, _ = history.unended(
        SendScheduled.TYPE,
        header=SendScheduled.STATUS_HEADER,
        ends=(SendScheduled.SENT, SendScheduled.CANCELLED),
        start=life,
    )
    schedules = [event for event in pending if SendScheduled.is_row(event.type, event.key)]
    return {
        send.key: Timer(offset=event.offset, send=send)
        for event in sorted(schedules, key=lambda event: event.offset)
        for send in (SendScheduled.of(event),)
    }


def _cut(history: History, life: int, open_ends: list[int]) -> int:
    if open_ends:
        return min(open_ends)
    last = history.last(WakeRecorded.TYPE)
    if last is None or last.offset < life:
        return life + 1
    return WakeRecorded.of(last).to_offset
