"""A runtime over a Ray cluster: the one this process is in, one that runs here, or one of our own.

Which, in this order: the cluster this process has joined already (a Serve replica, a notebook
that called ``ray.init``); the one at ``settings.ray_address``; the one that ``ray-agents start``
left running for this store; else a Ray embedded in this process, which ends with it.

A process can be in one cluster only. So its clients share what the first of them joined, and the
last of them leaves it.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace
from typing import Self

from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import Directory
from ray_agents.cluster.gateway import models_now
from ray_agents.cluster.head import absolute_store
from ray_agents.cluster.launch import embed_ray, join_ray, leave_ray
from ray_agents.cluster.running import RunningRay, find_running
from ray_agents.cluster.runtime import HostRuntime
from ray_agents.cluster.untyped import import_ray, ray_errors
from ray_agents.errors import RuntimeUnavailable
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs, store_identity
from ray_agents.settings import Settings


@dataclass(slots=True, kw_only=True)
class Joined:
    """What this process has joined: the runtime of ``store``, for so many clients.

    ``running`` is None on a cluster that somebody else started.
    """

    settings: Settings
    running: RunningRay | None
    clients: int = 0

    @property
    def embedded(self) -> bool:
        """Whether the cluster lives in this very process."""
        running = self.running
        return running is not None and running.embedded and running.processes[0].pid == os.getpid()


_LOCK = threading.RLock()
_joined: list[Joined] = []  # at most one: a process is in one cluster


class Attachment:
    """One client's hold on the cluster of this process; :meth:`detach` twice is harmless."""

    def __init__(self, joined: Joined | None = None) -> None:
        self._joined = joined

    @property
    def ends_with_us(self) -> bool:
        """Whether the cluster lives in this process, and nobody else here uses it."""
        joined = self._joined
        return joined is not None and joined.embedded and joined.clients == 1

    def detach(self) -> None:
        """Let go; the last one leaves the cluster, and ends one that is embedded."""
        with _LOCK:
            joined, self._joined = self._joined, None
            if joined is None:
                return
            joined.clients -= 1
            if joined.clients == 0 and joined in _joined:
                _joined.remove(joined)
                _leave(joined)


def attach(settings: Settings) -> Attachment:
    """Join a cluster, or start one here. Blocks for seconds.

    Raises:
        RuntimeUnavailable: Ray does not answer or does not start, or this process has joined the
            runtime of another store.
    """
    with _LOCK:
        if not import_ray().is_initialized():
            _joined[:] = [_join(settings)]
        elif not _joined:
            return Attachment()
        joined = _joined[0]
        theirs, wanted = absolute_store(joined.settings), absolute_store(settings)
        if theirs != wanted:
            message = (
                f"this process uses the runtime of the store {theirs!r}, and a process can be in "
                f"one only: close that client before you connect to {wanted!r}, or use its "
                "control API, connect('http://…')"
            )
            raise RuntimeUnavailable(message, store=wanted)
        joined.clients += 1
        return Attachment(joined)


def _join(settings: Settings) -> Joined:
    if settings.ray_address is not None:
        _join_elsewhere(settings, settings.ray_address)
        return Joined(settings=settings, running=None)
    running = find_running(settings)
    if running is not None:
        join_ray(running)
        return Joined(settings=settings, running=running)
    return Joined(settings=settings, running=embed_ray(settings))


def _join_elsewhere(settings: Settings, address: str) -> None:
    try:
        import_ray().init(
            address=address,
            namespace=settings.namespace,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except ray_errors() as error:
        message = f"Ray at {address!r} does not answer: {error}"
        raise RuntimeUnavailable(message, address=address) from error


def _leave(joined: Joined) -> None:
    if joined.running is not None:
        leave_ray(joined.settings, joined.running)
    else:
        import_ray().shutdown()


class ClusterRuntime(HostRuntime):
    """The verbs over the cluster this process is attached to.

    The names of its actors, the keeper's and the hosts', are in a namespace of the store's own, so
    that on somebody's cluster any number of stores live side by side.
    """

    def __init__(self, settings: Settings, attachment: Attachment | None = None) -> None:
        store = absolute_store(settings)
        blobs = open_blobs(store)
        namespace = f"{settings.namespace}-{store_identity(blobs)}"
        self._settings = replace(settings, store=store, namespace=namespace)
        self._attachment = attachment or Attachment()
        self._own_io = LogIO()
        self.directory = Directory(
            self._settings, blobs=blobs, io=self._own_io, definitions=Definitions(blobs)
        )
        super().__init__(blobs, hosts=self.directory, io=self._own_io, clock=SystemClock())

    async def __aenter__(self) -> Self:
        """Make sure that the keeper runs: it resumes what an earlier life left undone."""
        await self.directory.ask_keeper("start")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._attachment.ends_with_us:
            await self.stop_hosts()
        await super().__aexit__(*exc)
        self._own_io.close()

    async def stop_hosts(self) -> int:
        """Have every host seal what it holds and leave; how many did in time."""
        sealed = await self.directory.ask_keeper("stop", self._settings.stop_deadline)
        import_ray().kill(
            self.directory.keeper()
        )  # it has nothing to save, and does not hear a SIGTERM
        return sealed

    @property
    def namespace(self) -> str:
        """The namespace of the actors of this store."""
        return self._settings.namespace

    async def keeper_status(self) -> dict[str, object]:
        """What the keeper sees."""
        return await self.directory.ask_keeper("status")

    async def models_status(self) -> dict[str, object]:
        """What goes on at each model; see ``gateway.models_now``."""
        return await models_now(self.namespace)
