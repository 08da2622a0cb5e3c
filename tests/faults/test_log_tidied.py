"""Owners that tidy, that die before they delete, or that come too late: nothing comes back."""

from __future__ import annotations

import pytest

from ray_agents.errors import StoreUnavailable
from ray_agents.log.arrow import pa
from ray_agents.log.files import manifest_of
from ray_agents.log.manifest import Manifest
from ray_agents.log.owner import ClaimLost, Upkeep
from ray_agents.log.segment import epoch_of, segment_name
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import FOLDER, Log, message
from tests.faults.test_log_owners import files, read_afresh, zombie_writes


def overdue(_: Manifest) -> bool:
    return True


async def dies_before_it_deletes(log: Log) -> None:
    """An owner that has tidied, and named what it made, and dies."""
    for number in range(17):
        await log.wake(f"m{number}")
    inner, log.blobs = log.blobs, FaultyBlobs(log.blobs)
    log.blobs.refuse["delete"] = StoreUnavailable("the process dies here", path="")
    with pytest.raises(StoreUnavailable):
        await log.wake("m17")
    log.blobs = inner
    assert log.blobs.exists(segment_name(FOLDER, 1))


async def test_deletions_that_a_death_prevented_are_done_by_the_next_owner(log: Log) -> None:
    await dies_before_it_deletes(log)
    merging = await log.claim()
    await merging.append([message("last")])
    segment = files(log).segment(19)
    assert segment is not None
    assert manifest_of(segment).dropped
    await merging.abandon()
    assert log.blobs.exists(segment_name(FOLDER, 1))
    await log.wake("after")
    assert not log.blobs.exists(segment_name(FOLDER, 1))
    assert log.blobs.exists(segment_name(FOLDER, 18))
    assert len(await read_afresh(log)) == 20
    await log.wake("later")
    assert (last := files(log).segment(21))
    assert not manifest_of(last).dropped  # what is done is not done again, wake after wake


@pytest.mark.parametrize("idle", [False, True])
async def test_they_are_so_if_the_owner_between_has_tidied(
    log: Log, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its claim, as that was overdue; or while it was idle, so that it deleted nothing."""
    await dies_before_it_deletes(log)
    if idle:
        owner = await log.claim()
        await owner.tidy_up()
        await owner.seal()
    else:
        monkeypatch.setattr("ray_agents.log.adoption.is_overdue", overdue)
    await log.wake("after")
    assert next(filter(None, map(epoch_of, log.blobs.names(FOLDER)))) > 17
    assert len(await read_afresh(log)) == 19


async def test_nothing_is_deleted_by_an_owner_that_acknowledged_nothing(log: Log) -> None:
    await dies_before_it_deletes(log)
    await log.wake()
    assert log.blobs.exists(segment_name(FOLDER, 1))
    assert len(await read_afresh(log)) == 18


async def test_an_owner_that_finds_tidying_overdue_does_it_at_its_claim(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_agents.log.tidying.OVERDUE_SEGMENTS_MAX", 3)
    for key in "abcdefgh":
        await log.wake(key)
    assert len([name for name in log.blobs.names(FOLDER) if epoch_of(name)]) <= 5
    assert await read_afresh(log) == [*"abcdefgh"]


@pytest.mark.parametrize("error", [pa.ArrowInvalid("bad"), OverflowError(), StoreUnavailable("no")])
async def test_a_claim_does_not_depend_on_tidying(
    log: Log, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    await log.wake("a")
    monkeypatch.setattr("ray_agents.log.adoption.is_overdue", overdue)
    monkeypatch.setattr("ray_agents.log.adoption.tidied", fails)
    await log.wake("b")
    assert await read_afresh(log) == ["a", "b"]


@pytest.mark.parametrize("latest_only", [False, True])
async def test_a_late_claim_brings_no_owner_of_the_past_back(log: Log, latest_only: bool) -> None:
    """It creates the name anew that an owner, stopped for long, had; that goes with the next."""
    stopped = await log.claim()
    await stopped.append([message("a")])
    for key, tidies in (("b", True), ("c", False), ("d", True)):
        owner = await log.claim(upkeep=Upkeep(latest_only=latest_only))
        await owner.append([message(key)])
        if tidies:
            await owner.tidy_up()
        await owner.seal()
        with pytest.raises(ClaimLost):
            await log.claim_after(None)
    await zombie_writes(stopped, "late")
    assert await read_afresh(log) == ["a", "b", "c", "d"]
    await stopped.abandon()
