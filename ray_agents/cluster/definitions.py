"""Definitions in the store: versions of each type, shipped by import path or by value.

A version is one file, ``types/<type>/<version>.json``, created if absent and never changed: the
log of a type's definitions, whose offset is the version. (Files rather than a segment, because
many clients may register and none of them should have to own anything.) So the runtime knows its
types after the loss of every process.

*By import path* (``module:attribute``) is for code that is installed where hosts run, or lies in
one of the recorded folders. *By value* is cloudpickle, for types of a notebook cell or a script's
``__main__``; it records the Python version and refuses a mismatch by name.

A host asks for the newest version at each wake, so a new version applies from the next wake on
and a running handler finishes on its own.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import linecache
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import from_json, to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.cluster.folders import TYPES, type_folder
from ray_agents.definition import (
    Dedicated,
    Definition,
    Packed,
    Placement,
    Registry,
    Resources,
)
from ray_agents.errors import InvalidDefinition, UnknownType
from ray_agents.ports import Blobs
from ray_agents.views import TypeView

cloudpickle: Any = importlib.import_module("cloudpickle")  # it has no types
VERSION_TRIES_MAX = 20
_SOURCES: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned:
    """A definition as it was registered."""

    version: int
    definition: Definition


class Definitions:
    """The definitions of one store. All calls block."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._loaded: dict[tuple[str, int], Versioned] = {}
        self._placements: dict[tuple[str, int], Placement] = {}

    def register(self, definition: Definition, *, source: str | None = None) -> TypeView:
        """Record a definition; the same one again is no new version.

        Raises:
            InvalidDefinition: it cannot be shipped to a host.
        """
        body = shipped_by_path(source) if source else shipped_by_value(definition)
        digest = xxh3_64_hexdigest(to_json(body))
        for _ in range(VERSION_TRIES_MAX):
            newest = self._newest(definition.type)
            if newest and self._record(definition.type, newest)["digest"] == digest:
                return self._view(definition.type, newest)
            version = newest + 1
            record = {
                "digest": digest,
                "placement": _placement_record(definition.placement),
                "view": view_of(definition, version, source or "by value").model_dump(mode="json"),
                **body,
            }
            name = self._name(definition.type, version)
            if self._blobs.create(name, to_json(record)):
                self._blobs.sync_names(name)
                self._loaded[definition.type, version] = Versioned(
                    version=version, definition=definition
                )
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
            known = Versioned(version=wanted, definition=_materialise(type_name, record))
            self._loaded[type_name, wanted] = known
        return known

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

    def view(self, type_name: str) -> TypeView:
        """The newest version of a type as doors show it.

        Raises:
            UnknownType: none is registered.
        """
        return self._view(type_name, self.newest_version(type_name))

    def _newest(self, type_name: str) -> int:
        names = self._blobs.names(type_folder(type_name))
        return int(names[-1].removesuffix(".json")) if names else 0

    def _name(self, type_name: str, version: int) -> str:
        return f"{type_folder(type_name)}/{version:06d}.json"

    def _record(self, type_name: str, version: int) -> dict[str, Any]:
        data = self._blobs.read(self._name(type_name, version))
        if data is None:
            message = f"version {version} of type {type_name!r} is not in the store"
            raise UnknownType(message, type=type_name, version=version)
        return from_json(data)

    def _view(self, type_name: str, version: int) -> TypeView:
        return TypeView.model_validate(self._record(type_name, version)["view"])


def shipped_by_path(source: str) -> dict[str, Any]:
    """The record of a definition that hosts import; the source's digest makes its version."""
    module_name, _, attribute = source.partition(":")
    module = sys.modules.get(module_name)
    folders = [folder for folder in sys.path if folder]
    return {
        "by": "path",
        "module": module_name,
        "attribute": attribute or "registry",
        "folders": folders,
        "source_digest": _source_digest(module),
    }


def _source_digest(module: ModuleType | None) -> str:
    """The digest of a module's source as it was when this process first asked."""
    if module is None:
        return ""
    known = _SOURCES.get(module)
    if known is None:
        try:
            linecache.checkcache(getattr(module, "__file__", None))
            text = inspect.getsource(module)
        except (OSError, TypeError):
            text = ""
        known = _SOURCES[module] = xxh3_64_hexdigest(text.encode())
    return known


