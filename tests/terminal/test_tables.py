"""Tables: aligned, whole in a pipe, and saying what matters of an entity."""

from __future__ import annotations

import io
from textwrap import dedent

import pytest
from rich.console import Console, RenderableType

from ray_agents.events import JSON
from ray_agents.terminal import tables, wording
from ray_agents.terminal.screen import Screen
from ray_agents.views import BudgetView, Durability, GoalView, Spending, Status, TypeView
from tests.terminal.stand_in import BUSY_MODEL, NOW, PARKED, WAITS, entity


def printed(answer: RenderableType, *, width: int = 120) -> str:
    paper = io.StringIO()
    Screen(out=Console(file=paper, width=width)).show(answer)
    return "".join(line.rstrip() + "\n" for line in paper.getvalue().splitlines())


def test_ps_shows_a_line_for_each_entity() -> None:
    awake = entity(address="/a/b", status=Status.RUNNING, backlog=12, host="host-4f2a", pid=4242)
    assert printed(tables.entities([entity(), awake], now=NOW)) == dedent("""\
        ADDRESS          STATUS     CREATED   LAST ACTIVE   BACKLOG   HOST
        /assistant/ada   sleeping   1m ago    3s ago              0   -
        /a/b             running    1m ago    3s ago             12   host-4f2a (pid 4242)
        """)


def test_a_status_says_what_it_waits_for_and_what_is_parked() -> None:
    waiting = entity(status=Status.WAITING, waiting_for="num_gpus=1", parked=(PARKED,))
    assert tables.status(waiting).plain == "waiting for num_gpus=1, 1 parked"


def test_an_address_is_never_cut() -> None:
    address = "/assistant/" + "x" * 90
    assert address in printed(tables.entities([entity(address=address)], now=NOW), width=60)


def test_types_show_where_they_come_from() -> None:
    item = TypeView(type="assistant", version=2, source="my:registry", description="Answers")
    assert printed(tables.types([item])) == dedent("""\
        TYPE        VERSION   PLACEMENT   SOURCE        DESCRIPTION
        assistant         2   dedicated   my:registry   Answers
        """)


def test_inspect_shows_everything_that_is_not_empty() -> None:
    view = entity(args={"n": 1}, tags={"b": "2", "a": "1"}, parked=(PARKED,), events=1_200, epoch=3)
    assert printed(tables.entity(view, now=NOW)) == dedent("""\
        address       /assistant/ada
        status        sleeping, 1 parked
        created       1m ago
        last active   3s ago
        backlog       0
        host          -
        log           1,200 events, life 0, epoch 3
        durability    sync
        arguments     {"n":1}
        tags          a=1, b=2

        PARKED WAKE   MESSAGES   AFTER        ERROR
        w7                   2   3 attempts   ValueError: no
        """)


def test_what_a_model_has_named_cannot_drive_the_terminal() -> None:
    waits = WAITS.model_copy(update={"id": "toolu\x1b[2J"})
    view = entity(tags={"mood\x1b[2J": "\x1b]0;hi\x07"}, args={"n": "\x9b2J"}, approvals=(waits,))
    shown = printed(tables.entity(view, now=NOW))
    assert {char for char in shown if not char.isprintable()} == {"\n"}
    assert "mood\\x1b[2J=\\x1b]0;hi" in shown


def test_inspect_shows_what_waits_for_approval() -> None:
    view = entity(status=Status.WAITING, waiting_for="approval", approvals=(WAITS,))
    shown = printed(tables.entity(view, now=NOW))
    assert "status        waiting for approval\n" in shown
    assert shown.endswith(
        dedent("""\

        WAITS FOR APPROVAL   CALL               ASKED    EXPIRES   WAKE
        toolu_1              delete(path="a")   1m ago   -         w1
        """)
    )


def test_calls_that_wait_by_one_id_are_named_by_their_keys() -> None:
    waiting = (WAITS, WAITS.model_copy(update={"key": "w2-run-1:s1:tool:0"}))
    shown = printed(tables.entity(entity(status=Status.WAITING, approvals=waiting), now=NOW))
    assert [line.split()[0] for line in shown.splitlines()[-2:]] == [each.key for each in waiting]


