"""How long it takes to open a log and read all of it, or its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from pydantic_core import from_json

from ray_agents.events import Event
from ray_agents.log.arrow import ipc, pa
from tests.benchmarks.figures import Figure, Printout, median
from tests.benchmarks.logs import (
    drop_cache,
    files_of,
    merge,
    owned,
    payloads,
    reading,
    size_of,
    taken,
    write,
)

ROUNDS = 5
VALUE_BYTES = 200
BARS_MS = {10_000: 20.0, 100_000: 120.0}
ALL = 1 << 40
TAIL = 10
TAIL_ROUNDS = 40
TAIL_BAR = 1.2


async def print_full_reads(out: Printout, store: str, counts: Sequence[int]) -> None:
    """Open and read all of a merged log, its files in the page cache or not, beside the floors."""
    out.head(f"log: open and read all, values of {VALUE_BYTES} bytes, medians of {ROUNDS}")
    for count in counts:
        folder = f"entities/bench/00/read-{count}"
        await write(store, folder, payloads(count, size=VALUE_BYTES))
        await merge(store, folder)
        events = await _decoded(store, folder)()
        base = _into_sqlite(Path(f"{store}-{count}.sqlite"), events)
        del events
        for cold in (True, False):
            await _print_one(out, store, folder, base=base, count=count, cold=cold)


async def _print_one(
    out: Printout, store: str, folder: str, *, base: Path, count: int, cold: bool
) -> None:
    files = files_of(store, folder)
    sealed = [path for path in files if path.suffix == ".arrow"]

    async def print_taken(
        what: str,
        work: Callable[[], Awaitable[object]],
        paths: list[Path],
        bar: float | None = None,
    ) -> None:
        name = f"{count:,} events, {'cold' if cold else 'warm'}: {what}"
        wall, worked = await _taken(work, paths if cold else [])
        note = f"{worked:.0f} ms of a processor, {size_of(paths) / 1e6:.1f} MB"
        out.add(Figure(name=name, value=wall, unit="ms", bar=bar, note=note))

    await print_taken("decoded", _decoded(store, folder), files, BARS_MS.get(count))
    await print_taken("decoded, in pages of 1,000", _in_pages(store, folder), files)
    await print_taken("as columns", _columns(store, folder), files)
    await print_taken("floor, pyarrow", _each(_read_arrow, sealed), sealed)
    await print_taken("floor, SQLite rows", _each(_read_rows, [base]), [base])
    await print_taken("floor, SQLite, decoded", _each(_read_values, [base]), [base])


async def _taken(
    work: Callable[[], Awaitable[object]], cold: Sequence[Path]
) -> tuple[float, float]:
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        drop_cache(cold)
        rounds.append(await taken(work))
    return median([wall for wall, _ in rounds]), median([used for _, used in rounds])


def _each(work: Callable[[Path], object], paths: Sequence[Path]) -> Callable[[], Awaitable[object]]:
    async def read() -> object:
        return [work(path) for path in paths]

    return read


def _decoded(store: str, folder: str) -> Callable[[], Awaitable[list[Event]]]:
    async def read() -> list[Event]:
        async with reading(store, folder) as reader:
            return (await reader.read(0, limit=ALL)).events

    return read


def _in_pages(store: str, folder: str) -> Callable[[], Awaitable[int]]:
    """As an observer reads it, who keeps nothing."""

    async def read() -> int:
        offset = 0
        async with reading(store, folder) as reader:
            while page := (await reader.read(offset, limit=1000)).events:
                offset = page[-1].offset + 1
        return offset

    return read


def _columns(store: str, folder: str) -> Callable[[], Awaitable[object]]:
    async def read() -> object:
        async with reading(store, folder) as reader:
            return list(reader.batches())

    return read


def _read_arrow(path: Path) -> object:
    return ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()


def _into_sqlite(path: Path, events: Sequence[Event]) -> Path:
    rows = [(event.offset, json.dumps(event.as_json())) for event in events]
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("create table events (seq integer primary key, json text not null)")
        base.executemany("insert into events values (?, ?)", rows)
    return path


def _read_rows(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as base:
        return base.execute("select seq, json from events order by seq").fetchall()


def _read_values(path: Path) -> list[object]:
    return [from_json(text) for _, text in _read_rows(path)]


async def print_tails(out: Printout, store: str, counts: tuple[int, int]) -> None:
    """Read the last events of a short and a long log, in turns: as a follower, as a newcomer.

    The last merged rows are those of a log that has slept since it was merged.
    """
    out.head(f"log: read the last {TAIL} events, medians of {TAIL_ROUNDS} in turns")
    async with _tail_of(store, counts[0]) as few, _tail_of(store, counts[1]) as many:
        rounds = [(await few(), await many()) for _ in range(TAIL_ROUNDS)]
    for at, who in enumerate(("by a follower", "by a newcomer", "by a newcomer, of merged rows")):
        short, long = (median([both[which][at] for both in rounds]) for which in (0, 1))
        note = f"{short:.3g} ms of {counts[0]:,} events, {long:.3g} ms of {counts[1]:,}"
        name = f"tail {who}: long log over short"
        out.add(Figure(name=name, value=long / short, unit="x", bar=TAIL_BAR, note=note))


@asynccontextmanager
async def _tail_of(
    store: str, count: int
) -> AsyncGenerator[Callable[[], Awaitable[tuple[float, ...]]]]:
    """A log of ``count`` events, merged, and what to call for a round of measurements."""
    folder = f"entities/bench/00/tail-{count}"
    await write(store, folder, payloads(count, size=VALUE_BYTES))
    await merge(store, folder)
    sealed = [path for path in files_of(store, folder) if path.suffix == ".arrow"]
    merged = max(int(path.name.split("-")[1]) for path in sealed)
    async with owned(store, folder) as owner, reading(store, folder) as reader:
        await owner.append(payloads(TAIL, size=VALUE_BYTES))
        await reader.read(owner.tip - 1)

        async def measure() -> tuple[float, ...]:
            tip = owner.tip
            await owner.append(payloads(TAIL, size=VALUE_BYTES))
            following, _ = await taken(lambda: reader.read(tip))
            newcomer = await _newcomer(store, folder, tip)
            return following, newcomer, await _newcomer(store, folder, merged + 1 - TAIL)

        yield measure


async def _newcomer(store: str, folder: str, offset: int) -> float:
    async with reading(store, folder) as reader:
        return (await taken(lambda: reader.read(offset, limit=TAIL)))[0]
