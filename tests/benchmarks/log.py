"""What the log itself costs, without Ray: appends, reads, wakes and bytes, beside their floors.

Everything is on the disk of the store. Appends are ``sync``; histories are made without syncs, for
they are only read. Cold means that the files' content was taken out of the page cache; and unless
said otherwise nothing of a log is in memory when the clock starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.figures import Printout
from tests.benchmarks.log_appends import print_appends, print_concurrency
from tests.benchmarks.log_bytes import print_bytes
from tests.benchmarks.log_forks import print_forks
from tests.benchmarks.log_reads import print_full_reads, print_tails
from tests.benchmarks.log_wakes import print_wakes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSizes:
    """How much of each is measured."""

    appends: int = 200
    concurrent_appends: int = 20
    histories: tuple[int, int] = (10, 100_000)
    reads: tuple[int, ...] = (10_000, 100_000)
    handled: tuple[int, int] = (100, 100_000)
    rows_stored: int = 20_000


FULL_LOG = LogSizes()
SLICE_LOG = LogSizes(
    appends=60,
    concurrent_appends=5,
    histories=(10, 20_000),
    reads=(10_000,),
    handled=(100, 10_000),
    rows_stored=5_000,
)


async def print_log(out: Printout, store: str, sizes: LogSizes) -> None:
    """All figures of the log."""
    few, many = sizes.histories
    await print_appends(out, store, histories=(few, many), appends=sizes.appends)
    await print_wakes(out, store, handled=sizes.handled)
    await print_forks(out, store, handled=sizes.handled)
    await print_full_reads(out, store, sizes.reads)
    await print_tails(out, store, (max(100, few), many))
    await print_concurrency(out, store, appends=sizes.concurrent_appends)
    await print_bytes(out, store, rows=sizes.rows_stored)
