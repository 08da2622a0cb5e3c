"""What a fork costs behind a long history and behind a short one: time, and new bytes on the disk.

Histories are those of the wakes' benchmark: spawned by the runtime, handled messages appended, and
merged but for the last wakes, as what is not merged is copied. Each fork is made by a runtime that
has nothing of the source in memory, and is read in full afterwards.
"""

from __future__ import annotations

from pathlib import Path

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.waking import upkeep_of
from ray_agents.events import Draft
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.requests import ForkRequest
from ray_agents.views import Durability
from tests.benchmarks.figures import Figure, Printout, median
from tests.benchmarks.log_wakes import make_handled, registry
from tests.benchmarks.logs import CLOCK, owned, taken

ROUNDS = 5
SHORT_WAKES = 4
FORK_BAR = 1.5
BYTES_BAR = 64 * 1024


async def print_forks(out: Printout, store: str, *, handled: tuple[int, int]) -> None:
    """Forks of the whole log, each from a fresh runtime."""
    out.head(f"log: forks behind handled messages, medians of {ROUNDS}")
    addresses = [Address.of("echo", f"forked-{count}") for count in handled]
    await make_handled(store, addresses, handled)
    for address in addresses:
        await _merge(store, address)
    waited: dict[Address, list[float]] = {address: [] for address in addresses}
    grown: dict[Address, list[float]] = {address: [] for address in addresses}
    for _ in range(ROUNDS):
        for address in addresses:
            wall, size = await _fork(store, address)
            waited[address].append(wall)
            grown[address].append(size)
    for address, count in zip(addresses, handled, strict=True):
        name = f"fork, {count:,} handled"
        out.add(Figure(name=name, value=median(waited[address]), unit="ms"))
        size, linked = median(grown[address]), _linked(store, address)
        note = f"besides {linked:,.0f} kB under hard links"
        out.add(Figure(name=f"{name}: new bytes", value=size, unit="B", bar=BYTES_BAR, note=note))
    few, many = (median(waited[address]) for address in addresses)
    name = f"fork behind {handled[1]:,} over {handled[0]:,}"
    out.add(Figure(name=name, value=many / few, unit="x", bar=FORK_BAR))


async def _merge(store: str, address: Address) -> None:
    """Some wakes more, as hosts keep the log; at the end of the first all there was is merged."""
    (definition,) = registry
    folder, upkeep = entity_folder(address), upkeep_of(definition)
    for _ in range(SHORT_WAKES):
        async with owned(store, folder, durability=Durability.MEMORY, upkeep=upkeep) as owner:
            await owner.append([Draft.of("mark", "mark", value=0)])


async def _fork(store: str, address: Address) -> tuple[float, float]:
    """Milliseconds, and the bytes of the fork's files that are not its source's."""
    fork = Address.of("echo", CLOCK.fresh_id())
    async with LocalRuntime(open_blobs(store), io=LogIO()) as runtime:
        wall, _ = await taken(lambda: runtime.fork(address, ForkRequest(to=str(fork))))
        rows = [event.offset async for event in runtime.observe(fork, live=False)]
        assert rows[-1] == (await runtime.inspect(fork)).events - 1
    own = [file.stat() for file in _files(store, fork)]
    return wall, float(sum(stat.st_size for stat in own if stat.st_nlink == 1))


def _linked(store: str, address: Address) -> float:
    """Kilobytes of the source's files that have more than one name."""
    own = [file.stat() for file in _files(store, address)]
    return sum(stat.st_size for stat in own if stat.st_nlink > 1) / 1000


def _files(store: str, address: Address) -> list[Path]:
    return [file for file in (Path(store) / entity_folder(address)).rglob("*") if file.is_file()]
