"""How fast events are appended: behind a long history, by many at once, to many logs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from pathlib import Path

from ray_agents.events import Event
from ray_agents.log.codec import encode_frame
from ray_agents.log.owner import LogIO, LogOwner
from tests.benchmarks.figures import Figure, Printout, median
from tests.benchmarks.logs import owned, payloads, write

VALUE_BYTES = 200
HISTORY_BAR = 1.1
ONE_LOG_BAR = 8.0
APPENDERS = 64
SYNC_THREADS = (1, 4, 16, 64)
ROUNDS = 5


async def print_appends(
    out: Printout, store: str, *, histories: tuple[int, int], appends: int
) -> None:
    """One event at a time, in turns to a log with a short history, one with a long, a file."""
    out.head(f"log: append behind history, {appends} in turns")
    folders = [f"entities/bench/00/append-{count}" for count in histories]
    for folder, count in zip(folders, histories, strict=True):
        await write(store, folder, payloads(count, size=VALUE_BYTES))
    async with owned(store, folders[0]) as short, owned(store, folders[1]) as long:
        taken = await _in_turns(Path(f"{store}-floor"), (short, long), appends)
    floor, few, many = (median(each) * 1e3 for each in taken)
    out.add(Figure(name="floor: write and fdatasync, p50", value=floor, unit="ms"))
    for count, value in zip(histories, (few, many), strict=True):
        name = f"append p50, history of {count:,} events"
        out.add(Figure(name=name, value=value, unit="ms", note=f"{value / floor:.2f} x floor"))
    name = "append p50: long history over short"
    out.add(Figure(name=name, value=many / few, unit="x", bar=HISTORY_BAR))


async def _in_turns(
    path: Path, owners: tuple[LogOwner, LogOwner], appends: int
) -> tuple[list[float], ...]:
    taken: tuple[list[float], ...] = ([], [], [])
    drafts = payloads(appends, size=VALUE_BYTES)
    data = encode_frame([Event.at(0, 0, drafts[0])]).data
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for draft in drafts:
            taken[0].append(await asyncio.to_thread(_synced_write, descriptor, data))
            for owner, each in zip(owners, taken[1:], strict=True):
                began = time.perf_counter()
                await owner.append([draft])
                each.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return taken


def _synced_write(descriptor: int, data: bytes) -> float:
    began = time.perf_counter()
    os.write(descriptor, data)
    os.fdatasync(descriptor)
    return time.perf_counter() - began


async def print_concurrency(out: Printout, store: str, *, appends: int) -> None:
    """Appends in a second: one by one, by many to one log, and to as many logs."""
    out.head(f"log: {APPENDERS} appenders, {appends} appends each, medians of {ROUNDS}")
    rates: dict[str, list[float]] = {"one": [], "many": [], "logs": []}
    disk: dict[int, list[float]] = {count: [] for count in SYNC_THREADS}
    with closing(LogIO()) as io:
        async with AsyncExitStack() as stack:
            owners = [
                await stack.enter_async_context(owned(store, f"entities/bench/01/{n}", io=io))
                for n in range(APPENDERS)
            ]
            for _ in range(ROUNDS):
                for count in SYNC_THREADS:
                    disk[count].append(await asyncio.to_thread(_disk, Path(store), count, appends))
                rates["one"].append(await _rate(owners[:1], appends * 4))
                rates["many"].append(await _rate(owners[:1] * APPENDERS, appends))
                rates["logs"].append(await _rate(owners, appends))
    _print_rates(out, {name: median(each) for name, each in rates.items()}, disk)


def _print_rates(out: Printout, rate: dict[str, float], disk: dict[int, list[float]]) -> None:
    syncs = {count: median(each) for count, each in disk.items()}
    for count, value in syncs.items():
        note = f"{value / syncs[1]:.2f} x one thread"
        name = f"floor: write and fdatasync, {count} files and threads"
        out.add(Figure(name=name, value=value, unit="1/s", note=note))
    one = rate["one"]
    out.add(Figure(name="appends one by one", value=one, unit="1/s",
                   note=f"{one / syncs[1]:.2f} x floor"))  # fmt: skip
    for key, what, bar in (
        ("many", f"{APPENDERS} appenders on one log", ONE_LOG_BAR),
        ("logs", f"{APPENDERS} appenders on {APPENDERS} logs", None),
    ):
        note = f"{rate[key]:,.0f} 1/s"
        if bar is None:
            note += f", {rate[key] / syncs[APPENDERS]:.2f} x the disk's with as many threads"
        out.add(
            Figure(
                name=f"{what} over one by one",
                value=rate[key] / one,
                unit="x",
                bar=bar,
                higher_is_better=True,
                note=note,
            )
        )


async def _rate(owners: Iterable[LogOwner], appends: int) -> float:
    """Appends in a second, if there is an appender for each item and all work at once."""
    drafts = payloads(appends, size=VALUE_BYTES)

    async def one(owner: LogOwner) -> int:
        for draft in drafts:
            await owner.append([draft])
        return appends

    began = time.perf_counter()
    done = sum(await asyncio.gather(*(one(owner) for owner in owners)))
    return done / (time.perf_counter() - began)


def _disk(folder: Path, threads: int, each: int) -> float:
    """Synced writes in a second by so many threads, each to a file of its own."""
    data = bytes(700)
    paths = [folder / f"sync-{n}" for n in range(threads)]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in paths]

    def work(descriptor: int) -> None:
        for _ in range(each):
            _synced_write(descriptor, data)

    try:
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(work, descriptors))
            return threads * each / (time.perf_counter() - began)
    finally:
        for descriptor, path in zip(descriptors, paths, strict=True):
            os.close(descriptor)
            path.unlink()
