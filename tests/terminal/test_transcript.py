"""A log told as a conversation, compared with what should stand on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from textwrap import dedent
from typing import Any

import pytest

from ray_agents.events import (
    Draft,
    EffectStaged,
    Event,
    Operation,
    OutboxKind,
    SendScheduled,
    WakeStatus,
)
from ray_agents.ledger import Spent
from ray_agents.media import image
from ray_agents.terminal.transcript import Stroke, Transcript
from ray_agents.views import ApprovalStatus
from tests.terminal.stand_in import (
    ADA,
    CONVERSATION,
    approval,
    created,
    error,
    interrupt,
    log_of,
    message,
    row,
    stopped,
    text,
    thought,
    tool,
    wake,
)


def strokes_of(events: Sequence[Event], *, width: int | None = None) -> list[Stroke]:
    transcript = Transcript(address=ADA, zone=UTC, width=width)
    told = [stroke for event in events for stroke in transcript.tell(event)]
    return [*told, *transcript.close()]


def told(*drafts: Draft, width: int | None = None) -> str:
    return "".join(stroke.text for stroke in strokes_of(log_of(*drafts), width=width))


def test_a_conversation_reads_from_top_to_bottom() -> None:
    assert "".join(stroke.text for stroke in strokes_of(CONVERSATION)) == dedent("""\
        10:00:00 + assistant created with {"language":"en"}
        10:00:01 ❯ What is 17 times 23?
        10:00:02 · awake for 1 message
        10:00:03 ~ They want a product; I have a tool.
        10:00:06 → multiply(a=17, b=23)
        10:00:07 ← multiply: 391 (12 ms)
        10:00:08 · step 1 · 1,312 tokens in, 41 out
        10:00:09 ● 17 times 23 is 391.
                   Anything else?
        10:00:13 · handled in 11.0 s, may sleep
        """)


def progress(**said: Any) -> Draft:
    return row("tool_progress", "c1:progress", tool_name="load", **said)


def test_text_appears_as_it_arrives() -> None:
    transcript = Transcript(address=ADA, zone=UTC)
    first, second = log_of(text("17 times"), text(" 23"))
    assert [stroke.text for stroke in transcript.tell(first)][-1] == "17 times"
    assert [stroke.text for stroke in transcript.tell(second)] == [" 23"]


def test_thoughts_look_other_than_text() -> None:
    styles = [stroke.style for stroke in strokes_of(log_of(thought("hm"), text("yes")))]
    assert "dim italic" in styles
    assert "" in styles


def test_long_text_is_broken_at_the_screen_s_edge() -> None:
    assert told(text("one two three four five six seven"), width=40) == (
        "10:00:00 ● one two three four five six\n           seven\n"
    )


def test_a_run_whose_text_was_not_streamed_is_told_whole() -> None:
    assert told(row("run", "r9", status="completed", text="All of it")).endswith("● All of it\n")


@pytest.mark.parametrize(
    ("draft", "line"),
    [
        (message("bare"), "❯ bare"),
        (message([1, 2], sender="/a/b", kind="sum"), "❯ [1,2]  as sum, from /a/b"),
        (message({"text": "a", "lang": "de"}), '❯ {"text":"a","lang":"de"}'),
        (wake(WakeStatus.STARTED, attempt=2), "· awake for 1 message, attempt 2"),
        (wake(WakeStatus.STARTED, deaths=1), "· awake for 1 message, 1 host death before"),
        (wake(WakeStatus.STARTED, deaths=2), "· awake for 1 message, 2 host deaths before"),
        (wake(WakeStatus.STARTED, event_count=3, source="cron"), "· awake for 3 cron events"),
        (wake(WakeStatus.HANDLED), "· handled, may sleep"),
        (wake(WakeStatus.SKIPPED), "· skipped"),
        (wake(WakeStatus.WAITING), "· waits for approval, may sleep"),
        (approval(ApprovalStatus.APPROVED, by="ann"), '✓ approved by ann: delete(path="a")'),
        (approval(ApprovalStatus.DENIED, reason="no"), '✗ denied: delete(path="a"): no'),
        (approval(ApprovalStatus.EXPIRED), '✗ expired: delete(path="a")'),
        (approval(ApprovalStatus.WITHDRAWN), '· withdrawn: delete(path="a")'),
        (progress(message="reading", done=3, total=10), "… load: reading 3 of 10"),
        (progress(message="reading", done=3, total=None), "… load: reading 3"),
        (progress(message="", done=None, total=None), "… load:"),
        (wake(WakeStatus.HANDLED, interrupted=True), "· interrupted, may sleep"),
        (interrupt(reason="enough"), "■ told to stop: enough"),
        (interrupt(sender="/a/b"), "■ told to stop by /a/b"),
        (row("steered", "s", run_id="r", offset=7), "↳ took in the message at 7"),
        (tool("failed", error="no city", duration_ms=2_000), "✗ multiply: no city (2.0 s)"),
        (tool("executing", args=None), "→ multiply()"),
        (row("run", "r", status="failed", finish_reason="refused"), "✗ run failed: refused"),
        (created(parent="/boss/1"), "+ assistant created by /boss/1"),
        (stopped("too old"), "■ killed: too old"),
        (stopped(None), "■ killed"),
        (row("state:notes", "n1", key="n1", text="hi"), '= notes n1 = {"key":"n1","text":"hi"}'),
        (Draft.of("state:notes", "n1", operation=Operation.DELETE), "= notes n1 deleted"),
        (row("from_the_future", "k", a=1), '= from_the_future k = {"a":1}'),
    ],
)  # fmt: skip
def test_a_row_is_told_in_a_line(draft: Draft, line: str) -> None:
    assert told(draft).splitlines()[-1] == f"10:00:00 {line}"


def test_a_running_wake_that_is_told_something_is_told_once() -> None:
    begun = wake(WakeStatus.STARTED)
    assert told(begun, wake(WakeStatus.STARTED, joined=(7,))) == told(begun)


def test_a_failed_attempt_says_when_the_next_one_comes() -> None:
    at = log_of(message("x"))[0].time
    failed = wake(WakeStatus.FAILED, error="ValueError: no", retry_at=at + 200_000)
    assert told(failed) == "10:00:00 ! attempt 1 failed: ValueError: no; again in 0.20 s\n"


def test_a_parked_wake_says_what_can_be_done() -> None:
    assert told(wake(WakeStatus.PARKED, attempt=3, error="ValueError: no")) == (
        "10:00:00 ✗ parked after 3 attempts: ValueError: no\n"
        "           ray-agents retry /assistant/ada, or skip /assistant/ada\n"
    )


def test_a_tool_call_that_waits_says_how_to_decide_on_it() -> None:
    assert told(approval(ApprovalStatus.PENDING)) == (
        '10:00:00 ? waits for approval: delete(path="a")\n'
        "           ray-agents approve /assistant/ada toolu_1, or deny /assistant/ada toolu_1\n"
    )


def test_one_that_waits_by_an_id_that_came_before_is_named_by_its_key() -> None:
    asked = approval(ApprovalStatus.PENDING)
    again = replace(asked, key="k2", text=asked.text.replace("w1-run-1:s1:tool:0", "k2"))
    assert "approve /assistant/ada toolu_1, or deny" in told(asked, asked)
    assert "approve /assistant/ada k2, or deny /assistant/ada k2" in told(asked, again)


def test_an_error_shows_its_traceback() -> None:
    assert told(error("Traceback:\n  line 1\nValueError: no\n")) == (
        "10:00:00 ✗ handler_failed: ValueError: no\n"
        "           Traceback:\n             line 1\n           ValueError: no\n"
    )


@pytest.mark.parametrize(
    ("kind", "line"),
    [(OutboxKind.SEND, "↗ sends to /a/b: hi"), (OutboxKind.SPAWN, "↗ spawns /a/b")],
)
def test_what_leaves_is_told_once(kind: OutboxKind, line: str) -> None:
    body = {"payload": {"text": "hi"}}
    staged = EffectStaged(key="o1", kind=kind, target="/a/b", body=body)
    assert told(staged.draft({}), staged.delivered()) == f"10:00:00 {line}\n"


def test_a_delayed_send_is_told_when_it_is_accepted() -> None:
    at = log_of(message("x"))[0].time
    send = SendScheduled(
        key="m1",
        fire_at=at + 7200 * 1_000_000,
        payload={"text": "Any news?"},
        message_type="message",
        sender="/a/b",
        target="/assistant/ada",
        life=0,
        timestamp=at,
    )
    line = "10:00:00 ◷ in 2h: Any news?  from /a/b\n"
    assert told(send.draft(), send.sent(now=at)) == line


def test_a_delay_of_what_leaves_is_told() -> None:
    body = {"payload": "hi", "after_seconds": 300.0}
    staged = EffectStaged(key="o1", kind=OutboxKind.SEND, target="/a/b", body=body)
    assert told(staged.draft({})) == "10:00:00 ↗ sends to /a/b in 5 min: hi\n"


def test_rows_that_repeat_others_are_silent() -> None:
    assert told(row("text", "t", status="completed"), row("manifest", "child:/a/b")) == ""


def test_a_long_result_is_cut_and_says_so() -> None:
    line = told(tool("completed", args={}, result="x" * 2_000))
    assert line.endswith("x… (2,000 characters)\n")


def test_escape_sequences_in_a_log_are_spelled_out() -> None:
    assert "\x1b" not in told(text("\x1b[2J"), error("\x1b]0;x\x07"), message("\x1b[31m"))


def test_a_step_tells_what_it_cost_or_that_nobody_knows() -> None:
    step = {"status": "completed", "step_number": 1, "input_tokens": 5, "output_tokens": 1}
    known, unknown = (row("step", "s", **step, cost_micros=micros) for micros in (20, None))
    assert "step 1 · 5 tokens in, 1 out · $0.000020\n" in told(known)
    assert "step 1 · 5 tokens in, 1 out · cost unknown\n" in told(unknown)


def test_the_ledger_s_own_rows_are_not_told() -> None:
    assert told(Spent().draft()) == ""


def test_of_calls_side_by_side_each_result_says_which_it_is_of() -> None:
    def call(key: str, city: str, status: str, **more: object) -> Draft:
        args = {"city": city}
        return row("tool_call", key, tool_name="look", status=status, args=args, **more)

    both = call("c1", "Rom", "executing"), call("c2", "Oslo", "executing")
    ends = call("c2", "Oslo", "completed", result="rain"), call("c1", "Rom", "completed", result=[])
    lines = [line[9:] for line in told(*both, *ends).splitlines()]
    assert lines == [
        '→ look(city="Rom")',
        '→ look(city="Oslo")',
        '← look(city="Oslo"): rain',
        '← look(city="Rom"):',
    ]


def delete(index: int, status: str, **more: object) -> Draft:
    """A call of the tool of that name, one of several in a step."""
    args = {"path": f"/{index}"}
    key = f"w1-run-1:s1:tool:{index}"
    return row("tool_call", key, tool_name="delete", status=status, args=args, **more)


def lines_of(*drafts: Draft) -> list[str]:
    return [line[9:] for line in told(*drafts).splitlines()]


@pytest.mark.parametrize("unknown", [None, 0])
def test_a_call_that_was_refused_is_not_told_as_made_and_the_other_one_says_which_it_is(
    unknown: int | None,
) -> None:
    refused = {"error": "Not run: this call was denied.", "duration_ms": unknown}
    assert lines_of(
        delete(0, "failed", **refused),
        delete(1, "executing"),
        delete(1, "completed", result="gone", duration_ms=3),
    ) == [
        '✗ delete(path="/0"): Not run: this call was denied.',
        '→ delete(path="/1")',
        '← delete(path="/1"): gone (3 ms)',
    ]


def test_how_long_an_interrupted_tool_took_is_left_out_where_nobody_knows() -> None:
    begun = delete(0, "executing", duration_ms=None)
    lost = delete(0, "failed", error="Interrupted.", duration_ms=None)
    known = delete(0, "failed", error="Interrupted.", duration_ms=2_000)
    assert lines_of(begun, lost)[-1] == "✗ delete: Interrupted."
    assert lines_of(begun, known)[-1] == "✗ delete: Interrupted. (2.0 s)"


def test_a_waiting_wake_that_is_told_to_stop_does_not_wait_anew() -> None:
    waiting = wake(WakeStatus.WAITING)
    stopped_at = interrupt(), wake(WakeStatus.WAITING, interrupted=True)
    assert lines_of(waiting, *stopped_at) == ["· waits for approval, may sleep", "■ told to stop"]


def test_a_wake_that_was_skipped_in_its_run_is_told_in_one_line() -> None:
    why = {
        "key": "e",
        "error_code": "interrupted",
        "message": "the run was interrupted: the wake was skipped",
    }
    run_id = "w1-run-1"
    ends = (
        row("error", f"{run_id}:interrupted", run_id=run_id, **why),
        row("run", run_id, status="failed", finish_reason="interrupted"),
        wake(WakeStatus.SKIPPED),
    )
    assert lines_of(*ends) == ["✗ the run was interrupted: the wake was skipped"]


def test_the_name_of_an_error_is_told_once() -> None:
    why = {
        "key": "e",
        "error_code": "InvalidDefinition",
        "message": "InvalidDefinition: no such tool",
    }
    assert lines_of(row("error", "e", **why)) == ["✗ InvalidDefinition: no such tool"]


def test_a_run_tells_how_long_it_waited_for_people() -> None:
    now = log_of(message("x"))[0].time
    run = row("run", "w1-run-1", status="completed", steps=2, duration_ms=50_000)
    decided = approval(ApprovalStatus.APPROVED, decided_at=now + 45_800_000)
    assert lines_of(decided, run)[-1].endswith(
        "50.0 s, of which 45.8 s waiting · stopped: no reason recorded"
    )


def test_the_model_is_named_when_it_is_another() -> None:
    names = ("a", "a", "b")
    steps = [row("step", "s", status="completed", step_number=1, model_id=name) for name in names]
    ends = [line.rpartition(" ")[2] for line in told(*steps).splitlines()]
    assert ends == ["a", "1", "b"]


def test_what_was_not_streamed_is_told_when_its_step_is_complete() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Yes."},
    ]
    step = row("step", "r1:s1", run_id="r1", status="completed", step_number=1, content=content)
    run = row("run", "r1", status="completed", text="Yes.")
    assert [line[9:] for line in told(step, run).splitlines()] == [
        "~ Hm.",
        "~ (thoughts that are not shown)",
        "● Yes.",
        "· step 1",
    ]
    streamed = row("text_delta", "d", text_id="r1:s1:text:2", run_id="r1", delta="Yes.")
    assert told(streamed, step, run).count("Yes.") == 1


def test_an_answer_that_broke_off_is_taken_back_in_words() -> None:
    gone = Draft.of("text", "t1", operation=Operation.DELETE)
    assert told(text("half"), gone, text("whole")).splitlines() == [
        "10:00:00 ● half",
        "10:00:01 ! the answer broke off: what it said is taken back",
        "10:00:02 ● whole",
    ]
    assert told(gone) == ""


@pytest.mark.parametrize(
    ("reason", "steps", "line"),
    [
        ("end_turn", 2, "· run of 2 steps · 5 tokens in, 1 out · $1.50"),
        ("budget", 1, "· run of 1 step · 5 tokens in, 1 out · $1.50 · stopped: budget"),
    ],
)
def test_a_run_tells_what_it_took_and_why_it_stopped(reason: str, steps: int, line: str) -> None:
    figures = {"input_tokens": 5, "output_tokens": 1, "cost_micros": 1_500_000}
    run = row("run", "r", status="completed", finish_reason=reason, steps=steps, **figures)
    assert told(run) == f"10:00:00 {line}\n"


def test_a_run_of_one_step_that_ended_well_is_told_by_its_step() -> None:
    assert told(row("run", "r", status="completed", finish_reason="end_turn", steps=1)) == ""


def test_tokens_from_the_cache_are_counted_and_named() -> None:
    step = {"input_tokens": 5, "cache_read_tokens": 1_200, "cache_write_tokens": 10}
    line = told(row("step", "s", status="completed", step_number=1, output_tokens=1, **step))
    assert "1,215 tokens in (1,200 of them cached), 1 out" in line


def test_pictures_are_told_by_kind_and_size() -> None:
    blocks = [
        {"type": "text", "text": "see"},
        image(b"\xff\xd8\xff" + b"x" * 297, "image/jpeg"),
        {"type": "document"},
    ]
    line = told(tool("completed", args={}, result=blocks))
    assert line.endswith("see\n           [image/jpeg, 300 bytes]\n           [document]\n")


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        ({"status": "active", "token_budget": 500, "tokens_used": 20},
         "goal: tidy (20 of 500 tokens used)"),
        ({"status": "active", "token_budget": None, "tokens_used": 20}, "goal: tidy"),
        ({"status": "complete", "summary": "done"}, "goal complete: done"),
    ],
)  # fmt: skip
def test_a_goal_is_told(goal: Any, line: str) -> None:
    assert told(row("manifest", "goal", objective="tidy", **goal)) == f"10:00:00 ◎ {line}\n"


def test_a_goal_that_is_cleared_is_told() -> None:
    gone = Draft.of("manifest", "goal", operation=Operation.DELETE)
    assert told(gone) == "10:00:00 ◎ goal cleared\n"


def test_a_spawn_tells_what_the_child_may_spend() -> None:
    body = {"budget": {"tokens_max": 1_000, "cost_max": "0.50"}}
    staged = EffectStaged(key="o1", kind=OutboxKind.SPAWN, target="/a/b", body=body)
    line = "↗ spawns /a/b, which may spend 1,000 tokens and $0.50"
    assert told(staged.draft({})) == f"10:00:00 {line}\n"


def test_writing_without_spaces_breaks_where_the_screen_ends_but_before_no_full_stop() -> None:
    assert told(text("数据库" * 4 + "。"), width=31) == (
        "10:00:00 ● 数据库数据库数据库数\n           据库。\n"
    )


@pytest.mark.parametrize("width", [31, 40, 60, 80])
def test_no_line_of_prose_is_wider_than_the_screen(width: int) -> None:
    lines = "".join(stroke.text for stroke in strokes_of(CONVERSATION, width=width)).splitlines()
    assert max(map(len, lines)) <= width


def test_a_summary_and_what_a_step_was_asked_with_are_told() -> None:
    context = {"sources": {"run": 100}, "cacheable": 80, "counted": "provider", "estimate": 90}
    step = {"status": "completed", "purpose": "compaction", "input_tokens": 100, "context": context}
    summary = {"turns": 12, "tokens": 3400, "summary": "They counted."}
    content = [{"type": "text", "text": "They counted."}]
    step_row = Draft.of("step", "r:c1", value={**step, "content": content})
    drafts = (step_row, Draft.of("compaction", "r:c1", value=summary))
    assert told(*drafts) == dedent("""\
        10:00:00 · compaction · 100 tokens in, 0 out · 80% cacheable
        10:00:01 ≡ 12 turns, about 3,400 tokens, are summed up: They counted.
        """)
