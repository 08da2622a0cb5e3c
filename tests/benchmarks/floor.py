"""The floor: what Ray and the disk cost without us, measured beside what is compared to it."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_agents.cluster.untyped import import_ray
from tests.benchmarks.figures import median, percentile

FRAME_BYTES = 700  # of a frame of one row


class Echo:
    """The least an asynchronous actor can do."""

    async def call(self, value: Any) -> Any:
        """Give it back."""
        return value


def new_actor() -> Any:
    """A fresh actor of its own process."""
    return import_ray().remote(num_cpus=0)(Echo).remote()


@dataclass(frozen=True, slots=True)
class Floor:
    """Milliseconds: a warm actor call (awaited, as a runtime must) and one sync."""

    call_p50: float
    call_p99: float
    sync_p50: float


async def fresh_actors(count: int) -> list[float]:
    """Milliseconds from the creation of a new actor to the answer of its first call."""
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        actor = new_actor()
        await actor.call.remote(0)
        taken.append((time.perf_counter() - began) * 1e3)
        import_ray().kill(actor)
    return taken


async def warm_calls(actor: Any, count: int) -> list[float]:
    """Milliseconds of each of so many calls in sequence."""
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await actor.call.remote("x")
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def syncs(folder: Path, count: int) -> list[float]:
    """Milliseconds of appending one small frame to a file and ``fdatasync``."""
    path = folder / f"floor-{os.getpid()}"
    taken: list[float] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(count):
            began = time.perf_counter()
            os.write(descriptor, bytes(FRAME_BYTES))
            os.fdatasync(descriptor)
            taken.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(descriptor)
        path.unlink()
    return taken


async def measured(actor: Any, folder: Path, *, calls: int) -> Floor:
    """The floor as it is right now."""
    each = await warm_calls(actor, calls)
    synced = await asyncio.to_thread(syncs, folder, calls)
    return Floor(median(each), percentile(each, 0.99), median(synced))
