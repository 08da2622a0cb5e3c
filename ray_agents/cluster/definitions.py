"""Definitions in the store: versions of each type, shipped by import path or by value.

A version is one file, ``types/<type>/<version>.json``, created if absent and never changed: the
log of a type's definitions, whose offset is the version. (Files rather than a segment, because
many clients may register and none of them should have to own anything.) So the runtime knows its
types after the loss of every process.

A host asks for the newest version at each wake, so a new version applies from the next wake on,
and a running handler finishes on its own; a wake that is run again keeps the version it began
with. How a version's code travels is said in ``shipping``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.budgets import Budget
from ray_agents.cluster.folders import TYPES, type_folder
from ray_agents.cluster.shipping import shipped_by_path, shipped_by_value, unpacked
from ray_agents.definition import (
    Dedicated,
    Definition,
    Packed,
    Placement,
    Resources,
)
from ray_agents.errors import CorruptLog, InvalidDefinition, UnknownType
from ray_agents.log.documents import decode_document, encode_document
from ray_agents.ports import Blobs
from ray_agents.views import Durability, TypeView

VERSION_TRIES_MAX = 20
_HERE: dict[str, Definition] = {}  # by digest: in the process that registered it, it is itself
LOOK_SECONDS = 0.0005  # looks closer together are one: to acknowledge a registration takes longer;
# where a look is a request to a server, those are that lie no further apart than a post may linger


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """A definition as it was registered."""

    version: int
    definition: Definition


class Definitions:
    """The definitions of one store. All calls block."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._look_seconds = max(LOOK_SECONDS, blobs.linger.total_seconds())
        self._loaded: dict[tuple[str, int], Versioned] = {}
        self._placements: dict[tuple[str, int], Placement] = {}
        self._durabilities: dict[tuple[str, int], Durability] = {}
        self._budgets: dict[tuple[str, int], Budget] = {}
        self._seen: dict[str, tuple[int, float]] = {}

    def register(self, definition: Definition, *, source: str | None = None) -> TypeView:
        """Record a definition; the same one again is no new version.

        Raises:
            InvalidDefinition: it cannot be shipped to a host.
        """
        body = shipped_by_path(definition, source) if source else shipped_by_value(definition)
        view = view_of(definition, 0, source or "by value").model_dump(mode="json")
        placement = _placement_record(definition.placement)
        told = [body.pop("identity"), view, placement]
        if definition.budget != Budget():  # so that definitions without one are what they were
            body["budget"] = definition.budget.as_row()
            told.append(body["budget"])
        digest = xxh3_64_hexdigest(to_json(told))
        _HERE[digest] = definition
        for _ in range(VERSION_TRIES_MAX):
            newest = self._newest(definition.type)
            if newest and self._is_recorded(definition.type, newest, digest):
                return self._view(definition.type, newest)
            version = newest + 1
            record = {
                "digest": digest,
                "placement": placement,
                "view": view | {"version": version},
                **body,
            }
            name = self._name(definition.type, version)
            if self._blobs.create(name, encode_document(record)):
                self._blobs.sync_names(name)
                self._seen.pop(definition.type, None)
                return self._view(definition.type, version)
        message = f"{VERSION_TRIES_MAX} other registrations of {definition.type!r} came first"
        raise InvalidDefinition(message, type=definition.type)

    def types(self) -> list[TypeView]:
        """The newest version of every type, by name."""
        return [self._view(name, self._newest(name)) for name in self._blobs.names(TYPES)]

    def newest_version(self, type_name: str) -> int:
        """The newest version of a type.

        Raises:
            UnknownType: none is registered.
        """
        version = self._newest(type_name)
        if not version:
            known = ", ".join(self._blobs.names(TYPES)) or "none"
            message = (
                f"no definition of type {type_name!r} is registered; registered types: {known}. "
                "Register it with client.register(registry) or start with --app module:registry"
            )
            raise UnknownType(message, type=type_name)
        return version

    def load(self, type_name: str, version: int | None = None) -> Versioned:
        """A definition, ready to run; the newest unless a version is named.

        Raises:
            UnknownType: none is registered.
            InvalidDefinition: it cannot be loaded in this process.
        """
        wanted = version or self.newest_version(type_name)
        known = self._loaded.get((type_name, wanted))
        if known is None:
            record = self._record(type_name, wanted)
            definition = _HERE.get(record["digest"]) or unpacked(type_name, record)
            known = Versioned(version=wanted, definition=definition)
            self._loaded[type_name, wanted] = known
        return known

    def load_seen(self, type_name: str) -> Versioned:
        """The newest version this process has met, without a look for a newer one.

        Raises:
            UnknownType, InvalidDefinition: as :meth:`load`.
        """
        version, _ = self._seen.get(type_name, (0, 0.0))
        return self.load(type_name, version or None)

    def placement(self, type_name: str) -> Placement:
        """Where entities of the type's newest version live, without loading its code.

        Raises:
            UnknownType: none is registered.
        """
        version = self.newest_version(type_name)
        placement = self._placements.get((type_name, version))
        if placement is None:
            placement = _placement_read(self._record(type_name, version)["placement"])
            self._placements[type_name, version] = placement
        return placement

    def durability(self, type_name: str) -> Durability:
        """What an acknowledgement of the type's newest version means, without loading its code.

        If there is no such definition, or it is damaged, it is what a definition says that says
        nothing: who lists sleepers need not be told of it, and who wakes one is.
        """
        version = self._newest(type_name)
        durability = self._durabilities.get((type_name, version))
        if durability is None:
            try:
                durability = self._view(type_name, version).durability
            except (UnknownType, CorruptLog):
                return Durability.SYNC
            self._durabilities[type_name, version] = durability
        return durability

    def budget(self, type_name: str) -> Budget:
        """What an entity of the type's newest version may spend, without loading its code.

        If there is no such definition, or it is damaged: as for :meth:`durability`.
        """
        version = self._newest(type_name)
        budget = self._budgets.get((type_name, version))
        if budget is None:
            try:
                budget = Budget.of_row(self._record(type_name, version).get("budget") or {})
            except (UnknownType, CorruptLog):
                return Budget()
            self._budgets[type_name, version] = budget
        return budget

    def view(self, type_name: str) -> TypeView:
        """The newest version of a type as doors show it.

        Raises:
            UnknownType: none is registered.
        """
        return self._view(type_name, self.newest_version(type_name))

    def _newest(self, type_name: str) -> int:
        """The newest version, 0 if there is none; versions have no gaps and are never deleted.

        A host asks several times for each message, and in a burst each look at the store would
        cost its event loop a turn: whoever waits for the interpreter's lock takes it.
        """
        version, looked = self._seen.get(type_name, (0, 0.0))
        now = time.monotonic()
        if version and now - looked < self._look_seconds:
            return version
        if not version:
            names = self._blobs.names(type_folder(type_name))
            version = int(names[-1].removesuffix(".json")) if names else 0
        while version and self._blobs.exists(self._name(type_name, version + 1)):
            version += 1
        self._seen[type_name] = (version, now)
        return version

    def _name(self, type_name: str, version: int) -> str:
        return f"{type_folder(type_name)}/{version:06d}.json"

    def _record(self, type_name: str, version: int) -> dict[str, Any]:
        data = self._blobs.read(self._name(type_name, version))
        if data is None:
            message = f"version {version} of type {type_name!r} is not in the store"
            raise UnknownType(message, type=type_name, version=version)
        return decode_document(self._name(type_name, version), data)

    def _is_recorded(self, type_name: str, version: int, digest: str) -> bool:
        """Whether a version is the definition of that digest; a damaged one is none, and replaced.

        So to register it again is what mends a type.
        """
        try:
            return self._record(type_name, version)["digest"] == digest
        except CorruptLog:
            return False

    def _view(self, type_name: str, version: int) -> TypeView:
        return TypeView.model_validate(self._record(type_name, version)["view"])


