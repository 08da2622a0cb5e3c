"""The client's verbs by which people decide: on tool calls that need approval, on parked wakes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from ray_agents.address import Address
from ray_agents.ports import Runtime
from ray_agents.requests import DecisionRequest, checked
from ray_agents.views import ApprovalView

T = TypeVar("T")


class AsyncDecisions(ABC):
    """The part of :class:`ray_agents.client.AsyncClient` for what is left to people."""

    @property
    @abstractmethod
    def _runtime(self) -> Runtime: ...

    async def approve(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        """Have a tool call run that waits for approval; durable when this returns.

        ``inspect(address).approvals`` has those that wait, each with its ``key`` and ``id``; either
        names it, but an id only if no other call has it, for a model may give its calls the same
        one over and over. The run goes on when every call of its step is decided on. The same
        decision again is harmless.

        Raises:
            UnknownApproval: no such call waits, or ever did.
            AmbiguousApproval: several have that id; it tells their keys.
            ApprovalDecided: it was decided otherwise before.
        """
        return await self._decide(address, call_id, decision="approve", by=by, reason=reason)

    async def deny(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        """Have a tool call that waits for approval not run; the model is told ``reason``.

        Raises as :meth:`approve`.
        """
        return await self._decide(address, call_id, decision="deny", by=by, reason=reason)

    async def _decide(self, address: str, call_id: str, **fields: Any) -> ApprovalView:
        request = checked(DecisionRequest, fields)
        return await self._runtime.decide(Address.parse(address), call_id, request)

    async def retry(self, address: str, *, wake: str | None = None) -> int:
        """Run parked wakes again, one or all; how many."""
        return await self._runtime.retry(Address.parse(address), wake=wake)

    async def skip(self, address: str, *, wake: str | None = None) -> int:
        """Give parked wakes up, one or all; how many. One that waits for approval must be named."""
        return await self._runtime.skip(Address.parse(address), wake=wake)


class Decisions(ABC):
    """The same verbs, blocking."""

    @property
    @abstractmethod
    def _decisions(self) -> AsyncDecisions: ...

    @abstractmethod
    def _do(self, work: Coroutine[Any, Any, T]) -> T: ...

    def approve(self, address: str, call_id: str, **options: Any) -> ApprovalView:
        """See :meth:`AsyncDecisions.approve`."""
        return self._do(self._decisions.approve(address, call_id, **options))

    def deny(self, address: str, call_id: str, **options: Any) -> ApprovalView:
        """See :meth:`AsyncDecisions.deny`."""
        return self._do(self._decisions.deny(address, call_id, **options))

    def retry(self, address: str, *, wake: str | None = None) -> int:
        """See :meth:`AsyncDecisions.retry`."""
        return self._do(self._decisions.retry(address, wake=wake))

    def skip(self, address: str, *, wake: str | None = None) -> int:
        """See :meth:`AsyncDecisions.skip`."""
        return self._do(self._decisions.skip(address, wake=wake))
