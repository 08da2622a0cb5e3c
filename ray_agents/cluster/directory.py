"""Finds the host in which an entity lives, and brings calls to it, over Ray.

A call that wakes goes to the entity's entry host, which serves it or says where the entity is. A
call that only reads goes to the owner that the log names, if it lives. Hosts are remembered by
entity and forgotten when they are dead or say they are not the owner; no caller sees either.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
    RayError,
    RayTaskError,
)

from ray_agents.address import Address
from ray_agents.cluster.calls import (
    WAKING,
    Activate,
    Answer,
    Asleep,
    Call,
    Challenge,
    Due,
    Moved,
    Release,
)
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.equipment import Verdict
from ray_agents.cluster.exchange import Line
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.placement import FRONT, KEEPER, PACKED, actor_name, entry_name, kind_of
from ray_agents.cluster.untyped import import_ray
from ray_agents.definition import Packed, Resources
from ray_agents.errors import Fenced, RayAgentsError, RuntimeUnavailable
from ray_agents.log.owner import LogIO, read_head
from ray_agents.ports import Blobs
from ray_agents.settings import Settings

KEEPER_TRIES_MAX = 20
CALL_BOUND = timedelta(seconds=60)
REGISTER_BOUND = timedelta(seconds=10)
NOBODY = Address("none", "none")
RETRY_DELAY = 0.05
SILENT_SECONDS = 30.0  # how long a silent host is passed over before it is asked again
REMEMBERED_MAX = 100_000
DEAD_REMEMBERED_MAX = 1_000
ACTORS_REMEMBERED_MAX = 10_000
HOST_CONCURRENCY_MAX = 10_000
RAY = import_ray()
PICKLE: Any = import_module("ray.cloudpickle")  # payloads may be of classes of a notebook
LOGGER = logging.getLogger("ray_agents.directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An error of ours as an answer, so that it crosses processes as itself."""

    error: RayAgentsError


def host_actor(name: str, settings: Settings, resources: Resources | None = None) -> Any:
    """The detached actor of that name, made if there is none."""
    wanted = resources or Resources()
    # By name: hosts make hosts, so an import would run in a circle.
    actor_class: Any = import_module("ray_agents.cluster.actor").EntityHost
    return actor_class.options(
        name=name,
        namespace=settings.namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=wanted.num_cpus,
        num_gpus=wanted.num_gpus,
        resources=dict(wanted.custom),
        max_concurrency=HOST_CONCURRENCY_MAX,
    ).remote(name, settings)


