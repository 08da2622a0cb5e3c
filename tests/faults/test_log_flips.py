"""One bit flips, in any file of a store: it is found, never served, and harms no other log.

``FLIPS=10000 SEED=7 .venv/bin/pytest -n 0 -m slow -s tests/faults/test_log_flips.py`` is the whole
count. The flips are spread evenly over the kinds of file and, in each kind, over its bytes.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from ray_agents.errors import CorruptLog, StoreUnavailable
from ray_agents.events import Event
from ray_agents.log.documents import decode_document
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import LogIO
from ray_agents.log.store import FORMAT_FILE, IDENTITY_FILE, open_blobs, read_identity
from ray_agents.log.verification import verify_store
from ray_agents.testing.log_suite import Log
from tests.log.trees import (
    CLAIMED,
    FENCED,
    HOST,
    INDEX,
    LIVE,
    LOGS,
    MERGED,
    MERGING,
    REWRITTEN,
    SEALED,
    all_files,
    make_store,
)

FLIPS = int(os.environ.get("FLIPS", "200"))
SEED = int(os.environ.get("SEED", "1"))
DEFINITIONS = ("types/note/000001.json", "types/note/000002.json")


def kinds_of(names: list[str]) -> dict[str, list[str]]:
    """The files of the store of ``trees`` by what they are."""

    def of(folder: str, *epochs: int) -> list[str]:
        return [f"{folder}/{epoch:010d}.arrows" for epoch in epochs]

    sealed_files = [n for n in names if n.endswith(".arrow") and "/sealed/" in n]
    return {
        "format": [FORMAT_FILE],
        "identity": [IDENTITY_FILE],
        "definition": list(DEFINITIONS),
        "live segment": of(LIVE, 3)
        + of(CLAIMED, 3)
        + of(MERGED, 21)
        + of(MERGING, 19)
        + of(INDEX, 3),
        "segment sealed last": of(SEALED, 2) + of(REWRITTEN, 4) + of(FENCED, 4),
        "segment listed": [
            *of(SEALED, 1),
            *of(MERGED, 18, 19, 20),
            *of(MERGING, 18),
            *(name for folder in (LIVE, REWRITTEN, CLAIMED, FENCED) for name in of(folder, 1, 2)),
        ],
        "segment taken over": of(REWRITTEN, 3) + of(FENCED, 3),
        "segment dropped": of(INDEX, 1, 2),
        "segment never begun": of(CLAIMED, 4),
        "sealed file": [name for name in sealed_files if CLAIMED not in name and HOST not in name],
        "index of a sealed file": [name for name in names if name.endswith(".keys")],
        "snapshot": [name for name in names if "/snapshots/" in name],
        "sealed file not listed": [name for name in sealed_files if CLAIMED in name],
        "host's segment": of(HOST, 18, 19, 20, 21),
        "host's sealed file": [name for name in sealed_files if HOST in name],
    }


@dataclass(frozen=True, slots=True)
class Store:
    """Files by name, and what a reader and a new owner find in each log while they are intact."""

    files: dict[str, bytes]
    read: dict[str, list[Event]]
    adopted: dict[str, list[Event]]
    io: LogIO

    def with_flip(self, name: str, bit: int) -> MemoryBlobs:
        """The same with one bit flipped."""
        blobs = MemoryBlobs()
        for each, data in self.files.items():
            damaged = bytearray(data)
            if each == name:
                damaged[bit // 8] ^= 1 << bit % 8
            blobs.create(each, bytes(damaged))
        return blobs


async def read(blobs: MemoryBlobs, folder: str, io: LogIO) -> list[Event]:
    return (await Log(blobs, folder=folder, io=io).reader().read(0, limit=10**6)).events


async def adopt(blobs: MemoryBlobs, folder: str, io: LogIO) -> list[Event]:
    owner = await Log(blobs, folder=folder, io=io).claim()
    await owner.abandon()
    return owner.history.read(0)


async def _make(io: LogIO) -> Store:
    blobs = MemoryBlobs()
    await make_store(blobs)
    files = {name: blobs.read(name) or b"" for name in all_files(blobs)}
    rows = {folder: await read(blobs, folder, io) for folder in LOGS}
    adopted = {folder: await adopt(blobs, folder, io) for folder in LOGS}
    return Store(files, rows, adopted, io)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with closing(LogIO(threads_max=1, kept_bytes_max=0)) as io:
        yield asyncio.run(_make(io))


Flip = tuple[str, int]


def flips(store: Store, kind: list[str], *, count: int, chance: Random) -> Iterator[Flip]:
    """So many bits of these files, one in each of as many equal parts of them."""
    bits = [(name, len(store.files[name]) * 8) for name in kind]
    total = sum(size for _, size in bits)
    for number in range(count):
        at = int((number + chance.random()) * total / count)
        for name, size in bits:
            if at < size:
                yield name, at
                break
            at -= size


async def check(store: Store, name: str, bit: int, scratch: Path) -> str:
    """Verify and read the store with that bit flipped; what became of its log's readers."""
    blobs = store.with_flip(name, bit)
    found = verify_store(blobs, in_use=lambda _: False).findings
    assert name in {each.file for each in found}
    assert not any(folder in each.file for each in found for folder in LOGS if folder not in name)
    outcomes = {"right"}
    for folder in LOGS:
        try:
            assert await read(blobs, folder, store.io) == store.read[folder]
        except CorruptLog:
            assert folder in name
            outcomes.add("refused")
    for folder in (folder for folder in LOGS if folder in name):
        try:
            assert await adopt(blobs, folder, store.io) == store.adopted[folder]
        except CorruptLog:
            outcomes.add("refused")
    for each in DEFINITIONS:
        right = decode_document(each, store.files[each])
        try:
            assert decode_document(each, blobs.read(each) or b"") == right
        except CorruptLog:
            assert each == name
            outcomes.add("refused")
    if name == IDENTITY_FILE:
        with pytest.raises(CorruptLog):
            read_identity(blobs.read(name) or b"")
        outcomes.add("refused")
    if name == FORMAT_FILE:
        (scratch / FORMAT_FILE).write_bytes(blobs.read(name) or b"")
        with pytest.raises(StoreUnavailable, match="format"):
            open_blobs(str(scratch))
        outcomes.add("refused")
    return "refused" if "refused" in outcomes else "right"


