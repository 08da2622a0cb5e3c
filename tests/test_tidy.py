"""House style as a test: the rules that can be measured, each shown to fail on a bad sample.

A rule is a function from one source file, or from all of them, to complaints. The layout law is
DESIGN section 6: a file at the top of ``ray_agents/`` is pure, a folder is contact with one thing
we do not own, imports go downwards. Where a rule makes a file worse, change the rule here, in the
open, with the reason.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import cast

import pytest

ROOT = Path(__file__).parents[1]
MODULE_LINES_MAX = 500
MODULE_LINES_MEDIAN = 175  # the aim is 150
FUNCTION_LINES_MAX = 70
PUBLIC_NAMES_MAX = 30
TYPE_IGNORES_PER_THOUSAND_LINES = 2

TOP_LEVEL = set(
    "pyproject.toml README.md ray_agents serve tests notebooks cluster.yaml "
    ".ci .git .gitignore .gitattributes LICENSE CHANGELOG.md uv.lock .python-version".split()
)
FILE_NAMES_FORBIDDEN = set(
    "util utils helper helpers common base core manager managers service services misc".split()
)
# Another word for something that has one (DESIGN section 1), and the word to use.
SYNONYMS = {
    "mailbox": "inbox",
    "hibernat": "sleep",
    "dormant": "sleeping",
    "passivat": "sleep",
    "blueprint": "definition",
    "subscriber": "observer",
    "watcher": "observer",
    "invocation": "wake",
    "grain": "entity",
    "agent_id": "address",
    "entity_url": "address",
}

# What a pure module may not touch: the network, disk, processes, time, chance.
IMPURE_MODULES = set(
    "ray anthropic openai fastapi starlette uvicorn httpx httpx_sse psutil typer rich boto3 "
    "obstore time random secrets uuid os shutil tempfile socket subprocess threading "
    "multiprocessing signal sqlite3 urllib concurrent".split()
)
IMPURE_CALLS = set(
    "open asyncio.sleep datetime.now datetime.utcnow datetime.today date.today "
    "datetime.datetime.now datetime.date.today".split()
)
IMPURE_METHODS = set("read_text write_text read_bytes write_bytes mkdir unlink touch".split())

# The layers, by name inside ray_agents. A pure module is what stands below all of them.
DOORS = {"client", "cli"}
FOLDERS = {
    "log": set[str](),
    "models": set[str](),
    "terminal": set[str](),
    "streams": {"log"},
    "http": set[str](),
    "cluster": {"log", "models", "streams", "testing"},
    "tables": {"log", "cluster"},  # of the cluster only where things lie (cluster/folders.py)
    "testing": {"log", "models", "streams", "cluster", "tables"},
}
# The demonstration is a user of the doors that happens to live where it starts a cluster, and the
# test tools open a door onto a runtime in this process; like the doors they may import everything.
USERS_OF_THE_DOORS = {"ray_agents.cluster.demonstration", "ray_agents.testing.clients"}
# Besides the root's names and the pure modules; tables are what a user calls on a store.
SERVE_MAY_REACH = {"client", "streams", "tables"}


@dataclass(frozen=True)
class Source:
    """One Python file, by its path in the repository."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """The dotted module name; a package's is its own."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def part(self) -> str:
        """The first name below ``ray_agents``: a folder, a module, or '' for the root itself."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "ray_agents" and len(parts) > 1 else ""

    @property
    def is_pure(self) -> bool:
        """Whether the layout law wants it pure: at the top of ``ray_agents/``, and no door."""
        inside = self.path.startswith("ray_agents/")
        return inside and self.path.count("/") == 1 and self.part not in DOORS

    @cached_property
    def imports(self) -> frozenset[str]:
        """Every module or name imported anywhere in it, dotted."""
        return frozenset(_imports(self.nodes))

    @property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree, itself first."""
        return _nodes_in(self.text)

    @property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call, by the text of what is called."""
        return _calls_in(self.text)


@lru_cache(maxsize=1)  # all trees together would burden every collection of garbage after it
def _nodes_in(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


@lru_cache(maxsize=1)
def _calls_in(text: str) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(n.func), n) for n in _nodes_in(text) if isinstance(n, ast.Call)]


def _imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


@cache
def sources() -> list[Source]:
    """Every Python file of ours."""
    return [
        Source(path=str(path.relative_to(ROOT)), text=path.read_text("utf-8"))
        for folder in ("ray_agents", "serve", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


# -- rules on one file -------------------------------------------------------------------------

Complaints = Iterator[str]


def no_long_module(source: Source) -> Complaints:
    lines = len(source.text.splitlines())
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines, at most {MODULE_LINES_MAX}; which idea can leave?"


def no_long_function(source: Source) -> Complaints:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def every_module_says_its_idea(source: Source) -> Complaints:
    docstring = ast.get_docstring(cast("ast.Module", source.nodes[0]))
    if not docstring:
        yield "has no docstring; its first sentence says its idea"
    elif not re.match(r"[^\n]{10,}?([.:?!]|[^.]\n[^\n]*[.:?!])", docstring):
        yield f"the docstring begins with no sentence: {docstring.splitlines()[0]!r}"


def no_name_that_says_nothing(source: Source) -> Complaints:
    for part in source.name.split("."):
        if part in FILE_NAMES_FORBIDDEN:
            yield f"{part!r} names no idea; name it by its noun"


def no_second_word_for_a_thing(source: Source) -> Complaints:
    if source.path.startswith("tests/"):
        return
    for name in sorted(_names_defined(source)):
        for synonym, word in SYNONYMS.items():
            if re.search(rf"(^|_){synonym}", _snake(name)):
                yield f"{name!r}: the word for {synonym!r} is {word!r} (DESIGN section 1)"


def _names_defined(source: Source) -> set[str]:
    names = set(source.name.split("."))
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def the_top_is_pure(source: Source) -> Complaints:
    if not source.is_pure:
        return
    for name in sorted(source.imports):
        if name.split(".")[0] in IMPURE_MODULES:
            yield f"imports {name}; a module at the top is pure: hand it in (ports.py)"
    for called, node in source.calls:
        method = called.rpartition(".")[2] if "." in called else ""
        if called in IMPURE_CALLS or method in IMPURE_METHODS:
            yield f"line {node.lineno} calls {called}; a module at the top is pure: hand it in"


def imports_go_downwards(source: Source) -> Complaints:
    """The layers; a cycle among the modules of one layer is caught by :func:`no_cycle`."""
    if not source.path.startswith("ray_agents/") or source.name == "ray_agents":
        return
    if not source.is_pure and source.part not in DOORS | set(FOLDERS):
        yield f"folder {source.part!r} has no place in the layers; give it one in test_tidy.py"
        return
    for name in sorted(source.imports):
        if name.startswith("."):
            yield f"imports {name}; write the module's whole name"
        elif name.split(".")[0] in ("serve", "tests"):
            yield f"imports {name}; nothing in ray_agents imports serve or tests"
        elif name.startswith("ray_agents.") and not _is_below(name, source):
            yield f"imports {name}, which is not below it"


def _is_below(name: str, source: Source) -> bool:
    parts = name.split(".")
    target = parts[1]
    if target in DOORS:
        is_cli = source.part == "cli" and target == "client"
        return is_cli or source.name in USERS_OF_THE_DOORS or target == source.part
    if target in FOLDERS:
        if source.is_pure:
            return False
        own = source.part in DOORS or target == source.part
        return own or source.name in USERS_OF_THE_DOORS or target in FOLDERS[source.part]
    return not _is_the_root(name)


def _is_the_root(name: str) -> bool:
    """Whether ``from ray_agents import x`` names something else than a module of ours."""
    return (
        len(name.split(".")) == 2
        and not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
    )


def only_the_cluster_joins_logs_and_models(source: Source) -> Complaints:
    joined = {name.split(".")[1] for name in source.imports if name.startswith("ray_agents.")}
    inside = source.path.startswith("ray_agents/") and source.part != "cluster"
    if inside and {"log", "models"} <= joined:
        yield "imports log/ and models/ together; only cluster/, the composition root, may"


def serve_speaks_public_names(source: Source) -> Complaints:
    if not source.path.startswith("serve/"):
        return
    for name in sorted(source.imports):
        parts = name.split(".")
        if parts[0] != "ray_agents" or len(parts) < 2:
            continue
        if any(part.startswith("_") for part in parts):
            yield f"imports {name}; a name with an underscore is private"
        if parts[1] in (set(FOLDERS) | DOORS) - SERVE_MAY_REACH:
            yield f"imports {name}; serve/ uses what a user may use"


def no_sleep_in_a_test(source: Source) -> Complaints:
    if not source.path.startswith("tests/") or source.path.endswith("/conftest.py"):
        return
    if "sleep" not in source.text:  # to look at each call takes longer
        return
    sleeps = {"time.sleep", "asyncio.sleep", "anyio.sleep"}
    if source.imports & sleeps & {n for n in source.imports if n.count(".") == 1}:
        yield "imports sleep; await wait_until(...)"
    for called, node in source.calls:
        if called in sleeps and ast.unparse(node.args[0]) != "0":
            yield f"line {node.lineno} sleeps; await wait_until(...)"


def an_ignored_type_names_its_rule(source: Source) -> Complaints:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if re.search(r"#\s*(type|pyright):\s*ignore(?!\[)", line):
            yield f"line {number} ignores every type error; name the rule: # pyright: ignore[…]"


ON_ONE: Sequence[Callable[[Source], Complaints]] = (
    no_long_module,
    no_long_function,
    every_module_says_its_idea,
    no_name_that_says_nothing,
    no_second_word_for_a_thing,
    the_top_is_pure,
    imports_go_downwards,
    only_the_cluster_joins_logs_and_models,
    serve_speaks_public_names,
    no_sleep_in_a_test,
    an_ignored_type_names_its_rule,
)


# -- rules on all files ------------------------------------------------------------------------


def no_cycle(files: Sequence[Source]) -> Complaints:
    modules = {file.name for file in files} - {"ray_agents"}
    graph = {
        file.name: {target for name in file.imports for target in _modules_of(name, modules)}
        for file in files
        if file.name in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "imports run in a circle: " + " <- ".join(error.args[1])


def _modules_of(imported: str, modules: set[str]) -> set[str]:
    """The module that ``imported`` is or stands in."""
    return {imported} & modules or {imported.rpartition(".")[0]} & modules


def few_types_are_ignored(files: Sequence[Source]) -> Complaints:
    lines = sum(len(file.text.splitlines()) for file in files)
    ignores = sum(len(re.findall(r"#\s*(?:type|pyright):\s*ignore", f.text)) for f in files)
    if ignores > TYPE_IGNORES_PER_THOUSAND_LINES * max(lines, 1000) / 1000:
        yield f"{ignores} ignored types in {lines} lines, at most 2 per thousand"


ON_ALL: Sequence[Callable[[Sequence[Source]], Complaints]] = (no_cycle, few_types_are_ignored)


# -- the rules hold ----------------------------------------------------------------------------


@cache
def complaints() -> dict[str, list[str]]:
    """What each rule on one file finds, by its name; one file after the other, all rules on it."""
    found: dict[str, list[str]] = {rule.__name__: [] for rule in ON_ONE}
    for file in sources():
        for rule in ON_ONE:
            found[rule.__name__] += (f"{file.path}: {complaint}" for complaint in rule(file))
    return found


@pytest.mark.parametrize("rule", ON_ONE, ids=lambda rule: rule.__name__)
def test_every_file_obeys(rule: Callable[[Source], Complaints]) -> None:
    found = complaints()[rule.__name__]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", ON_ALL, ids=lambda rule: rule.__name__)
def test_all_files_together_obey(rule: Callable[[Sequence[Source]], Complaints]) -> None:
    found = list(rule([file for file in sources() if file.path != "tests/test_tidy.py"]))
    assert not found, "\n".join(found)


def test_the_top_of_the_repository_holds_the_agreed_names() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    names = {path.name for path in ROOT.iterdir()} - TOP_LEVEL
    extra = {n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignored)}
    assert not extra


@pytest.mark.filterwarnings("default")
def test_the_median_module_is_short() -> None:
    sizes = [len(file.text.splitlines()) for file in sources() if file.path[0] != "t"]
    if statistics.median(sizes) > MODULE_LINES_MEDIAN:  # a budget: told, not enforced
        warnings.warn(f"the median module has {statistics.median(sizes)} lines", stacklevel=1)


def test_the_root_exports_few_sorted_names_and_loads_neither_ray_nor_anthropic() -> None:
    code = (
        "import json, sys, ray_agents; names = getattr(ray_agents, '__all__', []); "
        "print(json.dumps([list(names), [m for m in ('ray', 'anthropic') if m in sys.modules]]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT
    )
    names, loaded = json.loads(printed.stdout)
    assert names == sorted(names)
    assert len(names) <= PUBLIC_NAMES_MAX
    assert loaded == []


@pytest.mark.slow
def test_every_exported_name_is_there() -> None:
    code = "import ray_agents as r; [getattr(r, n) for n in getattr(r, '__all__', [])]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_readme_says_what_the_checks_run() -> None:
    """The commands of .ci/run's first two steps stand in the README, word for word."""
    script, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    commands = re.findall(r'^(?:SET_UP|TEST)="(.+)"$', script, re.MULTILINE)
    assert len(commands) == 2
    if readme:  # written last
        assert all(command in readme for command in commands)