@pytest.mark.parametrize("durability", list(Durability))
def test_inspect_says_what_an_acknowledgement_is_worth(durability: Durability) -> None:
    shown = printed(tables.entity(entity(durability=durability), now=NOW))
    assert f"\ndurability    {durability}\n" in shown


def test_inspect_says_when_it_is_next_due() -> None:
    view = entity(schedules=2, next_due=NOW + 90_000_000)
    assert "\nnext due      in 1 min 30 s, 2 delayed\n" in printed(tables.entity(view, now=NOW))


def test_inspect_says_what_was_spent_and_if_no_more_may_be() -> None:
    spent = Spending(input_tokens=1_200, output_tokens=34, cost_micros=2_740, priced_micros=2_740)
    lost = spent.model_copy(update={"cost_micros": None, "uncounted": 1})
    shown = printed(tables.entity(entity(spent=spent), now=NOW))
    assert "\nspent         1,234 tokens, $0.002740\n" in shown
    over = printed(tables.entity(entity(spent=lost, over_budget=True), now=NOW))
    assert "1,234 tokens, $0.002740 + unknown, 1 broken call not wholly counted" in over
    assert "budget used up" in over
    assert "spent" not in printed(tables.entity(entity(), now=NOW))


def test_inspect_says_what_bounds_an_entity_what_it_gave_away_and_its_goal() -> None:
    view = entity(
        budgets=(
            BudgetView(tokens_max=9_000, tree=True),
            BudgetView(cost_micros_max=500_000, tree=True, share=True),
        ),
        granted_tokens=1_000,
        granted_micros=20_000,
        goal=GoalView(objective="tidy", status="budget_limited", token_budget=50, tokens_used=60),
    )
    alone = printed(tables.entity(view, now=NOW))
    assert "budget        $0.50 with all that descend from it\n" in alone
    shown = printed(tables.entity(view.model_copy(update={"parent": "/boss/1"}), now=NOW))
    assert "budget        9,000 tokens with all that descend from it\n" in shown
    assert "share         $0.50 with all that descend from it\n" in shown
    assert "given         1,000 tokens and $0.02 to children\n" in shown
    assert "goal          tidy (60 of 50 tokens used), used up\n" in shown


def test_what_was_spent_stands_below_a_conversation() -> None:
    spent = Spending(input_tokens=1_200, output_tokens=34, cost_micros=2_740, priced_micros=2_740)
    line = printed(tables.summary(entity(spent=spent)))
    assert line == "/assistant/ada is sleeping; spent: 1,234 tokens, $0.002740\n"


@pytest.mark.parametrize(
    ("micros", "told"),
    [(0, "$0.00"), (1, "$0.000001"), (1_250_000, "$1.25"), (10**10, "$10,000.00")],
)
def test_money_is_told_to_the_last_micro_dollar(micros: int, told: str) -> None:
    assert wording.money(micros) == told


def test_a_description_puts_each_item_of_a_list_on_its_line() -> None:
    assert printed(
        tables.description({"control_api": "http://x", "hosts": ["a", "b"], "n": 3})
    ) == ("control api   http://x\nhosts         a\n              b\nn             3\n")


def test_status_has_a_line_for_each_model_that_was_called() -> None:
    idle = dict.fromkeys(BUSY_MODEL, 0) | {"model": "m", "provider": "p", "limit": 8, "hosts": 1}
    shown = printed(tables.runtime({"store": "s", "models": [BUSY_MODEL, idle]}), width=250)
    busy = (
        "18 of 20 calls under way, 44 wait, the longest for 3.2 s, paused for 12.0 s, "
        "30 of 50 requests a minute, 12,000 of 40,000 tokens a minute, 2 hosts"
    )
    assert shown == dedent(f"""\
        store    s
        models   claude-opus-4-5 (anthropic): {busy}
                 m (p): 0 of 8 calls under way, 1 host
        """)


def test_status_says_nothing_of_models_that_nobody_called_and_what_is_wrong() -> None:
    assert printed(tables.runtime({"store": "s", "models": []})) == "store   s\n"
    silent: dict[str, JSON] = {"models": [], "model gateway": "does not answer within 2 s"}
    assert printed(tables.runtime(silent)) == "model gateway   does not answer within 2 s\n"


def test_square_brackets_are_text_and_not_markup() -> None:
    assert "[red]x[/red]" in printed(tables.description({"a": "[red]x[/red]"}))
