"""Owners that do not know of each other, and a reader, on one log: one play for each seed.

Before every call to the medium, and in the middle of every write, somebody else may go on. Owners
claim whenever they like, also while the newest one lives. Some stop for ever at some step, some
meet a call that fails, some are left standing while the others do a lot. What comes of it is one
history: every acknowledged event is in it once, and nothing that a reader was given leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from ray_agents.errors import Fenced, StoreUnavailable
from ray_agents.log.owner import LogOwner
from ray_agents.log.reader import LogReader
from ray_agents.ports import Appender, Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import FOLDER, Log, Ticks, message
from ray_agents.testing.lossy_blobs import LossyBlobs
from tests.faults.promises import Promises
from tests.faults.stage import Act, Stage, StageIO

ACTORS_MAX = 4
Disguise = Callable[[str, Blobs], Blobs]
FAILING = ("sync", "sync", "sync_names", "write", "create", "read", "exists", "append", "delete")
SWITCHES = (0.02, 0.1, 0.3, 1.0)  # how often somebody else goes on
STEPS_TO_DIE_MAX, STEPS_STANDING_MAX = 60, 150


class SteppedBlobs(FaultyBlobs):
    """The medium as one actor sees it: each call is a step, at which the actor may die."""

    def __init__(
        self, inner: Blobs, step: Callable[[], None], spoil: Callable[[str], None]
    ) -> None:
        super().__init__(inner)
        self._step = step
        self.spoil = spoil
        self.steps_left: int | None = None
        self.fails: str | None = None
        self.blameless = True

    def check(self, operation: str) -> None:
        """Make a step, unless it is a close, for which nobody has to live."""
        if operation == "close":
            return
        self._step()
        super().check(operation)
        if self.steps_left is not None:
            self.steps_left -= 1
        if self.steps_left == 0 or operation == self.fails:
            self.fails, self.blameless = None, False
            if self.steps_left == 0:
                self.steps_left = 1  # dead, and so is every further call
            raise StoreUnavailable("this call fails", path=operation)

    def append(self, name: str) -> Appender:
        """See :class:`ray_agents.ports.Blobs`."""
        return SteppedAppender(super().append(name), lambda: self._sync_failed(name))

    def _sync_failed(self, name: str) -> None:
        if self.steps_left is None:  # or it never came to that: the process died
            self.spoil(name)


class SteppedAppender:
    """Every write is seen by halves; a sync that fails has lost what it was for."""

    def __init__(self, file: Appender, spoil: Callable[[], None]) -> None:
        self._file = file
        self._spoil = spoil
        self.close = file.close

    def sync(self) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        try:
            self._file.sync()
        except StoreUnavailable:
            self._spoil()
            raise

    def write(self, data: bytes) -> None:
        """See :class:`ray_agents.ports.Appender`."""
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.write(data[half:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A log before the play, to be copied for each."""

    disk: LossyBlobs
    promises: Promises


async def beginning(ends: str) -> Beginning:
    """A log of some wakes, by how each ended.

    ``s``ealed, ``t``idied and sealed, ``a``bandoned, ``f``ailed at a sync, ``n``ever begun.
    """
    disk, promises = LossyBlobs(), Promises()
    blobs = FaultyBlobs(disk)
    log = Log(blobs, io=StageIO(prompt=True))
    for number, end in enumerate(ends):
        if end == "n":
            await log.claim_only()
            continue
        owner = await log.claim(token=f"before-{number}")
        promises.acknowledge(await owner.append([message(f"before-{number}")]))
        if end == "f":
            blobs.refuse["sync"] = StoreUnavailable("the process dies here", path="")
            with suppress(StoreUnavailable):
                await owner.append([message("tail")])
            del blobs.refuse["sync"]
        if end == "t":
            await owner.tidy_up()
        await (owner.seal() if end in "st" else owner.abandon())
    return Beginning(disk=disk, promises=promises)


BEGINNINGS = ("", "s", "a", "f", "sn", "sf", "fs", "fn", "s" * 17, "s" * 17 + "t")


async def beginnings() -> list[Beginning]:
    """No log; clean ends, crashes, claims that came to nothing; a merge that is due, or made."""
    return [await beginning(ends) for ends in BEGINNINGS]


def undisguised(_: str, blobs: Blobs) -> Blobs:
    """An actor that sees things as they are."""
    return blobs


