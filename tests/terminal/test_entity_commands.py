"""What the commands on entities say where something is not as who types them may think."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ray_agents.cli import main
from ray_agents.views import Status
from tests.terminal.stand_in import ADA, FakeClient, FakeInstallation, entity

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run(client: FakeClient, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds; what it prints, and what it says beside that."""

    def shell(*words: str) -> tuple[str, str]:
        assert main(words, FakeInstallation(client=client)) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return shell


def test_interrupt_of_a_wake_that_does_not_run_says_which_one_does(
    run: Run, client: FakeClient
) -> None:
    asked = ("interrupt", ADA, "--wake", "wake-999")
    nothing = f"{ADA} does not run wake-999; nothing runs that could be stopped\n"
    assert run(*asked) == ("", nothing)
    client.entities = (entity(status=Status.RUNNING),)
    assert run(*asked) == ("", f"{ADA} does not run wake-999; what it does is wake-3\n")


def test_ask_says_which_limit_left_it_without_a_word(run: Run, client: FakeClient) -> None:
    client.reply = client.reply.model_copy(update={"text": "", "stop_reason": "budget"})
    assert run("ask", ADA, "hi") == ("\n", f"{ADA} said nothing: its run stopped (budget)\n")
    client.reply = client.reply.model_copy(update={"stop_reason": "end_turn"})
    assert run("ask", ADA, "hi") == ("\n", "")


def test_ask_takes_the_modes_of_send(run: Run, client: FakeClient) -> None:
    run("ask", ADA, "hi", "--mode", "steer")
    assert client.asked[0][1]["mode"] == "steer"


def test_a_wake_that_is_named_is_not_called_parked(run: Run) -> None:
    assert run("skip", ADA, "--wake", "w7") == ("", f"{ADA} leaves w7 unhandled\n")
    assert run("retry", ADA, "--wake", "w7") == ("", f"{ADA} tries w7 again\n")
    assert run("skip", ADA) == ("", f"{ADA} leaves 1 parked wake unhandled\n")


def test_a_decision_that_was_made_before_says_by_whom(run: Run, client: FakeClient) -> None:
    client.decided_by = "ann"
    told = f'{ADA}: delete(path="a") was approved by ann already\n'
    assert run("approve", ADA, "toolu_1", "--by", "bob") == (told, "")
    assert run("approve", ADA, "toolu_1", "--by", "ann")[0].endswith("is approved\n")


def test_observe_says_that_ctrl_c_is_its_normal_end(run: Run) -> None:
    assert "Ctrl-C is its normal end, with exit code 0" in run("observe", "--help")[0]
