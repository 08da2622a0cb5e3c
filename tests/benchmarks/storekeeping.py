"""How long it takes to verify a whole store, while its runtime is running."""

from __future__ import annotations

import asyncio
import time

from ray_agents.cluster.storekeeping import verify
from tests.benchmarks.figures import Figure, Printout
from tests.benchmarks.stage import Stage

LOGS_IN_A_MINUTE_MIN = 10_000


async def print_verification(out: Printout, stage: Stage) -> None:
    """Verify every log there is by now, as ``ray-agents log verify --all`` does."""
    out.head("log verify --all, beside the running runtime")
    began = time.perf_counter()
    found = await asyncio.to_thread(
        verify, stage.settings, address=None, repair=False, progress=lambda _done, _all: None
    )
    taken = time.perf_counter() - began
    bar = 60 * found.logs / LOGS_IN_A_MINUTE_MIN
    note = f"{found.files} files, {found.rows} rows, {found.bytes / 1e6:.1f} MB"
    title = f"log verify: {found.logs} logs"
    out.add(Figure(name=title, value=taken, unit="s", bar=bar, note=note))
    told = "; ".join(f"{each.place}: {each.what}" for each in found.findings)
    wrong = len(found.findings)
    out.add(Figure(name="log verify: findings", value=wrong, unit="findings", bar=0, note=told))
