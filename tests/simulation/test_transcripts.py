"""Whatever is said to an agent, and wherever its hosts die: its transcript is valid.

An example is a world: an agent with tools, a model that answers, thinks, calls tools, breaks off
and cannot be reached, sums up what has grown long, tools that people approve or deny, messages of
every mode, interrupts, and hosts that die at any write. In the end *every prefix* of the log is
read as a transcript and held against the strict rules of the Messages API, and the log against what
the model was asked and the senders were told.

    EXAMPLES=5000 pytest tests/simulation/test_transcripts.py --timeout=3600
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.compaction import Compaction
from ray_agents.definition import Limits, Registry
from ray_agents.errors import RayAgentsError
from ray_agents.events import Event, MessageReceived, WakeRecorded
from ray_agents.model import (
    Block,
    Message,
)
from ray_agents.modes import Mode
from ray_agents.requests import DecisionRequest, SendRequest, SpawnRequest
from ray_agents.runs import COMPACTION
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import TYPES, Timeline
from ray_agents.tools import tool
from ray_agents.views import Interrupted, Receipt, Status
from tests.cluster import gates
from tests.cluster.stores import DyingBlobs, memory
from tests.simulation.speaking import STEP, Speaker, Speech, speeches
from tests.simulation.world import SeededClock, World, options

EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
PATIENCE = 2000
LIMITS = Limits(attempts_max=1000, retry_delay=timedelta(milliseconds=1))
CLERK = Address.parse("/clerk/a")
registry = Registry()


@tool(idempotent=True)
async def look() -> str:
    """Look, which takes a while."""
    await SeededClock().sleep(STEP)
    return "seen"


@tool
async def write() -> str:
    """Write, and take one's time to end when told to."""
    try:
        await SeededClock().sleep(STEP * 2)
    finally:
        await SeededClock().sleep(STEP / 2)
    return "written"


@tool
async def fail() -> None:
    """Fail."""
    raise ValueError("as ever")


@tool(approval="required")
async def act() -> str:
    """Act, if people approve it."""
    gates.times["act"] += 1
    await SeededClock().sleep(STEP / 2)
    return "acted"


@tool(approval="required", approval_timeout=STEP * 3)
async def hurry() -> str:
    """Act, if people approve it soon."""
    gates.times["act"] += 1
    return "hurried"


@registry.entity("clerk", limits=LIMITS, idle_timeout=timedelta(milliseconds=5))
async def clerk(ctx: Any, wake: Any) -> None:
    """Run the agent, twice if a message says so; sum up what is long, if it was spawned so."""
    tokens = ctx.args.get("threshold")
    keep_last = 1 + tokens // 12 if tokens else 0
    compaction = tokens and Compaction(threshold=tokens, keep_last=keep_last, max_tokens=10)
    tools = [look, write, fail, act, hurry]
    ctx.use_agent(tools=tools, turns_max=5, compaction=compaction)
    await ctx.agent.run()
    if any("twice" in event.value["payload"] for event in ctx.events):
        await ctx.agent.run("And again.")


# -- the world ---------------------------------------------------------------------------------

sends = st.tuples(st.just("send"), st.sampled_from(list(Mode)), st.sampled_from(["", " twice"]))
late = st.tuples(st.just("late"), st.sampled_from(list(Mode)), st.integers(1, 40))
interrupts = st.tuples(st.just("interrupt"))
crashes = st.tuples(st.just("crash"))
decisions = st.tuples(st.just("decide"), st.sampled_from(["approve", "deny"]))
deeds = st.one_of(sends, sends, sends, late, interrupts, interrupts, decisions, decisions, crashes)
plans = st.lists(
    st.tuples(st.integers(0, 8), deeds), min_size=4, max_size=16
)  # each after so many quarters