@dataclass(slots=True)
class Play:
    """One play; ``disguise`` is what an actor, ``owner`` or ``reader``, takes for the medium."""

    seed: int
    stage: Stage
    begin: Beginning
    disguise: Disguise = undisguised
    promises: Promises = field(default_factory=Promises)
    disk: LossyBlobs = field(default_factory=LossyBlobs)
    clock: Ticks = field(default_factory=Ticks)
    chance: Random = field(default_factory=Random)
    spoiled: bool = False

    def run(self) -> None:
        """Play, then look."""
        self.chance = Random(self.seed)
        self.disk = self.begin.disk.copy()
        before = self.begin.promises
        self.promises.acknowledged = dict(before.acknowledged)
        owners = self.chance.choice([2, 2, 3])
        acts: list[Act] = [self._owner(number) for number in range(owners)]
        acts.append(self._reader())
        self.stage.play(acts, self._choices(len(acts)))
        dice = self.chance.random()
        if dice < 0.6:
            self._end(self.disk, "after")
        if dice > 0.5:
            if self.spoiled:  # a reader may have synced after a sync that failed, and not know
                self.promises.served, self.promises.served_tip = {}, 0
            self._end(self.disk.after_power_loss(self.chance), "after power loss")

    def _end(self, disk: LossyBlobs, name: str) -> None:
        self.stage.play([self._epilogue(disk, name)], lambda _, left: left[0])

    def _spoil(self, name: str) -> None:
        self.spoiled = True
        self.disk.spoil(name)

    def _choices(self, actors: int) -> Callable[[int, Sequence[int]], int]:
        chance, stage = self.chance, self.stage
        switch = chance.choice(SWITCHES)
        standing = chance.randrange(2 * actors)  # half of the time, nobody
        first = chance.randrange(STEPS_TO_DIE_MAX)
        last = first + chance.randrange(STEPS_STANDING_MAX)

        def choose(on: int, left: Sequence[int]) -> int:
            stands = first <= stage.steps < last
            if on in left and chance.random() >= switch and not (stands and on == standing):
                return on
            others = [actor for actor in left if actor != standing] if stands else left
            return chance.choice(others or left)

        return choose

    def _blobs(self, role: str) -> SteppedBlobs:
        blobs = SteppedBlobs(self.disguise(role, self.disk), self.stage.step, self._spoil)
        dice = self.chance.random()
        if dice < 0.2:
            blobs.steps_left = self.chance.randint(1, STEPS_TO_DIE_MAX)
        elif dice < 0.35:
            blobs.fails = self.chance.choice(FAILING)
        return blobs

    def _log(self, blobs: Blobs) -> Log:
        kept = self.chance.choice([0, 1 << 20])
        io = StageIO(prompt=self.chance.random() < 0.5, kept_bytes_max=kept)
        log = Log(blobs, io=io)
        log.clock = self.clock
        return log

    def _owner(self, number: int) -> Act:
        blobs, wakes = self._blobs("owner"), self.chance.randint(1, 2)
        log = self._log(blobs)

        async def act() -> None:
            for wake in range(wakes):
                try:
                    await self._wake(log, f"{number}-{wake}")
                except Fenced:
                    continue
                except StoreUnavailable:
                    assert self.spoiled or not blobs.blameless, (
                        "no call has failed, and yet it was not fenced"
                    )

        return act

    async def _wake(self, log: Log, name: str) -> None:
        owner = await log.claim(token=name)
        try:
            for number in range(self.chance.randint(0, 2)):
                await self._append(owner, f"{name}-{number}")
            if not owner.tidy or self.chance.random() < 0.1:
                await owner.tidy_up()
            if self.chance.random() < 0.6:
                await owner.seal()
        finally:
            await owner.abandon()

    async def _append(self, owner: LogOwner, key: str) -> None:
        keys = [f"{key}-{n}" for n in range(self.chance.randint(1, 2))]
        self.promises.acknowledge(await owner.append([message(each) for each in keys]))

    def _reader(self) -> Act:
        blobs, looks = self._blobs("reader"), self.chance.randint(1, 4)
        log = self._log(blobs)
        reader = LogReader(blobs, FOLDER, log.io)

        async def act() -> None:
            for _ in range(looks):
                await self._look(reader)

        return act

    async def _look(self, reader: LogReader) -> None:
        try:
            self.promises.serve(await reader.read(self.promises.served_tip, limit=10**6))
        except StoreUnavailable:
            return  # a call failed, or the log changes hands too fast

    def _epilogue(self, disk: LossyBlobs, name: str) -> Act:
        """One more owner and a fresh reader find the one history, and go on."""

        async def act() -> None:
            log = Log(disk, io=StageIO(prompt=True))
            log.clock = self.clock
            owner = await log.claim(token=name)
            self.promises.check(owner.history.read(0))
            self.promises.acknowledge(await owner.append([message(name)]))
            history = owner.history.read(0)
            self.promises.check(history)
            await owner.seal()
            assert (await log.reader().read(0, limit=10**6)).events == history

        return act
