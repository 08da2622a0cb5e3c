"""The source of a definition's own modules: recorded as text, executed as that version.

A definition shipped by import path stands in modules that change while hosts run and wakes are
unfinished. So a version records the text of every module of the author's own that it reaches, and
a host executes that text, whatever lies on its disk by now and whatever it has loaded before. The
modules of an older version stay as they are for the handlers that still run in them: they leave
``sys.modules`` and are never changed in place.

*Own* is what is not installed: neither the standard library, nor in site-packages, nor ours. What
is installed is the same on every host, and hosts take a new release up when they are restarted.
Reached are modules named by an ``import`` statement anywhere in the text, in functions too. One
that is imported by a computed name, and files that are no Python, come from the recorded folders
as they are there.
"""

from __future__ import annotations

import ast
import functools
import importlib
import linecache
import os
import sys
import sysconfig
import threading
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from xxhash import xxh3_64_hexdigest

OURS = frozenset({"ray_agents", "serve", "__main__", "__mp_main__"})
INSTALLED_PARTS = frozenset({"site-packages", "dist-packages"})
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib")
)
_LOADING = threading.RLock()  # sys.modules and sys.meta_path are everybody's


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One module as text; ``path`` is where it lay, for tracebacks and for its data files."""

    path: str
    text: str
    package: bool


Sources = Mapping[str, Source]


def is_own(name: str, path: str | None) -> bool:
    """Whether the module ``name`` at ``path`` is its author's own, not installed."""
    if path is None or name.partition(".")[0] in OURS:
        return False
    return not _is_installed(path)


@functools.cache
def _is_installed(path: str) -> bool:
    """Whether a file lies among the installed ones; cached, for every loaded module is asked."""
    resolved = Path(path).resolve()
    if INSTALLED_PARTS & set(resolved.parts):
        return True
    return any(resolved.is_relative_to(folder) for folder in _INSTALLED)


def own_modules() -> list[ModuleType]:
    """Every module of an author's own that this process has loaded."""
    loaded = sys.modules.copy().items()  # at once: other threads import meanwhile
    return [module for name, module in loaded if is_own(name, getattr(module, "__file__", None))]


def own_folders() -> list[str]:
    """Where this process finds own modules, in the order of its search."""
    folders = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - '' is the current
    return [each for each in dict.fromkeys(folders) if Path(each).is_dir() and is_own("", each)]


def reach(folders: Iterable[str]) -> None:
    """Let this process import from ``folders`` too."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    importlib.invalidate_caches()


def sources_of(name: str) -> dict[str, Source]:
    """The text of the own module ``name`` and of all own modules it reaches; {} if installed."""
    found: dict[str, Source] = {}
    waiting = [*_with_parents(name)]
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        source = _source(each)
        if source is not None:
            found[each] = source
            waiting.extend(_imports(each, source))
    return found


def digest_of(sources: Sources) -> str:
    """The same for the same texts, wherever they lie."""
    parts = (f"{name}\0{len(each.text)}\0{each.text}" for name, each in sorted(sources.items()))
    return xxh3_64_hexdigest("\0".join(parts).encode())


def load_fresh(name: str) -> ModuleType:
    """Import ``name`` as it lies on disk now, though an older text of it may be loaded.

    Raises:
        Exception: whatever the module raises.
    """
    with _LOADING:
        importlib.invalidate_caches()
        return load(name, sources_of(name))


def load(name: str, sources: Sources) -> ModuleType:
    """Import ``name`` from the recorded texts; as usual if there are none.

    Raises:
        Exception: whatever the module raises.
    """
    with _LOADING:
        if all(_loaded(each) == source for each, source in sources.items()):
            return importlib.import_module(name)
        for each in sources:
            sys.modules.pop(each, None)
        finder = _Recorded(sources)
        sys.meta_path.insert(0, finder)
        try:
            return importlib.import_module(name)
        finally:
            sys.meta_path.remove(finder)


class _Recorded(MetaPathFinder, InspectLoader):
    """Finds and executes recorded modules."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol of finders
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Where a recorded module comes from: here."""
        source = self.sources.get(fullname)
        if source is None:
            return None
        spec = ModuleSpec(fullname, self, origin=source.path, is_package=source.package)
        spec.has_location = True
        if source.package:
            spec.submodule_search_locations = [str(Path(source.path).parent)]
        return spec

    def get_source(self, fullname: str) -> str:
        """The recorded text."""
        return self.sources[fullname].text

    def get_code(self, fullname: str) -> CodeType:
        """The recorded text, compiled; its lines are kept for tracebacks."""
        source = self.sources[fullname]
        lines = source.text.splitlines(keepends=True)
        linecache.cache[source.path] = (len(source.text), None, lines, source.path)
        return compile(source.text, source.path, "exec", dont_inherit=True)


def _loaded(name: str) -> Source | None:
    """The text that the loaded module was made from, if it was recorded."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    loader = getattr(spec, "loader", None)
    return loader.sources.get(name) if isinstance(loader, _Recorded) else None


def _source(name: str) -> Source | None:
    """The own module ``name`` as it lies on disk; an empty text for a folder without a file."""
    spec = _found(name)
    if spec is None:
        return None
    locations = spec.submodule_search_locations
    if spec.origin is None and locations:
        path = str(Path(next(iter(locations))) / "__init__.py")
        return Source(path=path, text="", package=True) if is_own(name, path) else None
    if not is_own(name, spec.origin) or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    with tokenize.open(spec.origin) as file:
        return Source(path=spec.origin, text=file.read(), package=locations is not None)


def _found(name: str) -> ModuleSpec | None:
    """Where an import would find ``name``, without executing anything."""
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        spec = _found(parent)
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    finders = (each for each in sys.meta_path if hasattr(each, "find_spec"))
    specs = (finder.find_spec(name, path, None) for finder in finders)
    return next((spec for spec in specs if spec is not None), None)


def _imports(name: str, source: Source) -> Iterator[str]:
    """The names that its import statements may mean, where their first part is own."""
    package = name if source.package else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source.text, source.path)):
        match node:
            case ast.Import(names=names):
                candidates = [each.name for each in names]
            case ast.ImportFrom(names=names):
                start = _absolute(node, package)
                candidates = [start, *(f"{start}.{each.name}" for each in names)]
            case _:
                continue
        for candidate in candidates:
            if _source(candidate.partition(".")[0]) is not None:
                yield from _with_parents(candidate)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module an import statement names; relative ones are counted from ``package``."""
    parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
    return ".".join(filter(None, [*parts, node.module]))


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