class Simulation:
    """One world: what is done to one entity, and what it was told."""

    def __init__(
        self, speaker: Speaker, deaths: Sequence[int], seed: int, *, threshold: int = 0
    ) -> None:
        self.threshold = threshold  # of what is summed up, in tokens; 0 for never
        self.random = Random(seed)
        self.clock = SeededClock()
        self.store = memory()
        self.speaker = speaker
        self.deaths = iter(deaths)
        self.sent: dict[str, SendRequest] = {}
        self.receipts: list[Receipt] = []
        self.stopped: list[Interrupted] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.runtime: LocalRuntime | None = None
        self.blobs = DyingBlobs(self.store)
        self.booting = asyncio.Lock()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def living(self) -> LocalRuntime:
        """The runtime; a new one if the last has died, which may die in its turn."""
        async with self.booting:
            return await self._living()

    async def _living(self) -> LocalRuntime:
        while self.runtime is None or self.runtime.hosts.gone:
            if self.runtime is not None:
                await self.runtime.crash()
            self.blobs = blobs = DyingBlobs(self.store, after=self.random.random() < 0.5)
            blobs.crash_at = next(self.deaths, None)
            runtime = self.new_runtime(blobs)
            blobs.died = runtime.hosts.vanish
            self.runtime = runtime
            try:
                await runtime.__aenter__()
            except RayAgentsError:
                runtime.hosts.vanish()
        return self.runtime

    def new_runtime(self, blobs: Any) -> LocalRuntime:
        speaking = self.speaker.for_any
        return LocalRuntime(blobs, model_for=speaking, **options(self.random, self.clock))

    async def send(self, request: SendRequest) -> None:
        """As a client does: the same message again until it is acknowledged."""
        while True:
            try:
                self.receipts.append(await (await self.living()).send(CLERK, request))
            except RayAgentsError:
                await self.clock.sleep(STEP)
            else:
                return

    async def interrupt(self) -> None:
        try:
            self.stopped.append(await (await self.living()).interrupt(CLERK))
        except RayAgentsError:
            return  # its host died: whether it is in the log or not is not known

    async def decide(self, decision: str) -> None:
        """On the first tool call that waits for it."""
        with suppress(RayAgentsError):  # its host died, or others have decided
            runtime = await self.living()
            for approval in (await runtime.inspect(CLERK)).approvals[:1]:
                request = DecisionRequest.model_validate({"decision": decision})
                await runtime.decide(CLERK, approval.key, request)

    def message(self, mode: Mode, note: str = "", after: float = 0) -> SendRequest:
        name = f"m{len(self.sent)}."
        request = SendRequest(payload=name + note, id=name, mode=mode, after_seconds=after)
        self.sent[name] = request
        return request

    async def do(self, deed: Sequence[Any]) -> None:
        match deed:
            case ("send", mode, note):
                self.later(self.send(self.message(mode, note)))
            case ("late", mode, after):
                self.later(self.send(self.message(mode, after=after / 1000)))
            case ("interrupt",):
                self.later(self.interrupt())
            case ("decide", decision):
                self.later(self.decide(decision))
            case _:
                (await self.living()).hosts.vanish()

    async def run(self, plan: Sequence[tuple[int, Sequence[Any]]]) -> list[Event]:
        """Do it all; the log in the end."""
        async with self.new_runtime(self.store) as first:
            await first.register(registry)
            args = {"threshold": self.threshold} if self.threshold else {}
            await first.spawn(CLERK, SpawnRequest(args=args))
        for quarters, deed in [(0, ("send", Mode.QUEUED, "")), *plan]:
            await self.clock.sleep(STEP * quarters / 4)
            await self.do(deed)
        while self.tasks:
            await asyncio.wait(self.tasks)
        self.deaths = iter(())
        self.blobs.crash_at = None
        if self.runtime is not None and self.random.random() < 0.5:
            self.runtime.hosts.vanish()
        await self.until_quiet()
        await self.send(self.message(Mode.QUEUED))  # whose run hears all that was not heard
        await self.until_quiet()
        runtime = await self.living()
        events = [event async for event in runtime.observe(CLERK, live=False)]
        await runtime.__aexit__(None, None, None)
        return events

    async def until_quiet(self) -> None:
        view = None
        for _ in range(PATIENCE):
            assert not self.speaker.refused
            view = await (await self.living()).inspect(CLERK)
            if view.status is Status.SLEEPING and view.next_due is None:
                return
            await self.decide("approve")
            await self.clock.sleep(timedelta(milliseconds=5))
        raise AssertionError(f"not quiet: {view}")

    def check(self, events: list[Event]) -> None:
        final = check_prefixes(events)
        if self.threshold:
            check_summaries(events)
            final = Timeline(events, whole=True).messages()
        else:
            check_requests(self.speaker.requests, final)
        check_messages_once(set(self.sent), events, final)
        check_heard(set(self.sent), self.speaker.requests)
        check_ends(events)
        check_approved(events)
        for answer in self.stopped:
            check_stopped(answer, events)


