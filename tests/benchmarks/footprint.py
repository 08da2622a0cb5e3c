"""What entities cost while nothing happens: memory of those awake, nothing for those asleep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from ray_agents.address import Address
from tests.benchmarks.figures import Figure, Printout, median
from tests.benchmarks.speed import CLIENT_CONCURRENCY
from tests.benchmarks.stage import Stage, at_once, until

KIB = 1024
MIB = 1024 * KIB


def unique_memory(pid: int) -> int:
    """The bytes that would be free if the process ended (USS)."""
    return psutil.Process(pid).memory_full_info().uss


async def print_memory(out: Printout, stage: Stage, *, packed: int, dedicated: int) -> None:
    """Unique memory of awake entities: the difference that many make, or a whole host each."""
    out.head(f"memory: {packed} packed entities awake, {dedicated} dedicated")
    warm = [Address.of("packed", f"memory-warm-{n}") for n in range(packed // 10)]
    pids = await _awake(stage, warm)
    before = sum(unique_memory(pid) for pid in pids)
    many = [Address.of("packed", f"memory-{n}") for n in range(packed)]
    await _awake(stage, many)
    grown = sum(unique_memory(pid) for pid in pids) - before
    per_entity = grown / packed / KIB
    name = "unique memory of an awake entity"
    out.add(Figure(name=f"{name}, packed", value=per_entity, unit="KiB"))
    hosts = await _awake(stage, [Address.of("dedicated", f"memory-{n}") for n in range(dedicated)])
    own = median([unique_memory(pid) for pid in hosts]) / MIB
    out.add(Figure(name=f"{name}, dedicated (its host)", value=own, unit="MiB"))


async def _awake(stage: Stage, addresses: Iterable[Address]) -> set[int]:
    """Spawn and ask each, so that it has worked once; the processes they are in."""

    async def one(address: Address) -> int:
        await stage.spawn(address)
        await stage.ask(address)
        return (await stage.runtime.inspect(address)).pid or 0

    return set(await at_once(one, addresses, concurrent_max=CLIENT_CONCURRENCY)) - {0}


@dataclass(frozen=True, slots=True)
class Held:
    """What our process tree holds: processes, files of the store, descriptors of any kind."""

    processes: int
    store_files: int
    descriptors: int


def held(stage: Stage) -> Held:
    """Count now; a process that ends meanwhile holds nothing."""
    processes = files = descriptors = 0
    for process in stage.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            opened = process.open_files()
            descriptors += process.num_fds()
            files += sum(1 for file in opened if file.path.startswith(stage.settings.store))
            processes += 1
    return Held(processes, files, descriptors)


async def print_sleepers(out: Printout, stage: Stage, *, sleepers: int) -> None:
    """Spawn many, let them fall asleep, and see what is left of them in our process tree."""
    out.head(f"{sleepers} sleeping entities")
    first = [Address.of("packed-nap", f"first-{n}") for n in range(CLIENT_CONCURRENCY * 4)]
    await _sleeping(stage, first)
    before = held(stage)
    await _sleeping(stage, [Address.of("packed-nap", f"sleeper-{n}") for n in range(sleepers)])
    after = held(stage)
    # Ray's own daemons open and close sockets among themselves meanwhile, which no sleeper costs:
    # descriptors of all kinds are printed, and the bar is for processes and files of the store.
    for name, unit, bar in (
        ("processes", "processes", 0),
        ("store_files", "files", 0),
        ("descriptors", "files", None),
    ):
        was, is_now = getattr(before, name), getattr(after, name)
        title = name.replace("_", " ")
        out.add(
            Figure(
                name=f"growth by {sleepers} sleepers: {title}",
                value=is_now - was,
                unit=unit,
                bar=bar,
                note=f"{was} before, {is_now} after",
            )
        )


async def _sleeping(stage: Stage, addresses: list[Address]) -> None:
    await at_once(stage.spawn, addresses, concurrent_max=CLIENT_CONCURRENCY)
    await at_once(stage.asleep, addresses[-CLIENT_CONCURRENCY:], concurrent_max=CLIENT_CONCURRENCY)
    await until(lambda: _nobody_awake(stage), "nobody awake in a packed host")
    await stage.pool_filled()


async def _nobody_awake(stage: Stage) -> bool:
    awake = await stage.awake()
    return not any(name.startswith("/packed-nap/") for name in awake)
