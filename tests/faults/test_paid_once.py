"""A host killed at any point of a run of ten steps and fifteen tools pays and does nothing twice.

Real processes without Ray, killed by SIGKILL at seeded points (``tests/faults/points.py``); a part
of the trials dies again while it recovers, and in a part the provider is in trouble, too.
One command tries as many as you like:

    POINTS=200 SEED=1 pytest -n 0 -m slow -s tests/faults/test_paid_once.py -k any_point
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.faults.breaking import WAYS
from tests.faults.points import Extent, Point, drawn
from tests.faults.trial import Trial, counted_in, extent_of, zygote_in

POINTS = int(os.environ.get("POINTS", "15"))
SEED = int(os.environ.get("SEED", "1"))
AGAIN = 0.2  # of the deaths are followed by another one while the run recovers
TRIALS_MAX = 3  # for each point: some lie beyond what a life comes to

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 6 * POINTS)]


def points_of(chance: Random, extent: Extent) -> list[Point]:
    """One point, or several."""
    points = [drawn(chance, extent)]
    while chance.random() < AGAIN:
        points.append(drawn(chance, extent))
    return points


async def test_a_host_killed_at_any_point_pays_and_does_nothing_twice(tmp_path: Path) -> None:
    died: Counter[str] = Counter()
    calls = broke = lost = known = exact = trials = 0
    async with zygote_in(tmp_path) as zygote:
        extent = await extent_of(Trial(store=tmp_path / "whole"), zygote)
        while died.total() < POINTS:
            trials += 1
            assert trials <= TRIALS_MAX * POINTS
            chance = Random(f"{SEED} {trials}")
            trial = Trial(store=tmp_path / str(trials), points=points_of(chance, extent))
            if trials % 3 == 0:
                trial.bank.trouble = chance
            told = f"SEED={SEED}, trial {trials}: {', '.join(map(str, trial.points))}"
            try:
                await trial.play(zygote)
                trial.check()
            except AssertionError as error:
                raise AssertionError(f"{told}: {error}") from error
            died.update(point.kind for point in trial.died)
            calls += len(trial.bank.bills)
            broke += len(trial.broke)
            lost += len(trial.lost)
            known += len(trial.known_of_the_lost)
            exact += counted_in(trial.events).usage == trial.bank.total
    kinds = ", ".join(f"{count} {kind}" for kind, count in died.most_common())
    print(f"\n{trials} runs, {died.total()} deaths ({kinds}), SEED={SEED}")
    print(
        f"{calls} model calls; {lost} came to nothing and were made again ({broke} of them broken"
    )
    print("off by the provider, the others in flight at a death), none that was recorded")
    print(f"the ledger equals the provider's count in {exact} runs, to the token; in the others it")
    print(
        f"differs by the lost calls, each marked: of {known} the input is counted, of the rest none"
    )


IN_A_TOOL = Point(kind="tool", number=7, how="begun")
IN_A_STREAM = Point(kind="event", number=20, of=3)
CAUGHT = {
    "tools start unrecorded": (IN_A_TOOL, "7 ran 2 times"),
    "tools start before their step is recorded": (IN_A_TOOL, "7 ran 2 times"),
    "an answered call is made again": (IN_A_TOOL, "a recorded call was made again"),
    "every interrupted tool runs again": (IN_A_TOOL, "7 ran 2 times"),
    "broken calls cost nothing": (IN_A_STREAM, "has been forgotten"),
}


async def test_the_trial_catches_every_loop_that_is_broken_on_purpose(tmp_path: Path) -> None:
    assert set(CAUGHT) == set(WAYS)
    async with zygote_in(tmp_path) as zygote:
        for number, (way, (point, words)) in enumerate(CAUGHT.items()):
            trial = Trial(store=tmp_path / str(number), points=[point], broken=way)
            await trial.play(zygote)
            assert trial.died == [point], way
            with pytest.raises(AssertionError, match=words):
                trial.check()
