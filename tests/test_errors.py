"""Errors cross processes and doors whole: class, message and facts."""

from __future__ import annotations

import pickle
import re

import pytest

from ray_agents import errors
from ray_agents.errors import CallerError, RayAgentsError, rebuild

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, RayAgentsError)
]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling(kind: type[RayAgentsError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened", address="/a/b", n=1)))  # noqa: S301 - ours
    assert type(error) is kind
    assert (error.message, error.facts, str(error)) == (
        "what happened",
        {"address": "/a/b", "n": 1},
        "what happened",
    )


@pytest.mark.parametrize("kind", ALL)
def test_an_error_is_rebuilt_from_its_slug(kind: type[RayAgentsError]) -> None:
    error = kind("what happened", n=1)
    again = rebuild(error.slug, error.message, error.facts)
    assert (type(again), again.facts) == (kind, {"n": 1})


def test_an_unknown_slug_gives_the_root() -> None:
    assert type(rebuild("FromTheFuture", "what", {})) is RayAgentsError


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d{3})", errors.__doc__ or ""))
    drawn["Fenced"] = "503"
    leaves = {kind for kind in ALL if not set(kind.__subclasses__()) & set(ALL)}
    assert drawn == {kind.__name__: str(kind.status) for kind in leaves}


def test_each_branch_has_its_own_range_of_status() -> None:
    for kind in ALL:
        assert 400 <= kind.status < 600
        if issubclass(kind, CallerError) and kind.__name__ != "AskTimedOut":
            assert kind.status < 500
