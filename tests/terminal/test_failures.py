"""Every error has an exit code, and the message names the thing."""

from __future__ import annotations

import pytest

from ray_agents import errors
from ray_agents.terminal.failures import ExitCode, exit_code, hint


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidAddress("x"), ExitCode.USAGE),
        (errors.InvalidPayload("x"), ExitCode.USAGE),
        (errors.UnknownType("x"), ExitCode.NOT_FOUND),
        (errors.UnknownEntity("x"), ExitCode.NOT_FOUND),
        (errors.EntityGone("x"), ExitCode.NOT_FOUND),
        (errors.Unauthorized("x"), ExitCode.UNAUTHORIZED),
        (errors.RuntimeUnavailable("x"), ExitCode.UNAVAILABLE),
        (errors.StoreFull("x"), ExitCode.UNAVAILABLE),
        (errors.AskTimedOut("x"), ExitCode.TIMED_OUT),
        (errors.EntityExists("x"), ExitCode.FAILED),
        (errors.HandlerFailed("x"), ExitCode.FAILED),
    ],
)
def test_an_error_has_its_exit_code(error: errors.RayAgentsError, code: ExitCode) -> None:
    assert exit_code(error) is code


def test_a_hint_names_the_entity() -> None:
    assert hint(errors.NothingParked("x", address="/a/b")) == (
        "ray-agents inspect /a/b shows what is parked"
    )


def test_an_error_that_says_it_all_has_no_hint() -> None:
    assert hint(errors.CorruptLog("x")) is None
