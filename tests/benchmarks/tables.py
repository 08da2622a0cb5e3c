"""How fast a fleet's logs are read as one table, beside pyarrow alone on the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.log.arrow import ipc
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.tables.query import query
from ray_agents.tables.scan import scan
from ray_agents.testing.log_suite import Log, message
from ray_agents.views import Durability
from tests.benchmarks.figures import Figure, Printout, median

ENTITIES = 1_000
APPENDS = 10
ROWS_OF_AN_APPEND = 10
TEXT = "x" * 200
ROUNDS = 5


async def print_scan(out: Printout, store: str) -> None:
    """A scan of 1,000 entities with 100 rows each, a hundred thousand in all, from the cache."""
    rows = ENTITIES * APPENDS * ROWS_OF_AN_APPEND
    out.head(f"scan: {ENTITIES:,} entities, {rows:,} rows, {ROUNDS} rounds")
    await _fill(store)
    _measure(out, store, rows)


def _measure(out: Printout, store: str, rows: int) -> None:
    files = list(Path(store).rglob("*.arrows"))
    floor = median([_seconds(lambda: _read_plainly(files)) for _ in range(ROUNDS)])
    taken = median([_seconds(lambda: scan(store)) for _ in range(ROUNDS)])
    count = "select entity_type, count(*) from inbox group by all"
    asked = median([_seconds(lambda: query(store, count)) for _ in range(ROUNDS)])
    size = sum(path.stat().st_size for path in files) / 1e6
    note = f"{size:.1f} MB in {len(files):,} files"
    out.add(Figure(name="floor: pyarrow reads the same files", value=floor, unit="s", note=note))
    out.add(Figure(name="scan of the fleet", value=taken, unit="s"))
    out.add(Figure(name="scan over its floor", value=taken / floor, unit="x"))
    out.add(Figure(name="rows scanned in a second", value=rows / taken, unit="rows/s"))
    out.add(Figure(name="query: the inbox view of the fleet", value=asked, unit="s"))


async def _fill(store: str) -> None:
    blobs = open_blobs(store)
    with closing(LogIO()) as io:
        for number in range(ENTITIES):
            folder = entity_folder(Address.of("bot", f"b{number}"))
            owner = await Log(blobs, folder=folder, io=io).claim(durability=Durability.MEMORY)
            for append in range(APPENDS):
                await owner.append(
                    [message(f"m{append}-{row}", TEXT) for row in range(ROWS_OF_AN_APPEND)]
                )
            await owner.seal()


def _read_plainly(files: list[Path]) -> int:
    return sum(ipc.open_stream(path.read_bytes()).read_all().num_rows for path in files)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