def check_prefixes(events: list[Event]) -> list[Message]:
    """Each prefix of the log is a valid transcript, as it is, and when a run begins; the last."""
    timeline, before = Timeline(), list[Message]()
    for event in events:
        timeline.see(event)
        messages = timeline.messages()
        if messages != before:
            check_messages(messages, ends_with_user=False)
            before = messages
            following = deepcopy(timeline)
            following.take("run", "the next", {"input": None})
            check_messages(following.messages())
    return before


def check_summaries(events: list[Event]) -> None:
    """The newest summary and the rows it names give what all rows give, at any time after it."""
    rows = [event for event in events if event.type in TYPES]
    for at, event in enumerate(rows):
        newest = next((row for row in reversed(rows[:at]) if row.type == COMPACTION), None)
        if newest is None or newest.value["read_from"] is None:
            continue
        read = [row for row in rows[:at] if row.offset >= newest.value["read_from"]]
        short, full = Timeline([newest, *read]), Timeline(rows[:at])
        assert short.messages() == full.messages(), event
        assert short.answers == full.answers


def check_requests(requests: Sequence[list[Message]], final: list[Message]) -> None:
    """What the model was asked is what everybody reads later, up to there."""
    whole = flat(final)
    for request in requests:
        asked = flat(request)
        assert asked == whole[: len(asked)]


def check_messages_once(sent: set[str], events: list[Event], final: list[Message]) -> None:
    """Each message is in one wake, which has ended, and is heard once."""
    ends = [WakeRecorded.of(event) for event in events if event.type == "wake"]
    closed = {wake.key: wake for wake in ends if wake.closed}.values()
    messages = [event for event in events if event.type == MessageReceived.TYPE]
    assert {message.key for message in messages} == sent
    for message in messages:
        assert [wake.took(message.offset) for wake in closed].count(True) == 1, message.key
    heard = Counter(
        block["text"].split(".")[0] + "."
        for role, block in flat(final)
        if role == "user" and block.get("text", "").startswith("m")
    )
    assert heard == dict.fromkeys(sent, 1)


def check_heard(sent: set[str], requests: Sequence[list[Message]]) -> None:
    """A model was told each message, be it one that was asked to sum up."""
    told = {block.get("text", "") for request in requests for _, block in flat(request)}
    assert {name for name in sent if not any(name in text for text in told)} == set()


def check_ends(events: list[Event]) -> None:
    """Nothing is left begun: no run, no step, no call, no wake."""
    newest = {(event.type, event.key): event for event in events}
    for (kind, key), event in newest.items():
        if kind in ("run", "step", "tool_call", "wake", "text", "reasoning") and event.text:
            unended = ("started", "executing", "streaming", "waiting")
            assert event.value["status"] not in unended, key


def check_approved(events: list[Event]) -> None:
    """Nobody is waited for; what ran was approved, once for each time that it ran."""
    newest = {event.key: event.value for event in events if event.type == "approval"}
    assert "pending" not in {row["status"] for row in newest.values()}
    approved = {key for key, row in newest.items() if row["status"] == "approved"}
    began = [
        event.key
        for event in events
        if event.type == "tool_call"
        and event.text
        and event.value["tool_name"] in ("act", "hurry")
        and event.value["status"] == "executing"
    ]
    assert set(began) <= approved
    assert len(began) == len(set(began))
    assert gates.times["act"] <= len(began)


def check_stopped(answer: Interrupted, events: list[Event]) -> None:
    """A wake whose interrupt was acknowledged makes no model call behind it, and is handled."""
    if not answer.interrupted:
        return
    ends = [WakeRecorded.of(event) for event in events if event.type == "wake"]
    (end,) = [wake for wake in ends if wake.key == answer.wake and wake.closed]
    assert end.interrupted
    begun = [
        (event.key, event.value["attempt"], event.offset)
        for event in events
        if event.type == "step" and event.key.startswith(f"{answer.wake}-")
    ]
    first = {(key, attempt): offset for key, attempt, offset in reversed(begun)}
    assert answer.offset is not None
    assert max(first.values(), default=-1) < answer.offset


def flat(messages: Sequence[Message]) -> list[tuple[str, Block]]:
    return [(message["role"], block) for message in messages for block in message["content"]]