async def trial(store: Store, scratch: Path, *, count: int, seed: int) -> Counter[tuple[str, str]]:
    """``count`` flips; how many of each kind were refused by readers, or were read right."""
    chance, tally = Random(seed), Counter[tuple[str, str]]()
    kinds = kinds_of(list(store.files))
    for number, (kind, names) in enumerate(kinds.items()):
        share = (count + number) // len(kinds)
        for name, bit in flips(store, names, count=share, chance=chance):
            try:
                tally[kind, await check(store, name, bit, scratch)] += 1
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: bit {bit} of {name}") from error
    return tally


def test_every_file_of_the_store_is_of_some_kind(store: Store) -> None:
    named = [name for names in kinds_of(list(store.files)).values() for name in names]
    assert sorted(named) == sorted(store.files)


async def test_a_flip_in_each_kind_of_file(store: Store, tmp_path: Path) -> None:
    tally = await trial(store, tmp_path, count=26, seed=SEED)
    assert sum(tally.values()) == 26


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_many_flips(store: Store, tmp_path: Path) -> None:
    tally = await trial(store, tmp_path, count=FLIPS, seed=SEED)
    assert sum(tally.values()) == FLIPS
    print(f"\n{FLIPS} flips, seed {SEED}: all found by verify, none served, neighbours read")
    for kind in dict.fromkeys(kind for kind, _ in tally):
        print(f"{kind:<24} refused {tally[kind, 'refused']:>5}  right {tally[kind, 'right']:>5}")
