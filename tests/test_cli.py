"""The commands as a shell sees them: what they ask for, what they print, how they exit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from ray_agents import errors
from ray_agents.cli import app, main
from ray_agents.findings import Fault, Finding, Verification
from ray_agents.terminal.installation import Target
from ray_agents.views import Status
from tests.terminal.stand_in import (
    ADA,
    CONVERSATION,
    WAITS,
    FakeClient,
    FakeInstallation,
    entity,
)

README = Path(__file__).parents[1] / "README.md"
COMMANDS = (
    "demo start stop status types version log "
    "spawn send ask observe view inspect ps interrupt kill retry skip approve deny "
    "query cost fork export import"
).split()


@dataclass(frozen=True)
class Shell:
    """One call's exit code and streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Shell]


@pytest.fixture
def installation() -> FakeInstallation:
    return FakeInstallation()


@pytest.fixture
def run(
    installation: FakeInstallation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run the program with words; a fresh environment, no terminal."""
    for name in ("RAY_AGENTS_URL", "RAY_AGENTS_TOKEN", "RAY_AGENTS_STORE"):
        monkeypatch.delenv(name, raising=False)

    def shell(*words: str) -> Shell:
        code = main(words, installation)
        captured = capsys.readouterr()
        return Shell(code=code, out=captured.out, err=captured.err)

    return shell


@pytest.fixture
def client(installation: FakeInstallation) -> FakeClient:
    return installation.client


# -- what a command asks for -------------------------------------------------------------------


def test_send_wraps_words_as_text(run: Run, client: FakeClient) -> None:
    assert run("send", ADA, "and", "times", "three?").code == 0
    assert client.asked[0][1]["payload"] == {"text": "and times three?"}


def test_send_takes_any_json_as_payload(run: Run, client: FakeClient) -> None:
    run("send", ADA, "--payload", "[1]", "--type", "sum", "--from", "/a/b", "--id", "x")
    expected = {"address": ADA, "payload": [1], "type": "sum", "from_": "/a/b", "id": "x"}
    assert client.asked == [("send", expected)]


def test_send_says_when_a_delayed_message_is_due(run: Run, client: FakeClient) -> None:
    shell = run("send", ADA, "Any news?", "--after", "12h")
    assert client.asked[0][1]["after"] == timedelta(hours=12)
    assert shell.out == f"{ADA} has it at offset 7 (sync), due in 12h\n"


@pytest.mark.parametrize("text", ["soon", "-5s", "5 weeks", "9" * 40 + "d"])
def test_a_delay_that_is_none_is_refused(text: str, run: Run, client: FakeClient) -> None:
    shell = run("send", ADA, "x", "--after", text)
    assert shell.code == 2
    assert "--after" in shell.err
    assert client.asked == []


def test_spawn_takes_arguments_tags_and_a_first_message(run: Run, client: FakeClient) -> None:
    shell = run("spawn", ADA, "Hello", "--args", '{"n": 1}', "--tag", "a=1", "--tag", "b=x=y")
    assert shell.out == f"{ADA}\n"
    expected = {"args": {"n": 1}, "tags": {"a": "1", "b": "x=y"}, "message": {"text": "Hello"}}
    assert client.asked == [("spawn", {"address": ADA} | expected)]


def test_ask_prints_the_reply_and_nothing_else(run: Run, client: FakeClient) -> None:
    assert run("ask", ADA, "17 times 23?", "--within", "1.5m").out == "391\n"
    assert client.asked[0][1]["within"] == timedelta(seconds=90)


def test_ask_prints_a_value_as_json(run: Run, client: FakeClient) -> None:
    client.reply = client.reply.model_copy(update={"text": "", "value": {"n": 1}})
    assert json.loads(run("ask", ADA, "?").out) == {"n": 1}


def test_ps_passes_its_filters_on(run: Run, client: FakeClient) -> None:
    run("ps", "--type", "a", "--status", "running", "--tag", "t=1", "--limit", "5", "--cursor", "c")
    expected = {"type": "a", "status": "running", "tag": "t=1", "limit": 5, "cursor": "c"}
    assert client.asked == [("list", expected | {"parent": None})]


def test_ps_says_that_there_are_more(run: Run) -> None:
    shell = run("ps")
    assert shell.out.splitlines()[1].split()[:2] == [ADA, "sleeping"]
    assert shell.err == "there are more: add --cursor next\n"


@pytest.mark.parametrize("verb", ["retry", "skip"])
def test_a_parked_wake_can_be_named(verb: str, run: Run, client: FakeClient) -> None:
    assert run(verb, ADA, "--wake", "w7").code == 0
    assert client.asked == [(verb, {"address": ADA, "wake": "w7"})]


@pytest.mark.parametrize(("verb", "told"), [("approve", "approved"), ("deny", "denied")])
def test_the_only_call_that_waits_need_not_be_named(
    verb: str, told: str, run: Run, client: FakeClient
) -> None:
    client.entities = (entity(approvals=(WAITS,)),)
    assert run(verb, ADA, "--by", "ann").out == f'{ADA}: delete(path="a") is {told}\n'
    decision = {"address": ADA, "call_id": WAITS.key, "by": "ann", "reason": None}
    assert client.asked == [("inspect", {"address": ADA}), (verb, decision)]


def test_a_call_is_named_and_a_reason_given(run: Run, client: FakeClient) -> None:
    run("deny", ADA, "toolu_1", "--reason", "not now")
    decision = {"address": ADA, "call_id": "toolu_1", "by": None, "reason": "not now"}
    assert client.asked == [("deny", decision)]


def test_of_several_calls_that_wait_one_must_be_named(run: Run, client: FakeClient) -> None:
    client.entities = (entity(approvals=(WAITS, WAITS.model_copy(update={"id": "toolu_2"}))),)
    shell = run("approve", ADA)
    assert shell.code == 2
    assert 'toolu_1: delete(path="a"); toolu_2: delete(path="a")' in shell.err


def test_where_nothing_waits_approve_says_so(run: Run) -> None:
    shell = run("approve", ADA)
    assert (shell.code, "waits for approval" in shell.err) == (3, True)


def test_kill_says_why(run: Run, client: FakeClient) -> None:
    run("kill", ADA, "--reason", "old")
    assert client.asked == [("kill", {"address": ADA, "reason": "old"})]


def test_interrupt_says_what_it_stopped(run: Run, client: FakeClient) -> None:
    assert run("interrupt", ADA).err == f"{ADA} does nothing that could be stopped\n"
    client.entities = (entity(status=Status.RUNNING),)
    assert run("interrupt", ADA, "--reason", "enough").err == f"{ADA} stops wake-3\n"
    asked = {"address": ADA, "wake": None, "reason": "enough"}
    assert client.asked[1] == ("interrupt", asked)
    assert json.loads(run("interrupt", ADA, "--json").out)["interrupted"] is True


def test_ask_says_that_the_reply_was_cut_short(run: Run, client: FakeClient) -> None:
    client.reply = client.reply.model_copy(update={"interrupted": True})
    shell = run("ask", ADA, "hi")
    assert (shell.out, shell.err) == (
        "391\n",
        f"{ADA} was interrupted; so far it had said:\n",
    )


def test_send_says_how_it_meets_what_runs(run: Run, client: FakeClient) -> None:
    assert run("send", ADA, "hi", "--mode", "steer").code == 0
    assert client.asked[0][1]["mode"] == "steer"
    assert run("send", ADA, "hi", "--mode", "now").code == 2


def test_fork_says_what_of_what_and_as_of_when(run: Run, client: FakeClient) -> None:
    said = run("fork", ADA, "/assistant/bob", "--at", "5").out
    assert said == f"/assistant/bob is a fork of {ADA} as of offset 5\n"
    assert client.asked == [("fork", {"address": ADA, "to": "/assistant/bob", "at": 5})]


def test_export_says_where_who_and_how_much(run: Run, client: FakeClient) -> None:
    assert run("export", ADA, "x.arrow").out.startswith(f"x.arrow: {ADA}, 4,096 bytes, xxh3 0")
    assert run("export", ADA, "x.arrow", "--children").out.startswith("x.arrow: 2 entities,")
    assert client.asked[1][1]["children"] is True


def test_import_says_who_was_made(run: Run, client: FakeClient) -> None:
    assert run("import", "x.arrow", "--to", "/assistant/bob").out == f"{ADA}\n"
    assert client.asked == [("import", {"path": Path("x.arrow"), "to": "/assistant/bob"})]


def test_inspect_shows_the_state_as_of_an_offset(run: Run, client: FakeClient) -> None:
    said = run("inspect", ADA, "--at", "5").out
    for words in ("offset 5 of 14", "imported from   /assistant/old", '{"key":"b"}', "team=red"):
        assert words in said
    assert run("inspect", ADA, "--at", "-1").code == 0
    assert [what["at"] for _, what in client.asked] == [5, None]


def test_start_tells_what_was_started_and_where(run: Run, installation: FakeInstallation) -> None:
    shell = run("start", "--app", "my:registry", "--port", "9000")
    assert installation.asked == [("start", ("my:registry", 9000))]
    assert "control api   http://127.0.0.1:4437" in shell.out


def test_stop_has_a_deadline(run: Run, installation: FakeInstallation) -> None:
    run("stop", "--within", "5s")
    assert installation.asked == [("stop", timedelta(seconds=5))]


def test_stop_without_a_deadline_leaves_it_to_the_settings(
    run: Run, installation: FakeInstallation
) -> None:
    run("stop")
    assert installation.asked == [("stop", None)]


def test_verify_takes_one_entity_or_the_whole_store(
    run: Run, installation: FakeInstallation
) -> None:
    run("log", "verify", ADA, "--repair")
    run("log", "verify", "--all", "--store", "/elsewhere")
    here, elsewhere = Target(), Target(store="/elsewhere")
    assert installation.asked == [
        ("verify", (here, ADA, True)),
        ("verify", (elsewhere, None, False)),
    ]


def test_verify_says_what_is_wrong_where_and_what_to_do(
    run: Run, installation: FakeInstallation
) -> None:
    finding = Finding(
        fault=Fault.CORRUPT,
        file="a/1.arrows",
        what="no frame",
        remedy="restore",
        byte=7,
        after_offset=3,
    )
    installation.verification = Verification(logs=1, findings=(finding,), notes=("a note",))
    shell = run("log", "verify", "--all")
    assert shell.code == 1
    place, what, remedy = shell.out.splitlines()[:3]
    assert place.split(maxsplit=1) == ["corrupt", "a/1.arrows, byte 7, after offset 3"]
    assert (what, remedy) == ("no frame", "→ restore")
    assert shell.out.endswith(": 1 finding\n")
    assert shell.err.endswith("a note\n")


def test_verify_tells_a_pipe_how_far_it_has_come(run: Run) -> None:
    shell = run("log", "verify", "--all")
    assert shell.code == 0
    assert shell.err.splitlines()[0] == "200 of 2,000 logs"
    assert len(shell.err.splitlines()) == 10


def test_demo_gets_the_screen(run: Run) -> None:
    assert run("demo").out == "the demo\n"


def test_query_prints_a_table(run: Run, installation: FakeInstallation) -> None:
    shell = run("--store", "/a", "query", "from tool_calls", "--store", "/b")
    assert installation.asked == [("query", ("/b", "from tool_calls"))]
    assert shell.out.splitlines() == ["tool    calls", "add     12", "a,b\\n   -"]


def test_query_prints_csv_or_json(run: Run) -> None:
    assert run("query", "from x", "--csv").out == 'tool,calls\nadd,12\n"a,b\n",\n'
    rows = [{"tool": "add", "calls": 12}, {"tool": "a,b\n", "calls": None}]
    assert json.loads(run("query", "from x", "--json").out) == rows


def test_cost_prints_tokens_by_kind_and_what_is_unknown(
    run: Run, installation: FakeInstallation
) -> None:
    shell = run("--store", "/a", "cost", "--by", "type", "--since", "7d")
    assert installation.asked == [("cost", ("/a", "type", timedelta(days=7)))]
    heads, ada, odd, total = (line.split() for line in shell.out.splitlines())
    assert heads[:4] == ["TYPE", "STEPS", "INPUT", "OUTPUT"]
    assert ada == ["assistant", "2", "1,200", "34", "0", "0", "$0.002740"]
    assert odd == ["odd", "1", "5", "0", "0", "0", "cost", "unknown"]
    assert total == ["total", "3", "1,205", "34", "0", "0", "$0.002740", "+", "unknown"]


def test_cost_prints_json_and_says_if_there_is_nothing(
    run: Run, installation: FakeInstallation
) -> None:
    lines = json.loads(run("cost", "--json").out)
    assert [line["cost_micros"] for line in lines] == [2740, None]
    installation.costs.clear()
    assert "nothing was spent" in run("cost", "--skip-corrupt").err


def test_query_says_on_stderr_what_it_left_out(run: Run) -> None:
    shell = run("query", "from x", "--skip-corrupt", "--csv")
    assert shell.err == "left out: /a/b\n"


def test_options_win_over_the_environment(
    run: Run, installation: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AGENTS_URL", "http://env")
    monkeypatch.setenv("RAY_AGENTS_TOKEN", "env")
    run("--token", "typed", "--store", "/s", "types")
    target = Target(url="http://env", token="typed", store="/s")
    assert installation.asked == [("connect", target)]


# -- watching ----------------------------------------------------------------------------------


def test_observe_tells_the_conversation(run: Run, client: FakeClient) -> None:
    shell = run("observe", ADA, "--from", "1", "--no-follow")
    assert client.asked == [("observe", {"address": ADA, "offset": 1, "live": False})]
    assert "→ multiply(a=17, b=23)" in shell.out
    assert shell.out.endswith("may sleep\n")


def test_observe_can_begin_now(run: Run, client: FakeClient) -> None:
    run("observe", ADA, "--from", "-1")
    assert client.asked == [("observe", {"address": ADA, "offset": -1, "live": True})]


def test_observe_prints_lines_of_json(run: Run) -> None:
    lines = run("observe", ADA, "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [event.as_json() for event in CONVERSATION]


def test_ctrl_c_ends_observing_well_and_says_where_to_go_on(run: Run, client: FakeClient) -> None:
    client.failure = KeyboardInterrupt()
    shell = run("observe", ADA)
    assert shell.code == 0
    assert shell.err.strip() == f"go on with: ray-agents observe {ADA} --from {len(CONVERSATION)}"


def test_ctrl_c_anywhere_else_is_an_interruption(run: Run, client: FakeClient) -> None:
    client.failure = KeyboardInterrupt()
    assert run("ask", ADA, "?").code == 130


def test_view_ends_with_what_the_entity_does_now(run: Run) -> None:
    assert run("view", ADA).out.splitlines()[-1] == f"{ADA} is sleeping"


# -- for programs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(("ps",), ("types",), ("version",), ("status",), ("start",), ("stop",)),
        ("log", "verify", ADA),
        ("query", "from x"),
        *(("fork", ADA, "/a/b"), ("export", ADA, "x"), ("import", "x")),
        ("inspect", ADA, "--at", "3"),
        *(("inspect", ADA), ("view", ADA), ("send", ADA, "x"), ("ask", ADA, "x"), ("spawn", ADA)),
    ],
    ids=lambda words: words[0],
)
def test_json_is_one_document(words: tuple[str, ...], run: Run) -> None:
    shell = run(*words, "--json")
    assert json.loads(shell.out)
    assert shell.err == ""


def test_a_pipe_gets_whole_lines_without_colour(run: Run, client: FakeClient) -> None:
    client.entities = (entity(address="/a/" + "x" * 120, host="h" * 90),)
    lines = run("ps").out.splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]


# -- trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownEntity("no entity lives at '/a/b'"), 3),
        (errors.Unauthorized("the token is wrong"), 4),
        (errors.StoreUnavailable("cannot write './x'"), 5),
        (errors.AskTimedOut("no reply within 2 min"), 6),
        (errors.EntityExists("'/a/b' exists"), 1),
    ],
)
def test_an_error_is_told_on_stderr_with_its_code(
    error: errors.RayAgentsError, code: int, run: Run, client: FakeClient
) -> None:
    client.failure = error
    shell = run("inspect", ADA)
    assert (shell.code, shell.out) == (code, "")
    assert shell.err.splitlines()[0] == f"error: {error.message}"


def test_where_nothing_runs_the_hint_says_how_to_start(
    run: Run, installation: FakeInstallation
) -> None:
    installation.missing = errors.RuntimeUnavailable("no runtime is running for './.ray-agents'")
    shell = run("status")
    assert shell.code == 5
    assert shell.err.splitlines()[1].startswith("hint: ray-agents start")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("send", ADA), "give the message as TEXT or as --payload JSON"),
        (("send", ADA, "x", "--payload", "1"), "not both"),
        (("send", ADA, "--payload", "{no}"), "--payload is not JSON"),
        (("spawn", ADA, "--args", "[1]"), "--args must be a JSON object"),
        (("spawn", ADA, "--tag", "novalue"), "a tag is written key=value, not 'novalue'"),
        (("spawn", ADA, "--cost-max", "much"), "'much' is no sum of dollars"),
        (("spawn", ADA, "--cost-max", "0"), "more than nothing"),
        (("spawn", ADA, "--cost-max", "1e400"), "at most 1,000,000,000 dollars"),
        (("ask", ADA, "x", "--within", "soon"), "'soon' is not a duration"),
        (("ps", "--status", "happy"), "'happy' is not one of"),
        (("log", "verify"), "or --all"),
        (("log", "verify", ADA, "--all"), "or --all"),
        (("query", "from x", "--csv", "--json"), "give --csv or --json, not both"),
        (("start", "--port", "99999"), "less than or equal to 65535"),
        (("inspect",), "Missing argument 'ADDRESS'"),
        (("dance",), "No such command 'dance'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_is_explained_and_nothing_is_asked(
    words: tuple[str, ...], complaint: str, run: Run, installation: FakeInstallation
) -> None:
    shell = run(*words)
    assert shell.code == 2
    assert shell.err.startswith("error: ")
    assert complaint in shell.err
    assert installation.asked == []


def test_a_message_cannot_drive_the_terminal(run: Run, client: FakeClient) -> None:
    client.failure = errors.HandlerFailed("\x1b[2Jboo [red]")
    assert run("inspect", ADA).err.startswith("error: \\x1b[2Jboo [red]\n")


# -- help --------------------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    shell = run()
    assert shell.code == 0
    assert "130 interrupted" in shell.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, run: Run) -> None:
    assert f"$ ray-agents {command}" in run(command, "--help").out.replace("--store", "")


def test_help_of_a_command_in_a_group_has_an_example(run: Run) -> None:
    assert "$ ray-agents log verify" in run("log", "verify", "--help").out
    assert "verify" in run("log").out


def test_these_are_all_commands() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    assert sorted(group.commands) == sorted(COMMANDS)


def test_every_command_stands_in_the_readme() -> None:
    """STYLE 25. The README is written last; until then there is nothing to compare."""
    if readme := README.read_text("utf-8"):
        missing = [name for name in COMMANDS if not re.search(rf"ray-agents {name}\b", readme)]
        assert not missing
