"""How a definition travels to hosts: as an import path with its source, or by value.

*By import path* (``module:attribute``) hosts execute the recorded text of the author's own
modules (``sources``), or import what is installed. *By value* is cloudpickle, for types of a
notebook cell or a script's ``__main__``, together with whatever they use of modules that lie
beside them; it records the Python version and refuses a mismatch by name. Classes of a cell or a
``__main__`` get a new identity in each process, so that such a script makes a new version each
time it is run.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pydantic_core import to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.cluster import sources
from ray_agents.definition import Definition, Registry
from ray_agents.errors import InvalidDefinition

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SHIPPED_BYTES_MAX = 16_000_000
CULPRIT_DEPTH_MAX = 6
Shipped = dict[str, Any]
cloudpickle: Any = importlib.import_module("cloudpickle")  # it ships no types
T = TypeVar("T")


def shipped_by_path(definition: Definition, source: str) -> Shipped:
    """The record of a definition that hosts import; its own modules' text makes its version.

    Raises:
        InvalidDefinition: the path names no registry that has the definition.
    """
    module_name, attribute = _parts(source)
    _definition_at(source, _imported(source, module_name), definition.type)
    own = _guarded(source, lambda: sources.sources_of(module_name))
    return _bounded(
        definition.type,
        {
            "by": "path",
            "module": module_name,
            "attribute": attribute,
            "folders": sources.own_folders(),
            "sources": {
                name: {"path": each.path, "text": each.text, "package": each.package}
                for name, each in own.items()
            },
            "identity": [source, sources.digest_of(own) if own else _release(module_name)],
        },
    )


def shipped_by_value(definition: Definition) -> Shipped:
    """The record of a definition that travels as cloudpickle.

    Raises:
        InvalidDefinition: something in it cannot be pickled; the message names it.
    """
    try:
        with _own_modules_by_value():
            data = cloudpickle.dumps(definition)
    except Exception as error:  # anything a user's object may raise while being pickled
        culprit = _culprit(definition) or "something in it"
        message = (
            f"the handler of {definition.type!r} cannot be shipped to a host: {culprit} cannot be "
            f"pickled ({error}). What lives in one process only (a lock, a connection, an open "
            "file) has to be made inside the handler"
        )
        raise InvalidDefinition(message, type=definition.type) from error
    return _bounded(
        definition.type,
        {
            "by": "value",
            "python": PYTHON,
            "folders": sources.own_folders(),
            "pickle": base64.b64encode(data).decode(),
            "identity": [PYTHON, xxh3_64_hexdigest(data)],
        },
    )


def unpacked(type_name: str, record: Mapping[str, Any]) -> Definition:
    """The definition of a record, ready to run in this process.

    Raises:
        InvalidDefinition: it cannot be loaded here; the message says why.
    """
    sources.reach(record["folders"])
    if record["by"] == "value":
        return _unpickled(type_name, record)
    name, source = record["module"], f"{record['module']}:{record['attribute']}"
    own = {each: sources.Source(**fields) for each, fields in record["sources"].items()}
    module = _guarded(source, lambda: sources.load(name, own))
    return _definition_at(source, module, type_name)


def import_registry(source: str) -> Registry:
    """The registry at ``module:attribute`` as it lies on disk now, for ``--app``.

    Raises:
        InvalidDefinition: it cannot be imported or is no Registry.
    """
    module_name, _ = _parts(source)
    module = _guarded(source, lambda: sources.load_fresh(module_name))
    return _registry_at(source, module)


# -- by path -----------------------------------------------------------------------------------


def _parts(source: str) -> tuple[str, str]:
    module_name, _, attribute = source.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidDefinition(
            f"{source!r} is no import path; write module:attribute, e.g. my_agents:registry",
            source=source,
        )
    if module_name == "__main__":
        raise InvalidDefinition(
            f"{source!r} means another module in every process; leave `source` out, and the "
            "definitions travel by value",
            source=source,
        )
    return module_name, attribute or "registry"


def _imported(source: str, module_name: str) -> Any:
    loaded = sys.modules.get(module_name)
    return loaded or _guarded(source, lambda: importlib.import_module(module_name))


def _guarded(source: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except ModuleNotFoundError as error:
        where = ", ".join(map(repr, sources.own_folders())) or "nothing but installed packages"
        message = (
            f"{source!r} cannot be imported: there is no module {error.name!r}; searched: {where}"
        )
        raise InvalidDefinition(message, source=source) from error
    except Exception as error:  # whatever a user's module raises while it is executed
        message = f"{source!r} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidDefinition(message, source=source) from error


def _registry_at(source: str, module: Any) -> Registry:
    module_name, attribute = _parts(source)
    registry = getattr(module, attribute, None)
    if isinstance(registry, Registry):
        return registry
    values = cast("Mapping[str, Any]", vars(module))
    there = sorted(name for name, value in values.items() if isinstance(value, Registry))
    near = ", ".join(map(repr, there)) or "none"
    what = f"is a {type(registry).__name__}, not a Registry" if registry else "is not there"
    message = f"{source!r}: {attribute!r} {what}; registries in {module_name!r}: {near}"
    raise InvalidDefinition(message, source=source)


def _definition_at(source: str, module: Any, type_name: str) -> Definition:
    defined = {each.type: each for each in _registry_at(source, module)}
    if type_name not in defined:
        known = ", ".join(map(repr, defined)) or "no type"
        message = f"the registry at {source!r} does not define {type_name!r}; it defines {known}"
        raise InvalidDefinition(message, type=type_name, source=source)
    return defined[type_name]


def _release(module_name: str) -> str:
    """What tells one release of an installed module from another: its text."""
    try:
        return xxh3_64_hexdigest(inspect.getsource(sys.modules[module_name]).encode())
    except OSError:  # compiled: its version is its name
        return module_name


# -- by value ----------------------------------------------------------------------------------


@contextmanager
def _own_modules_by_value() -> Generator[None]:
    """Inside, cloudpickle takes own modules along instead of naming them."""
    taken = [each for each in sources.own_modules() if each.__name__ in sys.modules]
    before = cloudpickle.list_registry_pickle_by_value()
    taken = [each for each in taken if each.__name__ not in before]
    for module in taken:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in taken:
            cloudpickle.unregister_pickle_by_value(module)


def _culprit(value: Any, name: str = "", depth: int = 0) -> str | None:
    """The innermost named thing that cannot be pickled, as a path of names from the handler."""
    for part, inner in _parts_of(value):
        try:
            with _own_modules_by_value():
                cloudpickle.dumps(inner)
        except Exception:  # noqa: BLE001 - it is the one we look for
            path = f"{name}.{part}" if name else part
            deeper = _culprit(inner, path, depth + 1) if depth < CULPRIT_DEPTH_MAX else None
            return deeper or f"{path!r}, a {type(inner).__name__},"
    return None


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling ``value`` takes along, by name."""
    if isinstance(value, Definition):
        yield "handler", value.handler
        yield from value.actions.items()
        yield from value.state.items()
        yield from value.inbox_schemas.items()
    elif inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        yield from used.nonlocals.items()
        yield from used.globals.items()
    elif isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in cast("Mapping[Any, Any]", value).items())
    elif hasattr(value, "__dict__") and not inspect.ismodule(value):
        yield from cast("Mapping[str, Any]", vars(value)).items()


def _unpickled(type_name: str, record: Mapping[str, Any]) -> Definition:
    if record["python"] != PYTHON:
        message = (
            f"{type_name!r} was registered by value from Python {record['python']}, and this host "
            f"runs Python {PYTHON}; register it again from {PYTHON} or by import path"
        )
        raise InvalidDefinition(message, type=type_name, python=record["python"])
    try:
        return cloudpickle.loads(base64.b64decode(record["pickle"]))
    except (ImportError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        message = f"{type_name!r} cannot be loaded on this host: {type(error).__name__}: {error}"
        raise InvalidDefinition(message, type=type_name) from error


def _bounded(type_name: str, record: Shipped) -> Shipped:
    size = len(to_json(record))
    if size > SHIPPED_BYTES_MAX:
        message = (
            f"the definition of {type_name!r} takes {size} bytes along, at most "
            f"{SHIPPED_BYTES_MAX}: read large data inside the handler, or install the modules"
        )
        raise InvalidDefinition(message, type=type_name, bytes=size)
    return record