def view_of(definition: Definition, version: int, source: str) -> TypeView:
    """A definition as doors show it."""
    creation = definition.creation_schema
    return TypeView(
        type=definition.type,
        version=version,
        description=definition.description,
        placement=_placement_words(definition),
        durability=definition.durability,
        source=source,
        creation_schema=creation.model_json_schema() if creation else None,
        inbox_schemas={k: m.model_json_schema() for k, m in definition.inbox_schemas.items()},
        collections=tuple(definition.state),
    )


def _placement_record(placement: Placement) -> dict[str, Any]:
    match placement:
        case Packed(hosts=hosts):
            return {"packed": hosts}
        case Dedicated(resources=wants):
            custom = dict(wants.custom)
            return {"cpus": wants.num_cpus, "gpus": wants.num_gpus, "custom": custom}


def _placement_read(record: dict[str, Any]) -> Placement:
    if "packed" in record:
        return Packed(hosts=record["packed"])
    resources = Resources(num_cpus=record["cpus"], num_gpus=record["gpus"], custom=record["custom"])
    return Dedicated(resources=resources)


def _placement_words(definition: Definition) -> str:
    match definition.placement:
        case Packed(hosts=hosts):
            return f"packed, hosts={hosts}"
        case Dedicated(resources=resources):
            return f"dedicated, {resources}" if resources else "dedicated"
