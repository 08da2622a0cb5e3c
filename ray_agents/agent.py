"""What an agent is told before it runs, and what it gives back when it has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from ray_agents.budgets import COST_MAX
from ray_agents.compaction import Compaction
from ray_agents.errors import InvalidDefinition
from ray_agents.events import JSON
from ray_agents.model import (
    DEFAULT_MODEL,
    THINKING_TOKENS_MIN,
    Block,
    ModelRequest,
    Thinking,
    ToolSpec,
    Usage,
)
from ray_agents.prices import PRICES, Prices, check_money
from ray_agents.tools import Tool

TURNS_MAX = 50
TestResponses = Sequence[Any] | Callable[[ModelRequest], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What ``ctx.use_agent`` takes.

    ``thinking`` is a budget in tokens, or a mode's name; None leaves it to the model.
    ``test_responses`` replaces the model: see :mod:`ray_agents.models.scripted`. ``turns_max``
    bounds the model calls of one run, ``tokens_max`` its tokens of all kinds, ``cost_max`` its cost
    in dollars by ``prices``, ``time_max`` its wall time from its first start: interruptions and
    waiting for a turn at the model count, waiting for approvals does not, be they asked for by this
    agent or by one inside of its tools. They are looked at before each model call, so the step that
    goes beyond one is the last; only ``time_max`` cuts a model call off, too. ``compaction`` says
    when and how a long transcript is summed up; None never does.
    """

    system_prompt: str = ""
    model: str = DEFAULT_MODEL
    tools: Sequence[Tool] = ()
    max_tokens: int = 16_000
    thinking: Thinking | None = None
    test_responses: TestResponses | None = None
    turns_max: int = TURNS_MAX
    tokens_max: int | None = None
    cost_max: Decimal | None = None
    time_max: timedelta | None = None
    prices: Prices = PRICES
    compaction: Compaction | None = None
    tools_by_name: dict[str, Tool] = field(
        init=False, repr=False, compare=False, default_factory=dict[str, Tool]
    )

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("turns_max", 1)):
            if getattr(self, name) < least:
                message = f"{name}={getattr(self, name)!r}: it must be at least {least}"
                raise InvalidDefinition(message, field=name)
        if isinstance(self.thinking, int):
            self._check_budget(self.thinking)
        self._check_limits()
        for each in self.tools:
            self._add(each)

    def _check_budget(self, tokens: int) -> None:
        if not THINKING_TOKENS_MIN <= tokens < self.max_tokens:
            message = (
                f"thinking={tokens!r}: a budget must be at least {THINKING_TOKENS_MIN} tokens "
                f"and less than max_tokens={self.max_tokens!r}"
            )
            raise InvalidDefinition(message, field="thinking")

    def _check_limits(self) -> None:
        for name, nothing in (("tokens_max", 0), ("cost_max", 0), ("time_max", timedelta(0))):
            limit = getattr(self, name)
            if limit is None:
                continue
            if name == "cost_max":
                check_money(name, limit)
                if limit > COST_MAX:
                    raise InvalidDefinition(
                        f"{name}={limit!r}: at most {COST_MAX:,} dollars", field=name
                    )
                self.check_priced(f"{name}={limit!r}")
            if limit <= nothing:
                raise InvalidDefinition(f"{name}={limit!r}: more than nothing", field=name)

    def check_priced(self, limit: str) -> None:
        """Pass if the cost of this agent can be known, which a limit of it takes.

        Raises:
            InvalidDefinition: its model, or the one that sums up, has no price.
        """
        summing_up = self.compaction.model if self.compaction else None
        for model in (self.model, summing_up or self.model):
            if self.prices.of(model) is None:
                message = (
                    f"{limit}: there is no price of {model!r}; give one, "
                    f"prices=PRICES.but({{{model!r}: Price(…)}})"
                )
                raise InvalidDefinition(message, field="prices")

    def _add(self, each: Any) -> None:
        if not isinstance(each, Tool):
            message = f"{each!r} is not a tool; decorate the function with @tool"
            raise InvalidDefinition(message, field="tools")
        for kind in each.wants.values():
            message = f"tool {each.name!r} asks for a {kind.__name__}; ctx.use_agent gives it one"
            raise InvalidDefinition(message, field="tools")
        if each.name in self.tools_by_name:
            message = f"two tools are named {each.name!r}; give one of them another name"
            raise InvalidDefinition(message, field="tools")
        self.tools_by_name[each.name] = each

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the model sees them."""
        return tuple(each.spec for each in self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallResult:
    """One tool call of a run: exactly one of ``result`` and ``error`` is not None.

    A result is text, or content blocks if there are images or documents in it.
    """

    tool_name: str
    args: JSON
    result: str | list[Block] | None
    error: str | None
    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRunResult:
    """How a run ended. ``text`` is what the model said in its last step.

    ``stop_reason`` is the provider's, or the limit at which the run was stopped: ``"turns_max"``,
    ``"tokens_max"``, ``"cost_max"``, ``"time_max"``, or the entity's own: ``"budget"``, and
    ``"goal_budget"``, which is its goal's.
    ``duration`` is wall time from the run's first start, interruptions included. ``usage`` and
    ``cost``, in dollars, count broken model calls as far as the provider said; ``uncounted`` is how
    many of them there were. ``cost`` is None if a model has no price.
    """

    text: str
    tool_calls: tuple[ToolCallResult, ...]
    usage: Usage
    duration: timedelta
    steps: int
    stop_reason: str
    cost: Decimal | None = None
    uncounted: int = 0