class Directory:
    """The way to every entity of one store; see ``runtime.Hosts`` and ``host.Peers``."""

    def __init__(
        self, settings: Settings, *, blobs: Blobs, io: LogIO, definitions: Definitions
    ) -> None:
        self._settings = settings
        self._blobs = blobs
        self._io = io
        self._definitions = definitions
        self._known: OrderedDict[Address, str] = OrderedDict()
        self._actors: dict[str, Any] = {}
        self._lines: dict[str, tuple[Any, Line]] = {}
        self._dead: OrderedDict[str, None] = OrderedDict()
        self._silent: dict[str, float] = {}
        self._silence = settings.host_silence_max.total_seconds()

    # -- calls --------------------------------------------------------------------------------

    async def call(self, address: Address, call: Call) -> Answer:
        """The owner's answer; ``Asleep`` if the call does not wake and nobody owns it.

        Raises:
            RayAgentsError: what the entity answers.
            RuntimeUnavailable: no host answered within a minute.
        """
        last: Exception | None = None
        end = time.monotonic() + CALL_BOUND.total_seconds()
        for tries in itertools.count():
            name = self._known.get(address) or await self._entry(address, call)
            if name is None:
                return Asleep()
            try:
                answer = await self._ask(name, address, call)
            except (RayActorError, RuntimeUnavailable, Fenced) as error:
                last = error
                self._forget(address, name)
            else:
                if isinstance(answer, Moved):
                    self._remember(address, actor_name(answer.host))
                    last = None
                elif isinstance(answer, Asleep):
                    self._forget(address, None)
                    return answer
                else:
                    self._remember(address, name)
                    return answer
            if time.monotonic() > end:
                break
            if tries:
                await asyncio.sleep(min(RETRY_DELAY * tries, 1))
        message = f"no host answers for {str(address)!r} within {CALL_BOUND}: {last}"
        raise RuntimeUnavailable(message, address=str(address)) from last

    async def _ask(self, name: str, address: Address, call: Call) -> Answer:
        if isinstance(call, WAKING):
            packed = self._line(name).ask(PICKLE.dumps((address, call)))
            answer = pickle.loads(await self._answered(name, packed))  # noqa: S301 - a host of ours
        else:
            answer = await self._answered(name, _future(self._actor(name).call, address, call))
        if isinstance(answer, Refused):
            raise answer.error
        return answer

    def _line(self, name: str) -> Line:
        """The line to the actor of that name: a new one for a new actor."""
        actor = self._actor(name)
        known = self._lines.get(name)
        if known is None or known[0] is not actor:
            known = (actor, Line(secrets.token_hex(8), partial(_future, actor.exchange)))
            self._lines[name] = known
        return known[1]

    async def _answered(self, name: str, future: asyncio.Future[Any]) -> Any:
        """What a host answers, as long as it answers its control calls meanwhile.

        Raises:
            RuntimeUnavailable: it is silent: stopped, or cut off.
        """
        while not (await asyncio.wait({future}, timeout=self._silence / 2))[0]:
            if not await self.responds(name):
                future.add_done_callback(_take_note)
                self._silent[name] = time.monotonic() + SILENT_SECONDS
                raise RuntimeUnavailable(f"host {name!r} is silent", host=name)
        return future.result()

    async def responds(self, name: str) -> bool:
        """Whether the actor answers a control call within the bound of silence; a dead one does."""
        actor = self._actors.get(name) or self._existing(name)
        if actor is None:
            return True
        try:
            async with asyncio.timeout(self._silence):
                await actor.check.remote(NOBODY)
        except TimeoutError:
            return False
        except RayError:
            return True
        return True

    def _silent_now(self) -> set[str]:
        now = time.monotonic()
        self._silent = {name: until for name, until in self._silent.items() if until > now}
        return set(self._silent)

    async def _entry(self, address: Address, call: Call) -> str | None:
        if isinstance(call, WAKING):
            placement = self._definitions.placement(address.type)  # a look costs less than a thread
            if isinstance(placement, Packed):
                hosts = min(placement.hosts, self._settings.packed_hosts)
                placement = Packed(hosts=hosts)
            return entry_name(address, placement, silent=self._silent_now())
        head = await read_head(self._blobs, entity_folder(address), io=self._io)
        if head is None or head.sealed:
            return None
        if await self.check(head.host, address) is not Verdict.OWNS:
            return None
        return actor_name(head.host)

    def _remember(self, address: Address, name: str) -> None:
        self._known[address] = name
        self._known.move_to_end(address)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    def _forget(self, address: Address, name: str | None) -> None:
        self._known.pop(address, None)
        if name is not None:
            self.forget_host(name)

    # -- hosts --------------------------------------------------------------------------------

    def _actor(self, name: str) -> Any:
        actor = self._actors.get(name)
        if actor is None:
            actor = self._existing(name) or self._make(name)
            self._actors[name] = actor
            if len(self._actors) > ACTORS_REMEMBERED_MAX:
                self.forget_host(next(iter(self._actors)))
        return actor

    def _make(self, name: str) -> Any:
        if kind_of(name) not in (FRONT, PACKED):  # others are not made by whoever calls them
            message = f"host {name!r} has gone"
            raise RuntimeUnavailable(message, host=name)
        try:
            return host_actor(name, self._settings)
        except (RayError, ValueError) as error:
            raise RuntimeUnavailable(f"host {name!r} cannot be made now: {error}") from error

    def _existing(self, name: str) -> Any:
        try:
            return RAY.get_actor(name, namespace=self._settings.namespace)
        except ValueError:
            return None

    async def check(self, host: str, address: Address) -> Verdict:
        """Whether ``host`` lives and owns ``address``; silence counts as death after its bound."""
        if host in self._dead:
            return Verdict.DEAD
        name = actor_name(host)
        actor = self._actors.get(name) or self._existing(name)
        if actor is None:
            return self._died(host)
        try:
            async with asyncio.timeout(self._silence):
                host_there, owns = await actor.check.remote(address)
        except ActorDiedError:
            self._actors.pop(name, None)
            return self._died(host)
        except TimeoutError:
            LOGGER.warning("host %s is silent for %s s; it counts as dead", host, self._silence)
            self._silent[name] = time.monotonic() + SILENT_SECONDS
            return Verdict.DEAD
        except ActorUnavailableError as error:
            raise RuntimeUnavailable(f"host {host!r} does not answer now: {error}") from error
        if host_there != host:
            return self._died(host)
        return Verdict.OWNS if owns else Verdict.NOT_MINE

    def _died(self, host: str) -> Verdict:
        """Remember it: the id of a host is never used again, and recovery asks for each entity."""
        self._dead[host] = None
        if len(self._dead) > DEAD_REMEMBERED_MAX:
            self._dead.popitem(last=False)
        return Verdict.DEAD

    async def release(self, host: str, address: Address) -> None:
        """Ask ``host`` to seal ``address`` and let go; a dead host has let go already."""
        actor = self._existing(actor_name(host))
        if actor is not None:
            try:
                await self._answered(actor_name(host), _future(actor.call, address, Release()))
            except (RayActorError, RuntimeUnavailable):
                return  # dead or silent: whether it may be taken over, the claim decides

    def challenge(self, host: str, address: Address) -> None:
        """Leave word for a silent host that an entity has another owner; it may read it or not."""
        actor = self._existing(actor_name(host)) if actor_name(host) in self._silent else None
        if actor is not None:
            _future(actor.call, address, Challenge()).add_done_callback(_take_note)

    async def used(self, name: str) -> bool:
        """Whether a solo host has been used, or has gone."""
        actor = self._existing(name)
        if actor is None:
            return True
        try:
            return (await actor.status.remote())["used"]
        except RayActorError:
            return True

    def forget_host(self, name: str) -> None:
        """Look the actor of that name up again, next time."""
        self._actors.pop(name, None)
        self._lines.pop(name, None)

    async def activate(self, name: str, address: Address, *, release_from: str) -> Answer:
        """Have the host ``name`` take ``address`` over from the host that accepted for it."""
        return await self._ask(name, address, Activate(release_from=release_from))

    async def register(self, due: Due) -> None:
        """Tell the keeper's index when a sleeper is next due; durable when it returns.

        Raises:
            RuntimeUnavailable: the keeper cannot take note of it now.
        """
        try:
            async with asyncio.timeout(REGISTER_BOUND.total_seconds()):
                await self.ask_keeper("register", due)
        except (RayError, TimeoutError) as error:
            self.forget_host(KEEPER)
            message = f"the keeper does not take note of due times now: {error}"
            raise RuntimeUnavailable(message, address=str(due.address)) from error

    def keeper(self) -> Any:
        """The keeper, made if there is none."""
        if KEEPER not in self._actors:
            making = import_module("ray_agents.cluster.keeper").keeper_actor
            self._actors[KEEPER] = making(self._settings)
        return self._actors[KEEPER]

    async def ask_keeper(self, verb: str, *args: Any) -> Any:
        """What the keeper answers; one that has died for good is made anew.

        Raises:
            RuntimeUnavailable: none lives long enough to answer.
        """
        last: Exception | None = None
        for tries in range(KEEPER_TRIES_MAX):
            await asyncio.sleep(RETRY_DELAY * tries)
            try:
                return await getattr(self.keeper(), verb).remote(*args)
            except (ActorDiedError, ValueError) as error:  # ValueError: a dead one's name lingers
                if isinstance(error, RayTaskError):
                    raise
                last = error
                self.forget_host(KEEPER)
        message = f"the keeper does not answer {verb!r}: {last}"
        raise RuntimeUnavailable(message) from last

    def front(self) -> Any:
        """The front, made if there is none."""
        return self._actor(FRONT)

    async def close(self) -> None:
        """Forget every host; they go on."""
        self._known.clear()
        self._actors.clear()
        self._lines.clear()


def _future(method: Any, *args: Any) -> asyncio.Future[Any]:
    """What a method of an actor is going to return."""
    return asyncio.wrap_future(method.remote(*args).future())


def _take_note(future: asyncio.Future[Any]) -> None:
    """Nobody waits for this answer any more; its error is not news."""
    if not future.cancelled():
        future.exception()
