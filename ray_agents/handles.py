"""What a handler holds in its hand: its agent, the entities it spawned, a run, its actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ray_agents.address import Address
from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.errors import InvalidPayload, NoAgentConfigured
from ray_agents.events import JSON, Operation

RunAgent = Callable[[AgentConfig, str | None], Awaitable[AgentRunResult]]


class EntityHandle:
    """A handler's view of another entity."""

    def __init__(self, send: Callable[..., Awaitable[str]], address: Address) -> None:
        self._send = send
        self.address = str(address)

    async def send(self, payload: JSON, **options: Any) -> str:
        """As ``ctx.send``, to this entity."""
        return await self._send(self.address, payload, **options)


class RunHandle:
    """A run that is not a model's: work whose end others may wait for."""

    def __init__(self, record: Callable[..., None], key: str) -> None:
        self._record = record
        self.key = key
        self._text = ""

    def attach_response(self, text: str) -> None:
        """Text that the run answers; calls add up."""
        self._text += text

    def end(self, *, status: str = "completed", finish_reason: str | None = None) -> None:
        """Record the run's end; ``status`` is ``completed`` or ``failed``."""
        if status not in ("completed", "failed"):
            raise InvalidPayload(f"a run ends completed or failed, not {status!r}", field="status")
        value = {"status": status, "finish_reason": finish_reason, "text": self._text}
        self._record(("run", self.key), value=value, operation=Operation.UPDATE)


class AgentHandle:
    """``ctx.agent``: the agent that ``use_agent`` configured."""

    def __init__(self, run: RunAgent, config: AgentConfig | None) -> None:
        self._run = run
        self._config = config

    async def run(self, input: str | None = None) -> AgentRunResult:
        """Run the agent loop until the model has nothing left to do.

        Args:
            input: a user message to append first.

        Raises:
            NoAgentConfigured: ``ctx.use_agent()`` was not called.
            ModelUnavailable: the provider refuses or cannot be reached.
        """
        if self._config is None:
            raise NoAgentConfigured("call ctx.use_agent(...) before ctx.agent.run()")
        return await self._run(self._config, input)


class Actions:
    """``ctx.actions``: what a definition can do to its state, each a function by its name.

    With ``actions={"add": add}`` and ``def add(state, text): ...``, a handler calls
    ``ctx.actions.add(text)``.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], state: object) -> None:
        self._functions = functions
        self._state = state

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return partial(self._functions[name], self._state)
        except KeyError:
            known = ", ".join(sorted(self._functions)) or "none"
            raise AttributeError(f"no action {name!r}; known actions: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)
