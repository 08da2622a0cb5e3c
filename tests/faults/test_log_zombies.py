"""Two or three owners at once, at every step of append and take-over: one history.

``ZOMBIES=100000 .venv/bin/pytest -n 2 -m slow tests/faults/test_log_zombies.py`` plays the whole
count; a failure names its seed, and ``ZOMBIE_SEED=<it> ZOMBIES=1`` plays that one again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from ray_agents.ports import Appender, Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from tests.faults.stage import Stage
from tests.faults.zombies import ACTORS_MAX, Beginning, Disguise, Play, beginnings

FIRST = int(os.environ.get("ZOMBIE_SEED", "1000"))
PLAYS = int(os.environ.get("ZOMBIES", "1500"))
PLAYS_IN_SHORT = 300
PARTS = 2


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with closing(Stage(ACTORS_MAX)) as stage:
        yield stage


@pytest.fixture(scope="module")
def begins() -> list[Beginning]:
    return asyncio.run(beginnings())


def play(
    stage: Stage, begins: list[Beginning], seed: int, disguise: Disguise | None = None
) -> None:
    begin = begins[seed % len(begins)]
    one = Play(seed, stage, begin, disguise) if disguise else Play(seed, stage, begin)
    try:
        one.run()
    except Exception as error:
        raise AssertionError(f"ZOMBIE_SEED={seed}") from error


@pytest.mark.slow
def test_owners_that_do_not_know_of_each_other_write_one_history(
    stage: Stage, begins: list[Beginning]
) -> None:
    for seed in range(PLAYS_IN_SHORT):
        play(stage, begins, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_they_do_so_in_many_plays(stage: Stage, begins: list[Beginning], part: int) -> None:
    for seed in range(FIRST + part, FIRST + PLAYS, PARTS):
        play(stage, begins, seed)


# -- the plays notice what is broken -----------------------------------------------------------


class Lying(FaultyBlobs):
    """A medium about which one thing is not true, so that whoever uses it is broken."""

    def __init__(self, inner: Blobs) -> None:
        super().__init__(inner)
        self.seen: list[str] = []


class WithoutFence(Lying):
    """Never says that somebody came after."""

    def exists(self, name: str) -> bool:
        return name in self.seen

    def create(self, name: str, data: bytes) -> bool:
        self.seen.append(name)
        return super().create(name, data)


class FenceBeforeTheWrite(Lying):
    """Says who was there when the last append ended."""

    def append(self, name: str) -> Appender:
        self.seen = self.inner.names(name.rpartition("/")[0])
        return super().append(name)

    def exists(self, name: str) -> bool:
        folder, _, last = name.rpartition("/")
        there, self.seen = last in self.seen, self.inner.names(folder)
        return there


class WithoutSync(Lying):
    """Says that everything is durable."""

    def append(self, name: str) -> Appender:
        file = super().append(name)
        file.sync = lambda: None
        return file


class UnsyncedTail(Lying):
    """What is written as a sealed file is no more durable than what it was read from."""

    def create(self, name: str, data: bytes) -> bool:
        if "/sealed/" not in name:
            return super().create(name, data)
        made = super().create(name, b"")
        if made:
            file = self.inner.append(name)
            file.write(data)
            file.close()
        return made


def lies_to_readers(role: str, blobs: Blobs) -> Blobs:
    return WithoutFence(blobs) if role == "reader" else blobs


def lies_to_syncing_readers(role: str, blobs: Blobs) -> Blobs:
    return WithoutSync(blobs) if role == "reader" else blobs


def caught(stage: Stage, begins: list[Beginning], disguise: Disguise, *, within: int) -> bool:
    for seed in range(within):
        try:
            play(stage, begins, seed, disguise)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("lie", [WithoutFence, FenceBeforeTheWrite, WithoutSync, UnsyncedTail])
def test_the_plays_catch_owners_that_are_broken(
    stage: Stage, begins: list[Beginning], lie: type[Lying]
) -> None:
    assert caught(stage, begins, lambda _, blobs: lie(blobs), within=PLAYS_IN_SHORT)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("disguise", [lies_to_readers, lies_to_syncing_readers])
def test_the_plays_catch_readers_that_are_broken(
    stage: Stage, begins: list[Beginning], disguise: Disguise
) -> None:
    assert caught(stage, begins, disguise, within=5000)