def shipped_by_value(definition: Definition) -> dict[str, Any]:
    """The record of a definition that travels as cloudpickle.

    Raises:
        InvalidDefinition: something in it cannot be pickled; the message names it.
    """
    module = sys.modules.get(definition.handler.__module__)
    by_value = module is not None and module.__name__ != "__main__" and not _installed(module)
    try:
        if by_value and module is not None:
            cloudpickle.register_pickle_by_value(module)
        data = cloudpickle.dumps(definition)
    except Exception as error:  # anything a user's object may raise while being pickled
        message = (
            f"the handler of {definition.type!r} cannot be shipped to a host: {error}. It refers "
            "to something that lives in this process only (a lock, a connection, an open file): "
            "make that inside the handler"
        )
        raise InvalidDefinition(message, type=definition.type) from error
    finally:
        if by_value and module is not None:
            cloudpickle.unregister_pickle_by_value(module)
    return {"by": "value", "python": PYTHON, "pickle": base64.b64encode(data).decode()}


def _installed(module: Any) -> bool:
    """Whether hosts can import the module: it lies among the installed packages."""
    path = getattr(module, "__file__", None) or ""
    return (
        "site-packages" in path
        or path.startswith((sys.base_prefix, sys.prefix))
        or (module.__name__.split(".")[0] == __name__.split(".")[0])
    )


def view_of(definition: Definition, version: int, source: str) -> TypeView:
    """A definition as doors show it."""
    creation = definition.creation_schema
    return TypeView(
        type=definition.type,
        version=version,
        description=definition.description,
        placement=_placement_words(definition),
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


def _materialise(type_name: str, record: dict[str, Any]) -> Definition:
    if record["by"] == "value":
        return _unpickled(type_name, record)
    module = _imported(type_name, record["module"], record["folders"])
    if _source_digest(module) != record["source_digest"]:
        module = _reloaded(type_name, module)  # this process knows the code of another version
    registry = getattr(module, record["attribute"], None)
    if not isinstance(registry, Registry):
        message = (
            f"{record['module']}:{record['attribute']}, which defines {type_name!r}, is not a "
            f"Registry but {registry!r}"
        )
        raise InvalidDefinition(message, type=type_name)
    return registry.get(type_name)


def _imported(type_name: str, module_name: str, folders: Iterable[str]) -> ModuleType:
    missing = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(missing)
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a missing module, or whatever the user's module raises
        message = f"{module_name!r}, which defines {type_name!r}, cannot be imported: {error}"
        raise InvalidDefinition(message, type=type_name) from error


def _reloaded(type_name: str, module: ModuleType) -> ModuleType:
    _SOURCES.pop(module, None)
    try:
        return importlib.reload(module)
    except Exception as error:  # whatever the user's module raises while it is read
        message = f"{module.__name__!r}, which defines {type_name!r}, cannot be read: {error}"
        raise InvalidDefinition(message, type=type_name) from error


def _unpickled(type_name: str, record: dict[str, Any]) -> Definition:
    if record["python"] != PYTHON:
        message = (
            f"{type_name!r} was registered by value from Python {record['python']}, and this host "
            f"runs Python {PYTHON}; register it again from {PYTHON} or by import path"
        )
        raise InvalidDefinition(message, type=type_name, python=record["python"])
    try:
        return cloudpickle.loads(base64.b64decode(record["pickle"]))
    except (ImportError, AttributeError) as error:
        message = f"{type_name!r} cannot be loaded on this host: {error}"
        raise InvalidDefinition(message, type=type_name) from error


def import_registry(source: str, folders: Iterable[str] = ()) -> Registry:
    """The registry at ``module:attribute``, for ``--app``.

    Raises:
        InvalidDefinition: it cannot be imported or is no Registry.
    """
    module_name, _, attribute = source.partition(":")
    module = _imported(source, module_name, folders)
    registry = getattr(module, attribute or "registry", None)
    if not isinstance(registry, Registry):
        message = f"{source!r} is not a Registry; write it as module:attribute"
        raise InvalidDefinition(message, source=source)
    return registry
