"""A runtime over a Ray cluster: the one this process is in, one that runs here, or one of our own.

Which, in this order: the cluster this process has joined already (a Serve replica, a notebook
that called ``ray.init``); the one at ``settings.ray_address``; the one that ``ray-agents start``
left running for this store; else a Ray embedded in this process, which ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.directory import Directory
from ray_agents.cluster.launch import embed_ray, join_ray, leave_ray
from ray_agents.cluster.running import RunningRay, find_running
from ray_agents.cluster.runtime import HostRuntime
from ray_agents.cluster.untyped import import_ray, ray_errors
from ray_agents.errors import RuntimeUnavailable
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How this process came to its cluster; ``running`` is set if it must leave it again."""

    running: RunningRay | None = None

    @property
    def embedded(self) -> bool:
        """Whether the cluster lives in this process."""
        return self.running is not None and self.running.embedded


def attach(settings: Settings) -> Attachment:
    """Join a cluster, or start one here. Blocks for seconds.

    Raises:
        RuntimeUnavailable: Ray does not answer or does not start.
    """
    ray = import_ray()
    if ray.is_initialized():
        return Attachment()
    if settings.ray_address is not None:
        try:
            ray.init(
                address=settings.ray_address,
                namespace=settings.namespace,
                log_to_driver=False,
                logging_level="warning",
            )
        except ray_errors() as error:
            message = f"Ray at {settings.ray_address!r} does not answer: {error}"
            raise RuntimeUnavailable(message, address=settings.ray_address) from error
        return Attachment()
    running = find_running(settings)
    if running is not None and not running.embedded:
        join_ray(running)
        return Attachment(running=running)
    return Attachment(running=embed_ray(settings))


def detach(settings: Settings, attachment: Attachment) -> None:
    """Undo :func:`attach`: disconnect, and end what was embedded."""
    if attachment.running is not None:
        leave_ray(settings, attachment.running)


class ClusterRuntime(HostRuntime):
    """The verbs over the cluster this process is attached to."""

    def __init__(self, settings: Settings, attachment: Attachment | None = None) -> None:
        self._settings = settings
        self._attachment = attachment or Attachment()
        self._own_io = LogIO()
        blobs = open_blobs(settings.store)
        self.directory = Directory(
            settings, blobs=blobs, io=self._own_io, definitions=Definitions(blobs)
        )
        super().__init__(blobs, hosts=self.directory, io=self._own_io, clock=SystemClock())

    async def __aenter__(self) -> Self:
        """Make sure that the keeper runs: it resumes what an earlier life left undone."""
        await self.directory.keeper().start.remote()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._attachment.embedded:
            await self.stop_hosts()
        await super().__aexit__(*exc)
        self._own_io.close()

    async def stop_hosts(self) -> int:
        """Have every host seal what it holds and leave; how many did in time."""
        keeper = self.directory.keeper()
        sealed = await keeper.stop.remote(self._settings.stop_deadline)
        import_ray().kill(keeper)  # it has nothing to save, and does not hear a SIGTERM
        return sealed

    async def keeper_status(self) -> dict[str, object]:
        """What the keeper sees."""
        return await self.directory.keeper().status.remote()
