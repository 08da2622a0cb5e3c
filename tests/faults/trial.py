"""One trial of the agent loop: the run of the fifteen, killed at some points, held to its promises.

Nothing that was recorded is paid or done again; the run ends right; and the ledger is the
provider's own count, but for calls whose end no process lived to record, which it marks.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.errors import UnknownEntity
from ray_agents.events import Event, WakeRecorded
from ray_agents.ledger import Spent
from ray_agents.log.segment import parse_segment
from ray_agents.model import Usage
from ray_agents.prices import PRICES
from ray_agents.tables.cost import cost
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.timeline import INTERRUPTED
from tests.cluster.rig import closed_covers, read_log
from tests.faults.bank import Bank, Bill
from tests.faults.fifteen import (
    BEGUN,
    CLERK,
    DONE,
    LAST_WORDS,
    STEPS,
    TOOLS,
    deeds,
    is_idempotent,
    name_of,
)
from tests.faults.points import Extent, Point
from tests.faults.zygote import Zygote

TARGET = "tests.faults.fifteen:live"
LIFE_MAX = timedelta(seconds=45)
WORD_DELAY = timedelta(milliseconds=1)
KILLED = -9


@dataclass(slots=True, kw_only=True)
class Trial:
    """One run, from its first life to its end. ``broken`` names a way in :mod:`breaking`."""

    store: Path
    address: Address = CLERK
    points: Sequence[Point | None] = ()
    broken: str = ""
    bank: Bank = field(default_factory=Bank)
    died: list[Point] = field(default_factory=list[Point])
    recorded: list[int] = field(default_factory=list[int])  # steps before each life
    known: list[Usage] = field(default_factory=list[Usage])  # of lost calls before each life
    events: list[Event] = field(default_factory=list[Event])

    @property
    def deeds(self) -> Path:
        """The file in which the tools of a life without Ray tell what they do."""
        return self.store.with_suffix(".deeds")

    async def play(self, zygote: Zygote) -> None:
        """One life after the other, until one comes to the end."""
        api = MessagesApi(self.bank.answer, word_delay=WORD_DELAY, written=self.bank.wrote)
        async with api:
            for point in (*self.points, None):
                self.take_stock(await self._log())
                status = await self._live(zygote, api.url, point)
                if status == 0:
                    break
                assert status == KILLED, f"a life ended with {status}"
                assert point is not None, "a life was killed that was to be whole"
                self.died.append(point)
        self.events = await self._log()
        assert api.totals.tokens + api.totals.tokens_cut == self.bank.total

    def take_stock(self, events: list[Event]) -> None:
        """Keep what stands in the log before a life begins: it must not be lost, or made again."""
        self.events = events
        self.recorded.append(len(answers(events)))
        self.known.append(self._known())

    async def _log(self) -> list[Event]:
        try:
            return await read_log(str(self.store), self.address)
        except UnknownEntity:
            return []

    async def _live(self, zygote: Zygote, url: str, point: Point | None) -> int:
        order: dict[str, Any] = {
            "store": str(self.store),
            "url": url,
            "deeds": str(self.deeds),
            "first": not any(event.type == "inbox" for event in self.events),
            "point": asdict(point) if point else None,
            "broken": self.broken,
        }
        pid = await zygote.bear(order)
        self.bank.watch(pid, point)
        try:
            async with asyncio.timeout(LIFE_MAX.total_seconds()):
                return await zygote.end()
        except TimeoutError:
            self.bank.kill(pid)
            await zygote.end()
            raise AssertionError(f"a life did not end within {LIFE_MAX}") from None
        finally:
            self.bank.unwatch()

    # -- what must hold -----------------------------------------------------------------------

    def check(self, done: Path | None = None) -> None:
        """All of it; ``done`` is where the tools have told what they did, if not in ``deeds``."""
        self.check_the_calls()
        self.check_the_tools(deeds(done or self.deeds))
        self.check_the_end()
        self.check_the_ledger()

    def check_the_end(self) -> None:
        """The run ended right, and every call of a tool has one result."""
        assert closed_covers(self.events) == {"go": 1}
        (run,) = newest(self.events, "run").values()
        assert (run["status"], run["finish_reason"]) == ("completed", "end_turn")
        assert run["steps"] == STEPS
        assert run["text"].endswith(LAST_WORDS)
        last = [WakeRecorded.of(event) for event in self.events if event.type == "wake"][-1]
        assert last.reply == run["text"]
        calls = newest(self.events, "tool_call").values()
        assert sorted(call["tool_name"] for call in calls) == sorted(map(name_of, range(TOOLS)))
        for call in calls:
            assert call["status"] in ("completed", "failed")
            assert (call["result"] is None) is (call["error"] is not None)
            if call["error"] is not None:
                assert call["error"] == INTERRUPTED
                assert self.died
                assert not is_idempotent(int(call["tool_name"].removeprefix("tool_")))

    def check_the_calls(self) -> None:
        """No call was made whose step was recorded, and no other one more often than by deaths."""
        for bill in self.bank.bills:
            assert bill.step > self.recorded[bill.life], f"a recorded call was made again: {bill}"
        assert len(self.bank.bills) - STEPS <= len(self.died) + len(self.broke)
        assert {bill.step for bill in self.bank.bills} == set(range(1, STEPS + 1))

    def check_the_tools(self, done: Counter[tuple[int, str]]) -> None:
        """None that is not idempotent ran twice, and what has a result was done."""
        for number in range(TOOLS):
            begun = done[number, BEGUN]
            assert begun <= 1 + len(self.died) * is_idempotent(number), (
                f"{number} ran {begun} times"
            )
        for call in newest(self.events, "tool_call").values():
            number = int(call["tool_name"].removeprefix("tool_"))
            assert call["error"] or done[number, DONE] >= 1

    def check_the_ledger(self) -> None:
        """It says to the token what the kept calls cost, and of the lost ones what was known."""
        spent, lost = counted_in(self.events), self.lost
        kept, known = self._kept(), self.known_of_the_lost
        assert len(lost) <= spent.uncounted <= len(self.died) + len(self.broke)
        assert spent.usage == self.bank.total or lost
        since = [bill.seen for bill in self.broke if bill.life == self.bank.life and bill.frames]
        expected = total([self.known[-1], *since])
        assert self._known() == expected, "what was known of lost calls has been forgotten"
        price = PRICES.of(next(iter(newest(self.events, "step").values()))["model_id"])
        assert price is not None
        assert spent.micros == sum(price.micros(b.usage) for b in kept) + sum(
            price.micros(bill.seen) for bill in known
        )
        assert Spent.of([e for e in self.events if e.type == Spent.TYPE][-1]) == spent
        lines = {line.of: line for line in cost(str(self.store), by="entity")}
        line = lines[str(self.address)]
        assert line.cost_micros == spent.micros
        assert (line.steps, line.uncounted) == (STEPS, spent.uncounted)
        assert Usage.of(line.model_dump()) == spent.usage

    @property
    def known_of_the_lost(self) -> tuple[Bill, ...]:
        """Those of which the ledger has counted what their stream began with, all of the input."""
        rest = self._known()
        found = [each for each in groups(self.lost) if total([b.seen for b in each]) == rest]
        assert found, f"{rest} was counted for {self.lost}"
        return found[0]

    def _kept(self) -> list[Bill]:
        return [self.bank.bills[number] for number in answers(self.events).values()]

    def _known(self) -> Usage:
        return counted_in(self.events).usage - total([bill.usage for bill in self._kept()])

    @property
    def broke(self) -> list[Bill]:
        """The calls whose answers the provider broke off."""
        return [bill for bill in self.bank.bills if bill.breaks_after is not None]

    @property
    def lost(self) -> list[Bill]:
        """The calls that were answered, wholly or in part, and whose answer is in no log."""
        kept = set(answers(self.events).values())
        return [bill for number, bill in enumerate(self.bank.bills) if number not in kept]


@asynccontextmanager
async def zygote_in(folder: Path) -> AsyncGenerator[Zygote]:
    """A zygote of lives of the fifteen; where something is wrong, their complaints are shown."""
    said = folder / "said"
    try:
        async with Zygote(TARGET, said=said) as zygote:
            yield zygote
    except BaseException:
        print(said.read_text()[-4000:])
        raise


async def extent_of(trial: Trial, zygote: Zygote) -> Extent:
    """Play a trial without points, hold it to everything, and measure it."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await trial.play(zygote)
    trial.check()
    assert counted_in(trial.events).usage == trial.bank.total
    return Extent(
        appends=sum(map(frames_in, trial.store.glob(f"{entity_folder(CLERK)}/*.arrows"))),
        events=[bill.frames for bill in trial.bank.bills],
        milliseconds=int(1000 * (loop.time() - begun)),
    )


