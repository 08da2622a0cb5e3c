"""Two or three owners at once, at every step of append and take-over: one history."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from time import perf_counter

import pytest

from tests.faults.stage import Stage
from tests.faults.zombies import ACTORS_MAX, Beginning, Play, beginning

FIRST = int(os.environ.get("ZOMBIE_SEED", "1"))
PLAYS = int(os.environ.get("ZOMBIES", "1000"))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with closing(Stage(ACTORS_MAX)) as stage:
        yield stage


@pytest.fixture(scope="module")
def beginnings() -> list[Beginning]:
    """No log; one of clean ends; a crash; a claim that never began; a merge that is due."""
    shapes: list[tuple[list[bool], bool]] = [
        ([], False),
        ([True], False),
        ([False], False),
        ([True], True),
        ([True] * 16, False),
    ]
    return [asyncio.run(beginning(clean, claimed=claimed)) for clean, claimed in shapes]


def test_plays(stage: Stage, beginnings: list[Beginning]) -> None:
    begun = perf_counter()
    for seed in range(FIRST, FIRST + PLAYS):
        Play(seed, stage, beginnings[seed % 5]).run()
    print(f"{PLAYS / (perf_counter() - begun):.0f}/s")
