"""All figures of the issue's acceptance in one run: ``python -m tests.benchmarks``.

It works on a fresh store under the temporary directory, or under the folder given as argument (the
disk to be measured), starts a private Ray unless all parts asked for do without, and prints each
figure with its bar and whether it is met. The full sizes take some minutes; ``--slice`` takes those
of continuous integration, which ``pytest -m benchmark -s`` runs too. Durability is ``sync``
throughout: every acknowledgement has waited for ``fdatasync``. The load at each section tells what
else the machine had to do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

from tests.benchmarks.run import FULL, SLICE, run


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("folder", nargs="?", help="where the store is made")
    parser.add_argument("--slice", action="store_true", help="the sizes of the CI")
    parser.add_argument(
        "--only", nargs="*", default=[], help="parts: log scan warm cold swarm loop …"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="ray-agents-bench-") as folder:
        store = str(Path(folder) / "store")
        sizes = SLICE if chosen.slice else FULL
        asyncio.run(run(store, sizes, only=frozenset(chosen.only)))


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