def frames_in(file: Path) -> int:
    """How many appends a segment holds."""
    return len(parse_segment(str(file), file.read_bytes()).digests)


def newest(events: Sequence[Event], type_name: str) -> dict[str, Any]:
    """The rows of a type by key, as they stand at the end."""
    rows: dict[str, Any] = {}
    for event in events:
        if event.type == type_name:
            if event.operation == "delete":
                rows.pop(event.key, None)
            else:
                rows[event.key] = event.value
    return rows


def answers(events: Sequence[Event]) -> dict[str, int]:
    """The number of the call that each completed step has recorded."""
    steps = newest(events, "step")
    return {
        key: int(found[1])
        for key, row in steps.items()
        if row["status"] == "completed"
        and (found := re.search(r"This is call (\d+)\.", str(row["content"])))
    }


def counted_in(events: Sequence[Event]) -> Spent:
    """What the newest row of each step says, in all."""
    rows = newest(events, "step").values()
    return sum((Spent.in_row(row) for row in rows), Spent())


def groups(bills: Sequence[Bill]) -> list[tuple[Bill, ...]]:
    """Every choice of some of them."""
    return [some for size in range(len(bills) + 1) for some in combinations(bills, size)]


def total(usages: Sequence[Usage]) -> Usage:
    """Their sum."""
    return sum(usages, Usage())
