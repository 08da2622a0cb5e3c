"""Tools with which a model coordinates: spawn, send, schedule, set_tag, and its goal.

They are closures over a context and do what its verbs do: effects that are staged in the scope of
the tool call and become durable with its result. So a call that a crash interrupted has done
nothing and is run again, and one whose result is in the log is never repeated.

The model decides whom, what and when, within what the handler has allowed: it spawns only types
that were named, and only so many. It reads its goal and says that it is reached, and cannot set
one: a model that sets its goal sets its own budget.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, create_model

from ray_agents.address import Address
from ray_agents.budgets import Budget
from ray_agents.errors import InvalidDefinition, InvalidPayload
from ray_agents.events import JSON
from ray_agents.goals import Goal
from ray_agents.handles import EntityHandle
from ray_agents.requests import AFTER_MAX
from ray_agents.tools import Tool

SPAWNS_MAX = 16
TEXT_CHARS_MAX = 100_000


class Coordinator(Protocol):
    """What the tools need of a context; :class:`ray_agents.context.Context` is it."""

    @property
    def address(self) -> str:
        """This entity's address."""
        ...

    @property
    def children(self) -> Sequence[str]:
        """The addresses that this entity has spawned."""
        ...

    async def send(self, address: str, payload: JSON, *, after: timedelta | None = None) -> str:
        """Send a message, now or later."""
        ...

    async def spawn(
        self,
        type_name: str,
        entity_id: str,
        *,
        initial_message: JSON = None,
        budget: Budget | None = None,
    ) -> EntityHandle:
        """Create a child."""
        ...

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag."""
        ...

    def get_goal(self) -> Goal | None:
        """The goal."""
        ...

    def mark_goal_complete(self, summary: str | None = None) -> Goal | None:
        """Say that the goal is reached."""
        ...


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Send(_Arguments):
    address: str = Field(description="whom to send it to, /type/id")
    text: str = Field(description="the message", max_length=TEXT_CHARS_MAX)


class _Schedule(_Arguments):
    text: str = Field(description="the message", max_length=TEXT_CHARS_MAX)
    after_seconds: float = Field(
        description="how long from now", gt=0, le=AFTER_MAX.total_seconds(), allow_inf_nan=False
    )
    address: str | None = Field(default=None, description="whom it is for, /type/id; absent: you")


class _Tag(_Arguments):
    key: str = Field(min_length=1, max_length=100)
    value: str = Field(max_length=1_000)


class _Nothing(_Arguments):
    pass


class _Reached(_Arguments):
    summary: str | None = Field(
        default=None, description="what was done, or what keeps you from it", max_length=10_000
    )


def agent_tools(
    ctx: Coordinator,
    *,
    check_type: Callable[[str], object],
    spawns: Collection[str] = (),
    spawns_max: int = SPAWNS_MAX,
    budget: Budget | None = None,
) -> list[Tool]:
    """The tools, for ``ctx.use_agent(tools=[*ctx.agent_tools(spawns=["worker"]), …])``.

    There are always ``send``, ``schedule`` and ``set_tag``; ``spawn`` if ``spawns`` names types;
    ``get_goal`` and ``mark_goal_complete`` if there is a goal.

    Args:
        ctx: the context of the handler that uses the agent, which gives ``check_type``, too.
        check_type: raises UnknownType if no definition of that type is registered.
        spawns: the types of which the model may spawn children.
        spawns_max: it spawns no more once the entity has so many children, whoever spawned them.
        budget: what each child that it spawns may spend, with all that descend from it; needed
            where this entity's own budget is one of its tree.

    Raises:
        InvalidDefinition: ``spawns_max`` is less than 1.
        UnknownType: ``spawns`` names a type of which no definition is registered.
    """
    if spawns_max < 1:
        raise InvalidDefinition(f"agent_tools(spawns_max={spawns_max!r}): at least 1")
    for name in spawns:
        check_type(name)
    tools = [_send(ctx, check_type), _schedule(ctx, check_type), _set_tag(ctx)]
    if spawns:
        tools.append(_spawn(ctx, spawns, spawns_max, budget))
    if ctx.get_goal() is not None:
        tools += [_get_goal(ctx), _mark_goal_complete(ctx)]
    return tools


def _tool(
    name: str,
    arguments: type[BaseModel],
    description: str,
    call: Callable[[Any], Awaitable[object]],
) -> Tool:
    return Tool.of(arguments, call, name=name, description=description, idempotent=True)


def _spawn(
    ctx: Coordinator, spawns: Collection[str], spawns_max: int, budget: Budget | None
) -> Tool:
    fields: dict[str, Any] = {
        "type": (Literal[tuple(spawns)], Field(description="what kind of agent")),
        "id": (str, Field(description="a new name for it: letters, digits, - and _")),
        "text": (str, Field(description="its first message", max_length=TEXT_CHARS_MAX)),
    }
    arguments = create_model("spawn_arguments", __base__=_Arguments, **fields)

    async def call(args: Any) -> str:
        if len(ctx.children) >= spawns_max:
            message = f"you have {len(ctx.children)} agents of your own, as many as you may"
            raise InvalidPayload(message, field="spawns_max")
        first = {"text": args.text}
        child = await ctx.spawn(args.type, args.id, initial_message=first, budget=budget)
        return f"{child.address} is created and has your message."

    description = (
        "Create another agent, which works on its own and at the same time, and give it its first "
        "message. It sees nothing of this conversation but that message, so say all that it needs, "
        f"and what to send back to you at {ctx.address}. Its answer comes later, as a message of "
        f"its own; do not wait for it. You may have {spawns_max} at most."
    )
    return _tool("spawn", arguments, description, call)


def _send(ctx: Coordinator, check_type: Callable[[str], object]) -> Tool:
    async def call(args: _Send) -> str:
        check_type(Address.parse(args.address).type)
        await ctx.send(args.address, {"text": args.text})
        return f"Sent to {args.address}."

    description = (
        "Send a message to another agent. It is delivered once; an answer, if there is one, comes "
        f"later as a message of its own. You are {ctx.address}."
    )
    return _tool("send", _Send, description, call)


def _schedule(ctx: Coordinator, check_type: Callable[[str], object]) -> Tool:
    async def call(args: _Schedule) -> str:
        target = args.address or ctx.address
        check_type(Address.parse(target).type)
        await ctx.send(target, {"text": args.text}, after=timedelta(seconds=args.after_seconds))
        return f"{target} gets it in {args.after_seconds:g} seconds."

    description = (
        "Have a message delivered later, to yourself as a reminder or to another agent. You may "
        "sleep until then; it cannot be taken back."
    )
    return _tool("schedule", _Schedule, description, call)


def _set_tag(ctx: Coordinator) -> Tool:
    async def call(args: _Tag) -> str:
        ctx.set_tag(args.key, args.value)
        return f"{args.key} is {args.value!r} now."

    description = "Set a tag of yours, by which people find you and see how you are doing."
    return _tool("set_tag", _Tag, description, call)


def _get_goal(ctx: Coordinator) -> Tool:
    async def call(_: _Nothing) -> object:
        goal = ctx.get_goal()
        if goal is None:
            return "There is no goal."
        names = ("objective", "status", "tokens_used", "token_budget", "summary")
        return {name: getattr(goal, name) for name in names}

    description = "Read the goal you work towards, and how many of its tokens are used."
    return _tool("get_goal", _Nothing, description, call)


def _mark_goal_complete(ctx: Coordinator) -> Tool:
    async def call(args: _Reached) -> str:
        goal = ctx.mark_goal_complete(args.summary)
        return "There is no goal." if goal is None else f"Complete: {goal.objective}"

    description = (
        "Say that the goal is reached, or that you cannot go on without a person; tell in the "
        "summary what was done or what is needed."
    )
    return _tool("mark_goal_complete", _Reached, description, call)