def silent(*blocks: tuple[str, str]) -> Speech:
    """An answer that comes whole."""
    return Speech(list(blocks), "end_turn", "no")


HM, WELL, HIDDEN = ("thinking", "Hm. "), ("text", "Well. "), ("redacted_thinking", "x")
# A summary keeps a run from its answer on, whose beginning is read again for a message's sake.
READ_AGAIN: dict[str, Any] = {
    "script": [
        *(silent(HM), silent(HM), silent(HM, HIDDEN, HM), silent(HM, WELL, HIDDEN, HM)),
        *(silent(HM), silent(HIDDEN, WELL, HM, HM), silent(HM), silent(HM), silent(HM)),
        *(silent(HIDDEN), silent(WELL), silent(HM)),
    ],
    "plan": [
        *((0, ("send", Mode.QUEUED, "")), (0, ("send", Mode.QUEUED, ""))),
        *((4, ("decide", "approve")), (0, ("send", Mode.IMMEDIATE, ""))),
        *((1, ("send", Mode.QUEUED, "")), (0, ("send", Mode.QUEUED, " twice"))),
        *((6, ("decide", "approve")), (0, ("send", Mode.QUEUED, ""))),
        *((7, ("send", Mode.QUEUED, "")), (6, ("decide", "approve"))),
        *((0, ("send", Mode.QUEUED, "")), (0, ("crash",)), (0, ("send", Mode.QUEUED, ""))),
    ],
    "deaths": [],
    "seed": 0,
    "threshold": 12,
}


LOOKING = Speech([("text", "Well. "), ("call", "look")], "end_turn", "no")
# A message comes while a run goes on, and that run sums up beyond it before it ends.
PASSED_OVER: dict[str, Any] = {
    "script": [*[LOOKING] * 5, *[silent(WELL)] * 8],
    "plan": [(1, ("send", Mode.QUEUED, "")), *[(8, ("decide", "deny"))] * 5],
    "deaths": [],
    "seed": 0,
    "threshold": 12,
}
# A run takes a message in, and goes on elsewhere.
STEERED_AND_CRASHED: dict[str, Any] = {
    "script": [*[LOOKING] * 3, *[silent(WELL)] * 4],
    "plan": [(2, ("send", Mode.STEER, "")), (8, ("crash",))],
    "deaths": [],
    "seed": 0,
    "threshold": 0,
}
# A run takes a message in, goes on elsewhere and ends; the next one sums up to that message.
GONE_ON_AND_SUMMED_UP: dict[str, Any] = {
    "script": [silent(HM), silent(("call", "look")), silent(WELL), silent(WELL)],
    "plan": [
        *((0, ("interrupt",)), (0, ("send", Mode.QUEUED, " twice"))),
        *((0, ("late", Mode.STEER, 1)), (5, ("crash",))),
    ],
    "deaths": [],
    "seed": 0,
    "threshold": 48,
}
# A summary reaches up to an answer behind a message that the run took in, which is not read again.
TAKEN_IN_BEFORE: dict[str, Any] = {
    "script": [silent(HIDDEN), *[silent(WELL)] * 3],
    "plan": [
        *((0, ("late", Mode.STEER, 18)), (1, ("crash",))),
        *((6, ("late", Mode.QUEUED, 1)), (3, ("interrupt",))),
    ],
    "deaths": [],
    "seed": 0,
    "threshold": 12,
}


@example(**READ_AGAIN)
@example(**PASSED_OVER)
@example(**STEERED_AND_CRASHED)
@example(**GONE_ON_AND_SUMMED_UP)
@example(**TAKEN_IN_BEFORE)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    script=st.lists(speeches, min_size=4, max_size=12),
    plan=plans,
    deaths=st.lists(st.integers(1, 60), max_size=4),
    seed=st.integers(0, 2**16),
    threshold=st.sampled_from([0, 0, 12, 24, 48]),
)
def test_any_interleaving_gives_a_valid_transcript(
    script: list[Speech], plan: list[Any], deaths: list[int], *, seed: int, threshold: int
) -> None:
    gates.reset()
    simulation = Simulation(Speaker(script), deaths, seed, threshold=threshold)
    with asyncio.Runner(loop_factory=World) as runner:
        events = runner.run(simulation.run(plan))
    simulation.check(events)
