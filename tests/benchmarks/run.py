"""One run of all benchmarks, in two sizes."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import ray

from tests.benchmarks import footprint, speed, storekeeping, tables
from tests.benchmarks.agents import Clocked
from tests.benchmarks.figures import Printout
from tests.benchmarks.log import FULL_LOG, SLICE_LOG, LogSizes, print_log
from tests.benchmarks.loop import FULL_LOOP, SLICE_LOOP, LoopSizes, print_loop
from tests.benchmarks.stage import processors, staged

PARTS = frozenset("log scan warm cold swarm memory sleepers verify loop".split())
WITHOUT_RAY = frozenset({"log", "scan"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each is measured."""

    fresh_actors: int
    asks: int
    cold_packed: int
    cold_dedicated: int
    swarm: int
    swarm_rounds: int
    packed_awake: int
    dedicated_awake: int
    sleepers: int
    log: LogSizes
    loop: LoopSizes


FULL = Sizes(
    fresh_actors=9,
    asks=400,
    cold_packed=200,
    cold_dedicated=25,
    swarm=1_000,
    swarm_rounds=5,
    packed_awake=1_000,
    dedicated_awake=4,
    sleepers=10_000,
    log=FULL_LOG,
    loop=FULL_LOOP,
)
SLICE = Sizes(
    fresh_actors=5,
    asks=100,
    cold_packed=40,
    cold_dedicated=7,
    swarm=1_000,
    swarm_rounds=3,
    packed_awake=300,
    dedicated_awake=2,
    sleepers=2_000,
    log=SLICE_LOG,
    loop=SLICE_LOOP,
)


async def run(store: str, sizes: Sizes, *, only: frozenset[str] = frozenset()) -> Printout:
    """Measure on a fresh store; ``only`` names parts, all of them if it is empty."""
    out, parts = Printout(), only or PARTS
    print(
        f"ray-agents benchmarks: durability sync, {processors()} processors, "
        f"Python {platform.python_version()}, Ray {ray.__version__}, store {store}"
    )
    if "log" in parts:
        await print_log(out, f"{store}-logs", sizes.log)
    if "scan" in parts:
        await tables.print_scan(out, f"{store}-fleet")
    if parts - WITHOUT_RAY:
        await _run_on_ray(out, store, sizes, parts)
    out.head("end")
    out.end()
    return out


async def _run_on_ray(out: Printout, store: str, sizes: Sizes, parts: frozenset[str]) -> None:
    model = Clocked()
    async with model.api() as api, staged(store, model_url=api.url) as stage:
        fresh_actor = await speed.print_floor(out, fresh=sizes.fresh_actors)
        if "warm" in parts:
            await speed.print_round_trips(out, stage, asks=sizes.asks)
        if "cold" in parts:
            await speed.print_cold_wakes(
                out,
                stage,
                fresh_actor=fresh_actor,
                packed=sizes.cold_packed,
                dedicated=sizes.cold_dedicated,
            )
        if "swarm" in parts:
            rounds = sizes.swarm_rounds
            await speed.print_swarm(out, stage, entities=sizes.swarm, rounds=rounds)
        if "memory" in parts:
            await footprint.print_memory(
                out, stage, packed=sizes.packed_awake, dedicated=sizes.dedicated_awake
            )
        if "sleepers" in parts:
            await footprint.print_sleepers(out, stage, sleepers=sizes.sleepers)
        if "verify" in parts:
            await storekeeping.print_verification(out, stage)
        if "loop" in parts:  # the last one: it leaves Serve running
            await print_loop(out, stage, model, sizes.loop)
