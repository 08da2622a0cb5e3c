"""Logs made for measurement: histories of any length, merged, and files out of the page cache.

Histories are written by the log's own code: one owner after another claims, appends in groups,
and seals. Only the syncs are left out (``Durability.MEMORY``); what is measured is not.
"""

from __future__ import annotations

import gc
import os
import random
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ray_agents.cluster.clock import SystemClock
from ray_agents.events import Draft
from ray_agents.log.owner import PLAIN, Claim, LogIO, LogOwner, Upkeep, read_head
from ray_agents.log.reader import LogReader
from ray_agents.log.store import open_blobs
from ray_agents.views import Durability

Text = Callable[[int, random.Random], str]
CLOCK = SystemClock()
EPOCHS = 20  # enough for a merge
APPEND_ROWS = 256
MERGING_WAKES_MAX = 64
UNMERGED_BYTES_MAX = 64 * 1024
WORDS = """the of to and a in is it you that he was for on are with as I his they be at one have
this from or had by hot but some what there we can out other were all your when up use word how
said an each she which do their time if will way about many then them would write like so these her
long make thing see him two has look more day could go come did my sound no most number who over
know water than call first people may down side been now find""".split()


def prose(length: int, chance: random.Random) -> str:
    """English words in no order, as compressible as what a model says."""
    return " ".join(chance.choices(WORDS, k=length // 3))[:length]


def noise(length: int, chance: random.Random) -> str:
    """Text that hardly anything can be saved on: random base64."""
    return b64encode(chance.randbytes(length)).decode()[:length]


def payloads(count: int, *, size: int, text: Text = prose) -> list[Draft]:
    """Rows whose value is a JSON text of ``size`` bytes."""
    chance = random.Random(0)
    frame = len('{"payload":""}')
    return [
        Draft.of("inbox", CLOCK.fresh_id(), value={"payload": text(size - frame, chance)})
        for _ in range(count)
    ]


@asynccontextmanager
async def owned(
    store: str,
    folder: str,
    *,
    durability: Durability = Durability.SYNC,
    upkeep: Upkeep = PLAIN,
    io: LogIO | None = None,
) -> AsyncGenerator[LogOwner]:
    """An owner that has nothing in memory, and in the end tidies up, as hosts do, and seals."""
    blobs, own = open_blobs(store), io or LogIO()
    head = await read_head(blobs, folder, io=own)
    owner = await LogOwner.claim(
        blobs,
        folder,
        head=head,
        claim=Claim(host="benchmark", token=CLOCK.fresh_id()),
        clock=CLOCK,
        io=own,
        durability=durability,
        upkeep=upkeep,
    )
    try:
        yield owner
        if not owner.tidy:
            await owner.tidy_up()
    finally:
        await owner.seal()
        if io is None:
            own.close()


async def write(store: str, folder: str, drafts: Sequence[Draft], *, epochs: int = EPOCHS) -> None:
    """Append ``drafts``, in the course of ``epochs`` ownerships."""
    share = -(-len(drafts) // epochs)
    for begin in range(0, len(drafts), share):
        async with owned(store, folder, durability=Durability.MEMORY) as owner:
            for at in range(begin, min(begin + share, len(drafts)), APPEND_ROWS):
                await owner.append(drafts[at : min(at + APPEND_ROWS, begin + share)])


async def merge(store: str, folder: str) -> None:
    """Wake the log, which has nothing to do, until what is not merged is a trifle."""
    for _ in range(MERGING_WAKES_MAX):
        async with owned(store, folder, durability=Durability.MEMORY) as owner:
            await owner.append([Draft.of("mark", "mark", value=0)])
        unmerged = [path for path in files_of(store, folder) if path.suffix == ".arrows"]
        if len(unmerged) <= 2 and size_of(unmerged) < UNMERGED_BYTES_MAX:
            return
    message = f"log {folder!r} is not merged after {MERGING_WAKES_MAX} wakes"
    raise RuntimeError(message)


def files_of(store: str, folder: str) -> list[Path]:
    """Every file of a log."""
    return [path for path in Path(store, folder).rglob("*") if path.is_file()]


def size_of(paths: Iterable[Path]) -> int:
    """The bytes in files."""
    return sum(path.stat().st_size for path in paths)


def drop_cache(paths: Iterable[Path]) -> None:
    """Write the files back and take their content (not their names) out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@asynccontextmanager
async def reading(store: str, folder: str) -> AsyncGenerator[LogReader]:
    """A reader that has nothing in memory."""
    io = LogIO()
    try:
        yield LogReader(open_blobs(store), folder, io)
    finally:
        io.close()


async def taken(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Milliseconds, by the wall and by the processor, begun without garbage.

    What it gives is dropped after the clock has stopped.
    """
    gc.collect()
    began, used = time.perf_counter(), time.process_time()
    kept = await work()
    ended, spent = time.perf_counter(), time.process_time()
    del kept
    return 1e3 * (ended - began), 1e3 * (spent - used)
