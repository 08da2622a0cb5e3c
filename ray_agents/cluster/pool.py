"""The front's view of the warm pool: idle hosts, hosts lent, and who waits for one.

A dedicated entity that is to wake gets an idle host at once. Without one the front itself accepts
its messages and puts it in line; each host that the keeper offers goes to the longest waiting. A
host lent to a caller that never came comes back after a while.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import timedelta

from ray_agents.address import Address

LEASE_MAX = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A host lent for an entity at ``since`` (monotonic seconds)."""

    host: str
    since: float


@dataclass(slots=True)
class Pool:
    """Pure bookkeeping; the front acts on it."""

    idle: deque[str] = field(default_factory=deque[str])
    leases: dict[Address, Lease] = field(default_factory=dict[Address, Lease])
    waiting: OrderedDict[Address, None] = field(default_factory=OrderedDict[Address, None])

    def lend(self, address: Address, *, now: float) -> str | None:
        """A host for the entity, the same one again while its lease lasts; None if there is none."""
        lease = self.leases.get(address)
        if lease is not None and now - lease.since < LEASE_MAX.total_seconds():
            return lease.host
        self._forget_old(now)
        if self.waiting or not self.idle:
            return None
        host = self.idle.popleft()
        self.leases[address] = Lease(host=host, since=now)
        return host

    def wait(self, address: Address) -> None:
        """Put an entity in line; twice is harmless."""
        self.waiting.setdefault(address)

    def offer(self, host: str, *, now: float) -> Address | None:
        """A new idle host; the entity it goes to at once, if one waits."""
        if self.waiting:
            address, _ = self.waiting.popitem(last=False)
            self.leases[address] = Lease(host=host, since=now)
            return address
        self.idle.append(host)
        return None

    def drop(self, host: str) -> None:
        """A host has died."""
        self.idle = deque(each for each in self.idle if each != host)
        self.leases = {a: lease for a, lease in self.leases.items() if lease.host != host}

    def _forget_old(self, now: float) -> None:
        limit = now - LEASE_MAX.total_seconds()
        self.leases = {a: lease for a, lease in self.leases.items() if lease.since > limit}
