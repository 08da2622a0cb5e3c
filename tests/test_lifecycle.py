"""Status: every row of the table, and every fact that does not change it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from ray_agents import lifecycle
from ray_agents.lifecycle import TABLE, Known, status_of
from ray_agents.views import Status

EVERY = [
    Known(stopped=s, owned=o, placed=p, running=r, unfinished=u, undecided=d)
    for s, o, p, r, u, d in product([False, True], repeat=6)
]


@pytest.mark.parametrize(("known", "status"), TABLE)
def test_each_row_of_the_table_holds(known: Known, status: Status) -> None:
    assert status_of(known) is status


@pytest.mark.parametrize("known", EVERY)
def test_each_combination_of_facts_has_a_status(known: Known) -> None:
    status = status_of(known)
    if known.stopped:
        assert status is Status.STOPPED
    elif known.undecided and not (known.owned and known.running):
        assert status is Status.WAITING
    elif not known.owned:
        assert status is (Status.WAITING if known.unfinished else Status.SLEEPING)
    elif not known.placed:
        assert status is Status.WAITING
    elif known.running:
        assert status is Status.RUNNING
    else:
        assert status is (Status.RETRYING if known.unfinished else Status.IDLE)


@pytest.mark.parametrize("known", [known for known in EVERY if not known.owned])
def test_what_is_impossible_without_an_owner_is_not_believed(known: Known) -> None:
    assert status_of(known) is status_of(replace(known, running=False, placed=True))


def test_each_status_is_in_the_table_and_in_its_drawing() -> None:
    told = {status for _, status in TABLE} | {Status.STOPPED}
    assert told == set(Status)
    assert all(status.value in (lifecycle.__doc__ or "") for status in Status)
