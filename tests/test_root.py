"""The package's root: few names, all there, loaded late, and known to type checkers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ray_agents

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "anthropic", "pyarrow", "fastapi", "pydantic")


def loaded_by(code: str) -> list[str]:
    code += f"; import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    return json.loads(done.stdout)


def seen_by_type_checkers() -> dict[str, str]:
    """Each name that the root imports for type checkers, and the module it is from."""
    tree = ast.parse((ROOT / "ray_agents" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {each.name: node.module or "" for node in imports for each in node.names}


def test_importing_the_root_loads_nothing_heavy() -> None:
    assert loaded_by("import ray_agents") == []


def test_naming_the_client_loads_neither_ray_nor_anthropic_nor_pyarrow() -> None:
    assert set(loaded_by("from ray_agents import connect, Registry, Context, tool")) == {"pydantic"}


def test_naming_the_tables_loads_neither_ray_nor_anthropic() -> None:
    assert set(loaded_by("from ray_agents import query, scan")) == {"pyarrow", "pydantic"}


@pytest.mark.parametrize("name", ray_agents.__all__)
def test_every_public_name_is_there_and_in_dir(name: str) -> None:
    assert getattr(ray_agents, name)
    assert name in dir(ray_agents)


def test_type_checkers_see_what_python_loads() -> None:
    homes = seen_by_type_checkers()
    assert {*homes, "__version__"} == set(ray_agents.__all__)
    for name, home in homes.items():
        loaded: Any = getattr(import_module(home), name)
        assert getattr(ray_agents, name) is loaded


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = ray_agents.conect  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
