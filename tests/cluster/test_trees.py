"""Budgets of trees: all that descend from an entity spend what it was given, also after crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_agents import shares
from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Limits, Registry
from ray_agents.errors import (
    HandlerFailed,
    InvalidDefinition,
    InvalidPayload,
    OverBudget,
    RayAgentsError,
)
from ray_agents.events import OutboxKind, decode
from ray_agents.ledger import Granted, Spent
from ray_agents.model import ModelRequest, Usage
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.requests import ForkRequest, SendRequest, ShareRequest, SpawnRequest
from ray_agents.tables.cost import cost
from ray_agents.testing import local_client
from ray_agents.tools import tool
from tests.cluster.conftest import SOON, ask, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

STEP = 127
USAGE = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=3, cache_write_tokens=4)
LIMITS = Limits(attempts_max=30, retry_delay=timedelta(milliseconds=1))
ROOT = Address.parse("/t/root")


def well(_: ModelRequest) -> Says:
    """What costs 127 tokens."""
    return Says(text="Well.", usage=USAGE)


async def planned(ctx: Any, wake: Any) -> Any:
    """Do what the plan says: run the agent, or spawn a child with a share and a plan of its own."""
    done: list[Any] = []
    for number, each in enumerate(wake.payload):
        if each == "run":
            ctx.use_agent(test_responses=well)
            done.append((await ctx.agent.run()).stop_reason)
        elif each == "commit":
            await ctx.commit()
        else:
            share, plan = each
            name = f"{ctx.address.rpartition('/')[2]}-{number}"
            try:
                await ctx.spawn("t", name, initial_message=plan, budget=Budget(tokens_max=share))
            except OverBudget:
                done.append("refused")
            else:
                done.append(name)
    return done


def planning(budget: Budget | None = None) -> Registry:
    registry = Registry()
    registry.define(
        "t",
        Definition(
            type="t",
            handler=planned,
            budget=budget or Budget(),
            limits=LIMITS,
            idle_timeout=timedelta(0),
        ),
    )
    return registry


async def done(runtime: LocalRuntime) -> None:
    await turn_until(lambda: not runtime.hosts.host.awake)


async def test_a_child_has_its_share_and_the_parent_that_much_less() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(planning(Budget(tokens_max=1_000, tree=True)))
        await spawned(runtime, "/t/root")
        plan = ["run", [800, ["run"] * 9], [200, ["run"]], [73, ["run"]]]
        assert (await ask(runtime, ROOT, plan)).value == ["end_turn", "root-1", "refused", "root-3"]
        await done(runtime)
        root, child = [await runtime.inspect(Address.parse(f"/t/{n}")) for n in ("root", "root-1")]
    assert (root.spent.tokens, root.granted_tokens, root.over_budget) == (STEP, 873, True)
    assert (child.spent.tokens, child.over_budget) == (7 * STEP, True)
    assert [(each.tokens_max, each.tree, each.share) for each in child.budgets] == [
        (1_000, True, False),
        (800, True, True),
    ]


async def test_each_share_is_added_up_once_however_many_are_staged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []

    def counted(text: str) -> Any:
        looks.append(text)
        return decode(text)

    monkeypatch.setattr(shares, "decode", counted)
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(planning(Budget(tokens_max=99, tree=True)))
        await spawned(runtime, "/t/root")
        plan: list[Any] = [[1, []]] * 100
        spawns = (await ask(runtime, ROOT, plan)).value
        await done(runtime)
        assert (await runtime.inspect(ROOT)).granted_tokens == 99
    assert spawns == [*(f"root-{n}" for n in range(99)), "refused"]
    assert len(looks) <= 2 * 99  # when they are staged, and when they are committed


async def test_who_has_given_all_away_runs_no_more_and_its_childrens_children_share() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(planning())
        await runtime.spawn(ROOT, SpawnRequest(budget=ShareRequest(tokens_max=500)))
        plan: list[Any] = [[500, [[300, ["run"] * 3], [201, []], "run", "run"]], "run"]
        assert (await ask(runtime, ROOT, plan)).value == ["root-0", "budget"]
        await done(runtime)
        views = {
            name: await runtime.inspect(Address.parse(f"/t/{name}"))
            for name in ("root", "root-0", "root-0-0")
        }
    spent = {name: view.spent.tokens for name, view in views.items()}
    assert spent == {"root": 0, "root-0": 2 * STEP, "root-0-0": 3 * STEP}
    assert views["root-0"].granted_tokens == 300


async def unshared(ctx: Any, wake: Any) -> None:
    await ctx.spawn("t", "child", budget=wake.payload and Budget(**wake.payload))


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, "what the child may spend"), ({"cost_max": 1}, "tokens_max"), ({"tokens_max": 9}, "")],
)
async def test_a_spawn_without_a_share_is_refused(share: Any, said: str) -> None:
    registry = Registry()
    once, budget = Limits(attempts_max=1), Budget(tokens_max=9, tree=True)
    registry.define("t", handler=unshared, budget=budget, limits=once)
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        t = await spawned(runtime, "/t/a")
        if not said:
            await ask(runtime, t, share)
            return
        with pytest.raises(HandlerFailed, match=said):
            await runtime.ask(t, SendRequest(payload=share), within=SOON)


async def test_a_budget_of_one_entity_asks_for_no_share() -> None:
    registry = Registry()
    registry.define("t", handler=unshared, budget=Budget(tokens_max=9))
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        t = await spawned(runtime, "/t/a")
        await ask(runtime, t, None)
        assert (await runtime.inspect(t)).granted_tokens == 0


async def hiring(ctx: Any, wake: Any) -> Any:
    """A tool that spawns and fails, and one that spawns."""

    @tool
    async def hire(name: str, fails: bool) -> str:
        """Hire."""
        await ctx.spawn("quiet", name, budget=Budget(cost_max=Decimal("0.30")))
        if fails:
            raise ValueError("no desk")
        return "hired"

    calls = [("hire", {"name": "a", "fails": True}), ("hire", {"name": "b", "fails": False})]
    ctx.use_agent(tools=[hire], test_responses=[Says(calls=calls), "Done."])
    return (await ctx.agent.run()).text


async def quiet(ctx: Any, wake: Any) -> None: ...


async def test_what_a_tool_that_fails_would_have_given_is_not_given() -> None:
    registry = Registry()
    registry.define("boss", handler=hiring, budget=Budget(cost_max=Decimal("0.70"), tree=True))
    registry.define("quiet", handler=quiet)
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        boss = await spawned(runtime, "/boss/b")
        assert (await ask(runtime, boss, "go")).value == "Done."
        assert (await runtime.inspect(boss)).granted_micros == 300_000


async def giving_all_away(ctx: Any, wake: Any) -> Any:
    """Spawn with all there is; the first attempt fails when that is in the log."""
    await ctx.spawn("quiet", "heir", budget=Budget(tokens_max=500))
    await ctx.commit()
    if wake.attempt == 1:
        raise ValueError("for no reason")
    return list(ctx.children)


async def test_an_attempt_that_runs_again_is_not_refused_what_it_has_given() -> None:
    registry, budget = Registry(), Budget(tokens_max=500, tree=True)
    registry.define("t", handler=giving_all_away, budget=budget, limits=LIMITS)
    registry.define("quiet", handler=quiet)
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/t/root")
        assert (await ask(runtime, ROOT, "go")).value == ["/quiet/heir"]
        assert (await runtime.inspect(ROOT)).granted_tokens == 500


async def test_a_fork_has_the_share_anew_and_a_later_life_has_none() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(planning())
        await runtime.spawn(ROOT, SpawnRequest(budget=ShareRequest(tokens_max=STEP)))
        assert (await ask(runtime, ROOT, ["run", "run"])).value == ["end_turn", "budget"]
        fork = await runtime.fork(ROOT, ForkRequest(to="/t/b"))
        assert (fork.budgets[0].tokens_max, fork.over_budget) == (STEP, False)
        await runtime.kill(ROOT)
        await spawned(runtime, "/t/root")
        assert (await runtime.inspect(ROOT)).budgets == ()


async def unpriced(ctx: Any, wake: Any) -> None:
    ctx.use_agent(model="unheard-of", test_responses=well)
    await ctx.agent.run()


def test_a_client_gives_an_entity_a_budget_of_money_which_takes_a_price() -> None:
    registry = Registry()
    registry.define("t", handler=unpriced, limits=Limits(attempts_max=1))
    with local_client() as client:
        client.register(registry)
        view = client.spawn("/t/root", budget=Budget(cost_max=Decimal("0.10")))
        assert [(each.cost_micros_max, each.tree) for each in view.budgets] == [(100_000, True)]
        with pytest.raises(HandlerFailed, match="no price of 'unheard-of'"):
            client.ask("/t/root", "go")


def test_what_is_no_budget_is_refused_by_name() -> None:
    registry = Registry()
    with pytest.raises(InvalidDefinition, match="budget=5 is not a Budget"):
        registry.define("t", handler=unpriced, budget=5)
    registry.define("t", handler=unpriced)
    with local_client() as client:
        client.register(registry)
        wrong: Any = 5
        with pytest.raises(InvalidPayload, match=r"'budget' must be a Budget, .*, not 5"):
            client.spawn("/t/root", budget=wrong)


def test_a_budget_of_a_tree_bounds_something() -> None:
    with pytest.raises(InvalidDefinition, match="of what"):
        Budget(tree=True)


# -- the guarantee, with crashes ---------------------------------------------------------------


def plan_of(random: Random, depth: int = 0) -> list[Any]:
    """What an entity does: runs and children, with shares that are often too large."""
    plan: list[Any] = []
    for _ in range(random.randrange(1, 5)):
        if depth < 3 and random.random() < 0.5:
            plan.append([random.randrange(1, 900), plan_of(random, depth + 1)])
        else:
            plan.append(random.choice(["run", "run", "run", "commit"]))
    return plan


async def lived_once(store: Blobs, plan: list[Any], *, crash_at: int) -> None:
    """Work until the process dies at its n-th write, or until all is done."""
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    dying = DyingBlobs(store, crash_at=crash_at, died=lambda: loop.call_soon_threadsafe(died.set))
    runtime = LocalRuntime(dying)
    try:
        async with asyncio.TaskGroup() as group, runtime:
            work = group.create_task(worked(runtime, plan))
            death = group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass


async def worked(runtime: LocalRuntime, plan: list[Any]) -> None:
    await ask(runtime, ROOT, plan, "m1")
    await done(runtime)


async def world(seed: int) -> None:
    random, store = Random(seed), memory()
    bound, plan = random.randrange(100, 3_000), plan_of(random)
    async with LocalRuntime(store) as runtime:
        await runtime.register(planning())
        share = ShareRequest(tokens_max=bound)
        await runtime.spawn(ROOT, SpawnRequest(budget=share, spawn_id="root"))
    for _ in range(random.randrange(4)):
        await lived_once(store, plan, crash_at=random.randrange(1, 120))
    async with LocalRuntime(store) as runtime:
        await worked(runtime, plan)
        await check_tree(runtime, store, bound)


async def check_tree(runtime: LocalRuntime, store: Blobs, bound: int) -> None:
    """Everyone kept to its share, what was given is what children got, and the sum holds."""
    spent = {line.of: line.tokens for line in cost(store, by="entity")}
    shares, overspent = {str(ROOT): bound}, 0
    queue = [ROOT]
    while queue:
        address = queue.pop()
        given = await shares_given(runtime, address)
        view = await runtime.inspect(address)
        assert view.budgets[-1].tokens_max == shares[str(address)]
        assert view.granted_tokens == sum(given.values())
        assert view.spent.tokens == spent.get(str(address), 0)
        beyond = view.spent.tokens + view.granted_tokens - shares[str(address)]
        assert beyond < STEP
        overspent += max(beyond, 0)
        shares |= given
        queue += [Address.parse(child) for child in given]
    assert spent.keys() <= shares.keys()
    assert sum(spent.values()) <= bound + overspent
    trees = cost(store, by="tree")
    assert [(line.of, line.tokens) for line in trees] == (
        [(str(ROOT), sum(spent.values()))] if spent else []
    )


async def shares_given(runtime: LocalRuntime, address: Address) -> Mapping[str, int]:
    """What the rows of an entity's own log say that it gave to whom."""
    rows = [event for event in await log_of(runtime, address) if event.type == "outbox"]
    return {
        row.value["target"]: row.value["body"]["budget"]["tokens_max"]
        for row in rows
        if row.text and row.value["kind"] == OutboxKind.SPAWN.value
    }


@pytest.mark.parametrize("seed", range(3))
async def test_some_trees_spend_no_more_than_their_budget(seed: int) -> None:
    await world(seed)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 100_000))
def test_a_tree_spends_no_more_than_its_budget_whatever_dies(seed: int) -> None:
    asyncio.run(asyncio.wait_for(world(seed), SOON.total_seconds() * 3))


def test_what_was_given_counts_against_a_budget_of_the_tree_alone() -> None:
    spent, given = Spent(usage=USAGE), Granted(tokens=5)
    budget = Budget(tokens_max=STEP + 5)
    assert not budget.is_used_up(spent, given)
    assert Budget(tokens_max=STEP + 5, tree=True).is_used_up(spent, given)


def test_of_two_bounds_the_first_that_is_reached_counts() -> None:
    spent = Spent(usage=USAGE, micros=5)
    assert Budget(tokens_max=STEP, cost_max=Decimal(1)).is_used_up(spent, Granted())
    assert Budget(tokens_max=STEP + 1, cost_max=Decimal("0.000005")).is_used_up(spent, Granted())
    assert not Budget(tokens_max=STEP + 1, cost_max=Decimal(1)).is_used_up(spent, Granted())
