"""What a dead owner wrote and never synced: adopted or served, it is made durable first.

Each story ends with the worst power loss there can be: all that was not synced is gone.
"""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from ray_agents.errors import StoreUnavailable
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import Log, keys_of, message
from ray_agents.testing.lossy_blobs import LossyBlobs
from ray_agents.views import Durability
from tests.faults.stage import StageIO

BROKEN = StoreUnavailable("the process dies here", path="")


class Worst(Random):
    """Chance that lets nothing unsynced survive."""

    def random(self) -> float:
        return 1.0

    def randint(self, a: int, b: int) -> int:
        return a


@pytest.fixture
def disk() -> LossyBlobs:
    return LossyBlobs()


async def wake_that_dies(disk: LossyBlobs, *keys: str, at: str) -> None:
    """Appends whose last one is written, but whose owner dies at the call ``at``."""
    blobs = FaultyBlobs(disk)
    with closing(Log(blobs)) as log:
        if len(keys) == 1:
            blobs.refuse[at] = BROKEN
        owner = await log.claim()
        for key in keys[:-1]:
            await owner.append([message(key)])
        blobs.refuse[at] = BROKEN
        with pytest.raises(StoreUnavailable):
            await owner.append([message(keys[-1])])
        await owner.abandon()


async def claims_that_die(disk: LossyBlobs, claims: int) -> None:
    """Owners that die when they have written their manifests, the last one before that."""
    for number in range(claims):
        blobs = FaultyBlobs(disk)
        with closing(Log(blobs)) as log:
            blobs.refuse["sync"] = BROKEN
            if number:
                blobs.refuse["append"] = BROKEN
            with pytest.raises(StoreUnavailable):
                await log.claim()


async def read(disk: LossyBlobs) -> list[str]:
    with closing(Log(disk)) as log:
        return keys_of((await log.reader().read(0)).events)


async def adopted(disk: LossyBlobs, *keys: str) -> list[str]:
    """What a new owner finds, who then appends ``keys``."""
    with closing(Log(disk)) as log:
        owner = await log.claim()
        for key in keys:
            await owner.append([message(key)])
        await owner.abandon()
        return keys_of(owner.history.read(0))


async def test_an_adopted_row_is_durable_once_the_next_one_is_acknowledged(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    assert await adopted(disk, "c") == ["a", "b", "c"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b", "c"]


async def test_what_a_new_owner_calls_durable_is_durable(disk: LossyBlobs) -> None:
    """Whoever sends the same message again is answered from it at once."""
    await wake_that_dies(disk, "a", "b", at="sync")
    with closing(Log(disk)) as log:
        owner = await log.claim()
        durable = keys_of(owner.history.read(0, stop=owner.durable_tip))
        await owner.abandon()
    assert durable == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b"]


async def test_a_row_that_was_never_synced_is_durable_once_it_was_served(disk: LossyBlobs) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    assert await read(disk) == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b"]


async def test_it_is_so_for_a_reader_that_has_read_before(disk: LossyBlobs) -> None:
    blobs = FaultyBlobs(disk)
    with closing(Log(blobs)) as log, closing(Log(disk)) as elsewhere:
        owner, reader = await log.claim(), elsewhere.reader()
        await owner.append([message("a")])
        await reader.read(0)
        blobs.refuse["sync"] = BROKEN
        with pytest.raises(StoreUnavailable):
            await owner.append([message("b")])
        await owner.abandon()
        assert keys_of((await reader.read(0)).events) == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b"]


async def test_a_row_in_a_file_without_a_durable_name_is_durable_once_it_was_served(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", at="sync_names")
    assert await read(disk) == ["a"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a"]


async def test_a_row_that_only_an_unsynced_manifest_lists_is_durable_once_it_was_served(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    await claims_that_die(disk, 1)
    assert await read(disk) == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b"]


async def test_while_an_owner_has_not_begun_a_fresh_reader_gets_what_was_acknowledged_at_least(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    await claims_that_die(disk, 2)
    assert await read(disk) == ["a"]
    assert (await adopted(disk.after_power_loss(Worst())))[:1] == ["a"]


async def test_what_it_gets_then_is_durable_if_its_owner_had_not_synced_it(
    disk: LossyBlobs,
) -> None:
    with closing(Log(disk)) as log:
        owner = await log.claim(durability=Durability.BATCH)
        for key in "ab":
            await owner.append([message(key)])
        await owner.abandon()
        await log.claim_only()
    assert await read(disk) == ["a"]
    assert (await adopted(disk.after_power_loss(Worst())))[:1] == ["a"]


async def test_a_row_that_was_not_acknowledged_may_be_lost_and_its_offset_given_out_again(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    assert await adopted(disk.after_power_loss(Worst()), "c") == ["a", "c"]


async def test_a_closing_frame_that_is_lost_takes_nothing_with_it(disk: LossyBlobs) -> None:
    with closing(Log(disk)) as log:
        await log.wake("a")
        await log.wake("b")
        assert await read(disk) == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst()), "c") == ["a", "b", "c"]


async def test_a_row_that_only_the_manifest_of_an_idle_wake_lists_is_durable_once_it_was_served(
    disk: LossyBlobs,
) -> None:
    await wake_that_dies(disk, "a", "b", at="sync")
    with closing(Log(disk)) as log:
        await log.wake()
    assert await read(disk) == ["a", "b"]
    assert await adopted(disk.after_power_loss(Worst())) == ["a", "b"]


@pytest.mark.parametrize("sealed", [True, False])
async def test_of_two_claims_that_were_not_synced_the_later_alone_survives_and_the_log_goes_on(
    disk: LossyBlobs, sealed: bool
) -> None:
    with closing(Log(disk)) as log:
        await log.wake("a")
    await idle_claim(disk, sealed=sealed)
    await idle_claim(disk, sealed=False)
    assert await adopted(disk.after_power_loss(OnlyTheLast()), "b") == ["a", "b"]


async def idle_claim(disk: LossyBlobs, *, sealed: bool) -> None:
    """A claim whose name is not made durable beside it, and that appends nothing."""
    with closing(Log(disk, io=StageIO(prompt=False))) as log:
        owner = await log.claim()
        await (owner.seal() if sealed else owner.abandon())


class OnlyTheLast(Worst):
    """Chance that keeps, of the names that were not synced, all but the first."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    def random(self) -> float:
        asked, self._asked = self._asked, True
        return 0.0 if asked else 1.0
