"""Random logs of an entity that could really be: wakes one after another, lives, retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from ray_agents import schedule, wakes
from ray_agents.approvals import ApprovalRecorded
from ray_agents.closing import closing_drafts
from ray_agents.definition import Limits
from ray_agents.effects import Effects
from ray_agents.events import (
    Draft,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    Event,
    MessageReceived,
    Operation,
    OutboxKind,
    SendScheduled,
    WakeStatus,
)
from ray_agents.ledger import Granted, Spent
from ray_agents.model import Usage
from ray_agents.origin import Cause, EntityForked
from ray_agents.projection import State
from ray_agents.views import ApprovalStatus

LIMITS = Limits(attempts_max=2)
KEYS = "abcd"


@dataclass
class LogMaker:
    """Writes a log by chance, each row one that the runtime could write after those before."""

    random: Random
    events: list[Event] = field(default_factory=list[Event])
    state: State = field(default_factory=State)
    effects: Effects | None = None
    messages: int = 0
    kill_chance: float = 0.02

    def write(self, *drafts: Draft) -> None:
        for draft in drafts:
            offset = self.events[-1].offset + 1 if self.events else 1
            event = Event.at(offset + (self.random.random() < 0.1), offset, draft)
            self.events.append(event)
            self.state.apply(event)

    def step(self) -> None:
        """One more thing happens."""
        if not self.state.alive:
            self.spawn()
            return
        steps: list[Callable[[], None]] = [self.message, self.wake, self.wake, self.effect]
        steps += [self.effect, self.end, self.end, self.resolve, self.deliver, self.other]
        steps += [self.schedule, self.fire, self.pay, self.join, self.interrupt]
        steps += [self.ask_people, self.decide]
        if self.random.random() < self.kill_chance:
            steps = [self.kill, self.fork]
        self.random.choice(steps)()

    def spawn(self) -> None:
        life = self.state.created.life + 1 if self.state.created else 0
        created = EntityCreated(
            entity_type="t", args={}, tags={}, parent=None, life=life, spawn_id="s", timestamp=0
        )
        self.effects = None
        self.write(created.draft())

    def kill(self) -> None:
        self.effects = None
        self.write(EntityStopped(reason=None, life=0, timestamp=0).draft())

    def fork(self) -> None:
        """From here on it is the log of a fork, or of an import."""
        now = len(self.events)
        created = self.state.created
        assert created is not None
        origin = EntityForked(
            key=f"f{now}",
            cause=self.random.choice(list(Cause)),
            source="/t/source",
            offset=now,
            life=created.life,
            parent=None,
            created=now,
            woken=self.state.woken or bool(self.state.wakes),
            timestamp=now,
        )
        self.effects = None
        self.write(origin.draft(), *closing_drafts(self.state, [], now=now))
        left = (self.state.wakes, self.state.pending, self.state.outbox, self.state.effects)
        assert not any((*left, self.state.timers, self.state.deferred, self.state.approvals))

    def message(self) -> None:
        self.messages += 1
        key = f"m{self.messages}"
        row = MessageReceived(
            key=key, payload=key, message_type="message", sender=None, timestamp=0
        )
        self.write(row.draft())

    def schedule(self) -> None:
        self.messages += 1
        created = self.state.created
        assert created is not None
        row = SendScheduled(
            key=f"m{self.messages}",
            fire_at=self.random.randrange(1000),
            payload="later",
            message_type="message",
            sender=None,
            target="/t/x",
            life=created.life,
            timestamp=0,
        )
        self.write(row.draft())

    def fire(self) -> None:
        for timer in list(self.state.timers.values())[:1]:
            if self.random.random() < 0.8:
                message = timer.send.message(now=0)
                self.write(message.draft(), timer.send.sent(now=0))

    def other(self) -> None:
        kind = "text" if len(self.events) % 3 else "compaction"
        self.write(Draft.of(kind, "t", value="hello"))

    def wake(self) -> None:
        """Begin an attempt, or let one whose host died be tried again."""
        if self.effects is not None and self.random.random() < 0.7:
            return
        attempt = wakes.Attempt(host="h", definition_version=1, now=len(self.events))
        current = self.state.current
        if not wakes.ready(self.state):
            return
        if current is not None:
            begun = wakes.again(current, attempt, LIMITS)
        else:
            begun = wakes.begin(self.state, attempt)
        self.write(begun.draft())
        started = begun.status is WakeStatus.STARTED
        committed = self.state.effects.get(begun.key, {})
        self.effects = Effects(begun.key, dict(committed), self.state.rows) if started else None
        for (scope, _), done in committed.items() if self.effects is not None else ():
            assert self.effects is not None
            self.effects.adopt(scope)
            assert done.events

    def effect(self) -> None:
        """Stage something, and perhaps commit it."""
        if self.effects is None:
            return
        key = self.random.choice(KEYS)
        kind = self.random.choice(["upsert", "delete", "send"])
        if kind == "send":
            place = f"{len(self.events)}-{self.effects.next_ordinal()}"
            sent = EffectStaged(key=place, kind=OutboxKind.SEND, target=f"/t/{key}", body={})
            self.effects.stage("send", place, content=place, drafts=[sent.draft({})])
        elif kind == "upsert" or self.effects.row("state:rows", key) is None:
            draft = Draft.of("state:rows", key, value=len(self.events))
            self.effects.stage("upsert", key, content=len(self.events), drafts=[draft])
        else:
            draft = Draft(type="state:rows", key=key, operation=Operation.DELETE)
            self.effects.stage("delete", key, content=None, drafts=[draft])
        if self.random.random() < 0.5:
            self.write(*self.effects.take())

    def pay(self) -> None:
        """A model has answered: its step, and beside it the ledger; or a child got its share."""
        if self.effects is None:
            return
        if self.random.random() < 0.2:
            given = Granted(tokens=self.random.randrange(9), micros=1)
            self.write((self.state.granted + given).draft())
            return
        usage = Usage(input_tokens=self.random.randrange(9), output_tokens=len(self.events))
        cost = Spent(usage=usage, micros=3, uncounted=self.random.randrange(2))
        row = {"status": "completed", **cost.as_row()}
        step = Draft.of("step", f"r:s{len(self.events)}", value=row)
        self.write(*self.effects.mark([step]), (self.state.spent + cost).draft())

    def join(self) -> None:
        """The running wake takes a message in that came after it had begun."""
        running = [w for w in self.state.wakes.values() if w.status is WakeStatus.STARTED]
        if self.effects is not None and running and self.state.pending:
            offset = self.random.choice(self.state.pending).offset
            joined = (*running[0].joined, offset)
            self.write(replace(running[0], joined=joined).draft())
            assert offset not in [event.offset for event in self.state.pending]

    def interrupt(self) -> None:
        """The wake to go on with is told to stop."""
        wake = self.state.current
        if wake is not None and self.random.random() < 0.2:
            self.write(replace(wake, interrupted=True).draft())

    def end(self) -> None:
        """The running attempt ends, well or badly."""
        running = [w for w in self.state.wakes.values() if w.status is WakeStatus.STARTED]
        if self.effects is None or not running:
            return
        wake = running[0]
        if self.random.random() < 0.6:
            end = wakes.handled(wake, now=0, reply=None, text=None)
            self.write(*self.effects.take(), end.draft())
        else:
            self.write(wakes.failed(wake, "no", now=0, limits=LIMITS).draft())
        self.effects = None

    def ask_people(self) -> None:
        """The running attempt comes to a tool call that people must approve, and may wait."""
        running = [w for w in self.state.wakes.values() if w.status is WakeStatus.STARTED]
        if self.effects is None or not running:
            return
        key = f"{running[0].key}-run-1:s{len(self.events)}:tool:0"
        asked = ApprovalRecorded(
            key=key,
            status=ApprovalStatus.PENDING,
            run_id="r",
            tool_call_id=f"call-{len(self.events)}",
            tool_name="t",
            args={},
            requested_at=0,
            expires_at=self.random.choice([None, 500]),
        )
        self.write(*self.effects.mark([asked.draft()]))
        if self.random.random() < 0.7:
            self.write(wakes.waiting(running[0], now=0).draft())
            self.effects = None

    def decide(self) -> None:
        for asked in list(self.state.approvals.values()):
            if asked.pending and self.random.random() < 0.7:
                ends = [each for each in ApprovalStatus if each is not asked.status]
                self.write(asked.decided(self.random.choice(ends), now=0).draft())

    def resolve(self) -> None:
        for wake in self.state.parked:
            if self.random.random() < 0.3:
                retried = wakes.retried(wake, now=0, version=1)
                skipped = wakes.skipped(wake, now=0)
                self.write(self.random.choice([retried, skipped]).draft())

    def deliver(self) -> None:
        for outgoing in list(self.state.outbox.values())[:1]:
            waited = self.state.deferred.get(outgoing.effect.target)
            if self.random.random() < 0.3:
                target = outgoing.effect.target
                self.write(schedule.deferred(waited, target, error="away", now=0).draft())
            else:
                ended = [waited.ended()] if waited else []
                self.write(outgoing.effect.delivered(), *ended)


def random_log(seed: int, *, steps: int, kill_chance: float = 0.02) -> list[Event]:
    """The log of that seed."""
    maker = LogMaker(Random(seed), kill_chance=kill_chance)
    for _ in range(steps):
        maker.step()
    return maker.events
