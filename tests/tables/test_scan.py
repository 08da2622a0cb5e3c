"""``scan`` obeys its suite in memory, a directory and a bucket, gathers small logs, and is lazy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

import ray_agents
from ray_agents.errors import InvalidAddress, InvalidPayload, StoreUnavailable
from ray_agents.log.bucket import Bucket
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.objects import ObjectBlobs
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.store import open_blobs
from ray_agents.ports import Blobs
from ray_agents.tables import scan as scanning
from ray_agents.tables.scan import scan, scan_batches
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import message
from ray_agents.testing.scan_suite import ADA, ScanSuite, events_of, log_of, read_all


class TestInMemory(ScanSuite):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return MemoryBlobs()


class TestInADirectory(ScanSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Blobs:
        return DirectoryBlobs(tmp_path)


@pytest.mark.slow
class TestInABucket(ScanSuite):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return ObjectBlobs(Bucket(MemoryStore(), url="memory://test"))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["/bot/a", "/bot/b", "/cat/c"]),
        st.lists(st.integers(0, 3), max_size=4),
        st.sampled_from(["seal", "crash"]),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(STEPS)
def test_whatever_owners_did_a_scan_is_what_reads_give(
    steps: list[tuple[str, list[int], str]],
) -> None:
    async def history() -> None:
        blobs = MemoryBlobs()
        for address, appends, end in steps:
            with closing(log_of(blobs, address)) as log:
                owner = await log.claim()
                for count in appends:
                    await owner.append([message(f"m{n}") for n in range(count)])
                await (owner.seal() if end == "seal" else owner.abandon())
        table = scan(blobs)
        for address in {address for address, *_ in steps}:
            assert events_of(table, address) == await read_all(blobs, address)

    asyncio.run(history())


async def test_rows_of_small_logs_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = MemoryBlobs()
    for number in range(10):
        with closing(log_of(blobs, f"/bot/b{number}")) as log:
            await log.wake(*"abcd")
    monkeypatch.setattr(scanning, "BATCH_ROWS", 20)
    assert [batch.num_rows for batch in scan_batches(blobs)] == [20, 20, 10]


async def test_a_reader_reads_a_few_logs_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FaultyBlobs(MemoryBlobs())
    for number in range(40):
        with closing(log_of(blobs, f"/bot/b{number}")) as log:
            await log.wake("a")
    blobs.calls.clear()
    monkeypatch.setattr(scanning, "BATCH_ROWS", 1)
    batches = scanning.read_batches(blobs, scanning.select(None, None), on_corrupt=None)
    next(batches)
    batches.close()
    assert 1 <= blobs.calls["read"] <= scanning.READ_AHEAD_LOGS


async def test_a_store_is_opened_by_its_path(tmp_path: Path) -> None:
    with closing(log_of(open_blobs(str(tmp_path)), ADA)) as log:
        await log.wake("a")
    for store in (tmp_path, str(tmp_path)):
        assert scan(store, types=["inbox"])["key"].to_pylist() == ["a"]
    assert ray_agents.scan is scan


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        scan(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


WRONG: list[tuple[Callable[[Blobs], object], type[Exception]]] = [
    (lambda blobs: scan(blobs, address="ada"), InvalidAddress),
    (lambda blobs: scan(blobs, entity_type="No Type"), InvalidAddress),
    (lambda blobs: scan(blobs, since=datetime(2026, 1, 1)), InvalidPayload),  # noqa: DTZ001 - wrong
]


@pytest.mark.parametrize(("call", "error"), WRONG)
def test_an_argument_that_says_nothing_is_refused(
    call: Callable[[Blobs], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(MemoryBlobs())


def test_an_empty_store_gives_an_empty_table() -> None:
    assert (scan(MemoryBlobs()).num_rows, scan(MemoryBlobs()).schema) == (0, scanning.SCHEMA)
