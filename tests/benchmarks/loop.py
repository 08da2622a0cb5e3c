"""What the agent loop costs: how soon its words are seen, and what a step takes beside the model.

A stream is watched over HTTP, through Serve and HAProxy; what the log pays for it is counted in
frames, each of which was one sync. A step is held against the same step by the bare SDK, done by
a handler in the same host, with the same model, tools and words.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.deploy import deploy_serve
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.head import agents_of
from ray_agents.cluster.running import write_running
from ray_agents.http.runtime import HttpRuntime
from ray_agents.log.segment import parse_segment
from ray_agents.requests import SendRequest
from tests.benchmarks.agents import SOURCE, STEPS, Clocked, registry
from tests.benchmarks.figures import Figure, Printout, median, percentile
from tests.benchmarks.stage import PATIENCE, Stage, at_once

SEEN_BAR_MS = 50.0
SYNCS_BAR = 30.0
STEP_BAR_MS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSizes:
    """How much is measured: words of the stream, runs one by one, runs side by side."""

    words: int = 1_000
    runs: int = 30
    side_by_side: int = 16


FULL_LOOP = LoopSizes()
SLICE_LOOP = LoopSizes(words=300, runs=8, side_by_side=8)


async def print_loop(out: Printout, stage: Stage, model: Clocked, sizes: LoopSizes) -> None:
    """All figures of the loop."""
    await stage.runtime.register(registry, source=SOURCE)
    await print_steps(out, stage, model, runs=sizes.runs)
    await print_side_by_side(out, stage, runs=sizes.side_by_side)
    await print_stream(out, stage, model, words=sizes.words)


# -- steps ---------------------------------------------------------------------------------------


async def print_steps(out: Printout, stage: Stage, model: Clocked, *, runs: int) -> None:
    """What lies between two model calls, of the loop and of the bare SDK, run by run in turns."""
    out.head(f"loop: {runs} runs of {STEPS} steps and 15 tools on a packed host, and bare ones")
    await _run(stage, "worker", "warm")
    await _run(stage, "bare", "warm")
    gaps: dict[str, list[float]] = {"worker": [], "bare": []}
    taken: dict[str, list[float]] = {"worker": [], "bare": []}
    for number in range(runs):
        for name in ("bare", "worker"):
            model.begin()
            taken[name].append(await _run(stage, name, str(number)) / STEPS)
            gaps[name] += [1e3 * gap for gap in model.gaps]
    for name, title in (("bare", "bare SDK"), ("worker", "loop")):
        for share in (0.5, 0.99):
            value = percentile(gaps[name], share)
            what = f"{title}: between two model calls, p{share * 100:.0f}"
            out.add(Figure(name=what, value=value, unit="ms"))
    more = median(gaps["worker"]) - median(gaps["bare"])
    name = "loop overhead of a step, p50"
    out.add(Figure(name=name, value=more, unit="ms", bar=STEP_BAR_MS, note="loop less bare"))
    whole = median(taken["worker"]) - median(taken["bare"])
    note = f"whole asks, per step: {median(taken['worker']):.1f} and {median(taken['bare']):.1f} ms"
    out.add(Figure(name="the same by the whole run, p50", value=whole, unit="ms", note=note))


async def print_side_by_side(out: Printout, stage: Stage, *, runs: int) -> None:
    """The same of many runs at once in one host."""
    out.head(f"loop: {runs} runs side by side on one packed host")
    taken: dict[str, float] = {}
    for name in ("bare", "worker"):
        names = [f"beside-{number}" for number in range(runs)]
        each = await at_once(partial(_run, stage, name), names, concurrent_max=runs)
        taken[name] = median(each) / STEPS
    more = taken["worker"] - taken["bare"]
    note = f"per step: {taken['worker']:.1f} and {taken['bare']:.1f} ms"
    name = "overhead of a step beside others, p50"
    out.add(Figure(name=name, value=more, unit="ms", note=note))


async def _run(stage: Stage, kind: str, id: str) -> float:
    """Milliseconds of one run by a fresh entity, from ask to reply."""
    address = Address.of(kind, id)
    await stage.spawn(address)
    began = time.perf_counter()
    await stage.runtime.ask(address, SendRequest(payload="Work."), within=PATIENCE)
    return (time.perf_counter() - began) * 1e3


# -- a stream ------------------------------------------------------------------------------------


async def print_stream(out: Printout, stage: Stage, model: Clocked, *, words: int) -> None:
    """From the model's write to the observer's eye, word by word."""
    out.head(f"loop: a stream of {words} words, 100 a second, observed over HTTP")
    url = await asyncio.to_thread(_control_api, stage)
    token = await asyncio.to_thread(Path(stage.running.token_file).read_text)
    async with HttpRuntime(url, token.strip()) as http:
        await _observed(stage, http, Address.of("worker", "speaks-first"), 20)
        model.begin()
        address = Address.of("worker", "speaks")
        began = time.time_ns() // 1000
        seen = await _observed(stage, http, address, words)
        ended = time.time_ns() // 1000
    delays = [1e3 * delay for delay in delays_of(model.words, seen)]
    assert len(delays) == words
    name = "from the model's write to the observer"
    p50 = median(delays)
    out.add(Figure(name=f"{name}, p50", value=p50, unit="ms", bar=SEEN_BAR_MS))
    out.add(Figure(name=f"{name}, p99", value=percentile(delays, 0.99), unit="ms"))
    frames = frames_between(Path(stage.settings.store), address, began, ended)
    seconds = model.words[-1][0] - model.words[0][0]
    note = f"{frames} in {seconds:.1f} s for {words / seconds:.0f} words a second"
    name = "syncs of the log meanwhile"
    out.add(Figure(name=name, value=frames / seconds, unit="per s", bar=SYNCS_BAR, note=note))


def _control_api(stage: Stage) -> str:
    url = deploy_serve(stage.settings)
    running = stage.running.with_url(url)
    write_running(stage.settings, running.with_processes(agents_of(running)))
    return url


async def _observed(
    stage: Stage, http: HttpRuntime, address: Address, words: int
) -> list[tuple[float, str]]:
    """What an observer has seen of a speech, each piece with its second."""
    await stage.spawn(address)
    connected = asyncio.Event()
    watching = asyncio.create_task(_watch(http, address, connected))
    await connected.wait()
    request = SendRequest(payload=f"say {words}")
    await stage.runtime.ask(address, request, within=PATIENCE)
    return await watching


async def _watch(
    http: HttpRuntime, address: Address, connected: asyncio.Event
) -> list[tuple[float, str]]:
    seen: list[tuple[float, str]] = []
    async with aclosing(http.observe(address)) as events:
        async for event in events:
            connected.set()
            if event.type == "text_delta":
                seen.append((time.perf_counter(), event.value["delta"]))
            if event.type == "run" and event.value["status"] == "completed":
                break
    return seen


def delays_of(written: list[tuple[float, str]], seen: list[tuple[float, str]]) -> list[float]:
    """Seconds from each piece written to the piece seen that completes it."""
    ends = list(accumulate(len(text) for _, text in seen))
    begins = accumulate(len(text) for _, text in written)
    return [
        seen[bisect_left(ends, end)][0] - at for (at, _), end in zip(written, begins, strict=True)
    ]


def frames_between(store: Path, address: Address, began: int, ended: int) -> int:
    """How many frames, each of them a sync, an awake entity's log got in that time."""
    files = store.glob(f"{entity_folder(address)}/*.arrows")
    batches: list[Any] = [
        batch for file in files for batch in parse_segment(str(file), file.read_bytes()).batches
    ]
    times = [batch.column(1)[0].value for batch in batches]
    return sum(began <= each <= ended for each in times)