# -- each rule fails on a bad sample -----------------------------------------------------------

DOC = '"""A sample of a module that breaks one rule."""\n'
LONG_FUNCTION = DOC + "def f() -> None:\n" + "    ...\n" * FUNCTION_LINES_MAX

BAD = [
    (no_long_module, "ray_agents/a.py", DOC + "x = 1\n" * MODULE_LINES_MAX),
    (no_long_function, "ray_agents/a.py", LONG_FUNCTION),
    (every_module_says_its_idea, "ray_agents/a.py", "x = 1\n"),
    (every_module_says_its_idea, "tests/test_a.py", '"""Stuff"""\n'),
    (no_name_that_says_nothing, "ray_agents/log/utils.py", DOC),
    (no_name_that_says_nothing, "serve/common/app.py", DOC),
    (no_second_word_for_a_thing, "ray_agents/a.py", DOC + "class MailboxFull: ..."),
    (no_second_word_for_a_thing, "ray_agents/a.py", DOC + "def hibernate() -> None: ..."),
    (no_second_word_for_a_thing, "ray_agents/a.py", DOC + "def f(agent_id: str) -> None: ..."),
    (the_top_is_pure, "ray_agents/a.py", DOC + "import ray"),
    (the_top_is_pure, "ray_agents/a.py", DOC + "from os import path"),
    (the_top_is_pure, "ray_agents/a.py", DOC + "def f():\n    import anthropic.types"),
    (the_top_is_pure, "ray_agents/a.py", DOC + "async def f():\n    await asyncio.sleep(1)"),
    (the_top_is_pure, "ray_agents/a.py", DOC + "now = datetime.now(UTC)"),
    (the_top_is_pure, "ray_agents/a.py", DOC + "text = path.read_text()"),
    (imports_go_downwards, "ray_agents/a.py", DOC + "from ray_agents.log.owner import Owner"),
    (imports_go_downwards, "ray_agents/a.py", DOC + "from ray_agents.client import connect"),
    (imports_go_downwards, "ray_agents/client.py", DOC + "from ray_agents.cli import main"),
    (imports_go_downwards, "ray_agents/log/a.py", DOC + "from ray_agents.cluster.host import H"),
    (imports_go_downwards, "ray_agents/cluster/a.py", DOC + "import serve.app"),
    (imports_go_downwards, "ray_agents/cluster/a.py", DOC + "from ray_agents import connect"),
    (imports_go_downwards, "ray_agents/log/a.py", DOC + "from . import codec"),
    (imports_go_downwards, "ray_agents/odds/a.py", DOC),
    (
        only_the_cluster_joins_logs_and_models,
        "ray_agents/client.py",
        DOC + "import ray_agents.log.codec\nimport ray_agents.models.scripted",
    ),
    (serve_speaks_public_names, "serve/app.py", DOC + "import ray_agents.cluster.host"),
    (serve_speaks_public_names, "serve/app.py", DOC + "from ray_agents.events import _private"),
    (no_sleep_in_a_test, "tests/test_a.py", DOC + "from time import sleep"),
    (no_sleep_in_a_test, "tests/test_a.py", DOC + "asyncio.sleep(0.1)"),
    (an_ignored_type_names_its_rule, "serve/app.py", DOC + "x = f()  # type: " + "ignore"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "text"), BAD)
def test_a_rule_on_one_file_catches(
    rule: Callable[[Source], Complaints], path: str, text: str
) -> None:
    assert list(rule(Source(path=path, text=text)))


def test_every_rule_on_one_file_has_a_bad_sample() -> None:
    assert {rule for rule, _, _ in BAD} == set(ON_ONE)


def test_a_circle_of_imports_is_caught() -> None:
    a = Source(path="ray_agents/a.py", text="from ray_agents.b import x")
    b = Source(path="ray_agents/b.py", text="def f():\n    from ray_agents import a")
    assert list(no_cycle([a, b]))
    assert not list(no_cycle([a]))


def test_many_ignored_types_are_caught() -> None:
    line = "x = f()  # pyright: " + "ignore[rule]\n"
    assert list(few_types_are_ignored([Source(path="serve/a.py", text=line * 3)]))
