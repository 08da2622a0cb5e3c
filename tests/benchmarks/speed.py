"""How fast a message is handled: by an entity that is awake, by one that sleeps, by a thousand."""

from __future__ import annotations

import time
from pathlib import Path

from ray_agents.address import Address
from tests.benchmarks import floor
from tests.benchmarks.figures import Figure, Printout, median, percentile
from tests.benchmarks.stage import PACKED_HOSTS, Stage, at_once, processors

ROUNDS = 5
CLIENT_CONCURRENCY = 64
PACKED_COLD_BAR_MS = 15.0
DEDICATED_COLD_AIM_MS = 15.0
SWARM_BAR = 400.0


async def print_floor(out: Printout, *, fresh: int) -> float:
    """Print what a fresh actor costs; milliseconds."""
    out.head("floor: Ray and the disk without us")
    await floor.fresh_actors(1)  # the first one loads Ray's own code
    taken = median(await floor.fresh_actors(fresh))
    out.add(Figure(name="fresh actor: create and first call, p50", value=taken, unit="ms"))
    return taken


async def print_round_trips(out: Printout, stage: Stage, *, asks: int) -> None:
    """Warm round trips, each round beside a floor of its own; medians of the rounds."""
    out.head(f"warm round trip: ask, {ROUNDS} rounds of {asks}")
    actor = floor.new_actor()
    await floor.warm_calls(actor, asks)
    kinds = {name: Address.of(name, "warm") for name in ("packed", "dedicated")}
    taken: dict[str, list[list[float]]] = {name: [] for name in kinds}
    floors: list[floor.Floor] = []
    for address in kinds.values():
        await stage.spawn(address)
        await _asks(stage, address, asks)
    for _ in range(ROUNDS):
        floors.append(await floor.measured(actor, Path(stage.settings.store), calls=asks))
        for name, address in kinds.items():
            taken[name].append(await _asks(stage, address, asks))
    call = median([each.call_p50 for each in floors])
    sync = median([each.sync_p50 for each in floors])
    tail = median([each.call_p99 for each in floors])
    out.add(Figure(name="warm actor call, p50", value=call, unit="ms"))
    out.add(Figure(name="warm actor call, p99", value=tail, unit="ms"))
    out.add(Figure(name="fdatasync of a small frame, p50", value=sync, unit="ms"))
    for name in kinds:
        p50 = median([median(each) for each in taken[name]])
        p99 = median([percentile(each, 0.99) for each in taken[name]])
        note = "3 actor calls and 2 syncs"
        bar = 3 * call + 2 * sync
        title = f"{name}: send to handled, warm"
        out.add(Figure(name=f"{title}, p50", value=p50, unit="ms", bar=bar, note=note))
        out.add(Figure(name=f"{title}, p99", value=p99, unit="ms"))


async def _asks(stage: Stage, address: Address, count: int) -> list[float]:
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await stage.ask(address)
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


async def print_cold_wakes(
    out: Printout, stage: Stage, *, fresh_actor: float, packed: int, dedicated: int
) -> None:
    """From send to the first line of the handler, of sleepers, one after the other."""
    out.head(f"cold wake: send to handler running, {packed} packed, {dedicated} dedicated")
    for name, count, bar, aim in (
        ("packed", packed, PACKED_COLD_BAR_MS, None),
        ("dedicated", dedicated, fresh_actor / 4, DEDICATED_COLD_AIM_MS),
    ):
        addresses = [Address.of(f"{name}-nap", f"cold-{n}") for n in range(count)]
        pairs = [await _cold(stage, address) for address in addresses]
        began = [first for first, _ in pairs]
        handled = [last for _, last in pairs]
        title = f"{name}: cold wake"
        p50 = median(began)
        out.add(Figure(name=f"{title}, p50", value=p50, unit="ms", bar=bar, aim=aim))
        out.add(Figure(name=f"{title}, p99", value=percentile(began, 0.99), unit="ms"))
        out.add(Figure(name=f"{title} to handled, p50", value=median(handled), unit="ms"))


async def _cold(stage: Stage, address: Address) -> tuple[float, float]:
    """Milliseconds from send to handler running, and to handled, of an entity that sleeps."""
    await stage.spawn(address)
    await stage.ask(address)
    await stage.asleep(address)
    await stage.pool_filled()
    sent = time.time_ns()
    reply = await stage.ask(address)
    return (reply.value - sent) / 1e6, (time.time_ns() - sent) / 1e6


async def print_swarm(out: Printout, stage: Stage, *, entities: int, rounds: int) -> None:
    """One message to each of many sleepers, from one client; done when all are durably handled."""
    out.head(
        f"swarm: {entities} sleeping packed entities on {PACKED_HOSTS} hosts, one message each, "
        f"{CLIENT_CONCURRENCY} at a time, {rounds} rounds"
    )
    addresses = [Address.of("packed-nap", f"swarm-{n}") for n in range(entities)]
    began = time.perf_counter()
    await at_once(stage.spawn, addresses, concurrent_max=CLIENT_CONCURRENCY)
    spawned = entities / (time.perf_counter() - began)
    rates: list[float] = []
    worked: list[float] = []
    shares: list[float] = []
    for _ in range(rounds):
        await at_once(stage.asleep, addresses, concurrent_max=CLIENT_CONCURRENCY)
        began, before = time.perf_counter(), stage.cpu_seconds()
        await at_once(stage.ask, addresses, concurrent_max=CLIENT_CONCURRENCY)
        wall, cpu = time.perf_counter() - began, stage.cpu_seconds() - before
        rates.append(entities / wall)
        worked.append(cpu / entities * 1e3)
        shares.append(cpu / (wall * processors()))
    out.add(Figure(name="swarm: new entities spawned", value=spawned, unit="entities/s"))
    figure = Figure(
        name="swarm: sleepers woken and handled, median",
        value=median(rates),
        unit="entities/s",
        bar=SWARM_BAR,
        higher_is_better=True,
        note="rounds: " + ", ".join(f"{rate:.0f}" for rate in rates),
    )
    out.add(figure)
    note = f"{median(shares):.0%} of the processors were ours meanwhile"
    name = "swarm: processor time of all our processes, each"
    out.add(Figure(name=name, value=median(worked), unit="ms", note=note))
