"""A user's folder, with a store and a port of its own, and a shell in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ray_agents.cluster.sockets import free_ports
from ray_agents.settings import Settings

ROOT = Path(__file__).parents[2]
PROGRAM = "from ray_agents.cli import main; raise SystemExit(main())"
WITHIN_SECONDS = 90


@dataclass(frozen=True)
class Folder:
    """Where a user works."""

    path: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def settings(self) -> Settings:
        return Settings(store=str(self.path / "store"), http_port=self.port, num_cpus=2)

    def python(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python here, as a process of its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ANTHROPIC")}
        own = {
            "PYTHONPATH": str(ROOT),
            "RAY_AGENTS_STORE": str(self.path / "store"),
            "RAY_AGENTS_HTTP_PORT": str(self.port),
            "RAY_AGENTS_NUM_CPUS": "2",
        }
        done = subprocess.run(
            [sys.executable, *words],
            env=inherited | own | dict(self.environment),
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=WITHIN_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done

    def shell(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``ray-agents`` here."""
        return self.python("-c", PROGRAM, *words, check=check)


def folder_in(path: Path, environment: Mapping[str, str] | None = None) -> Iterator[Folder]:
    """A folder in which, at the end, nothing runs any more."""
    folder = Folder(path, environment=environment or {})
    yield folder
    folder.shell("stop", check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    yield from folder_in(tmp_path)


BOTS = """
from ray_agents import Packed, Registry
registry = Registry()

@registry.entity("bot", placement=Packed())
async def bot(ctx, wake):
    return {answer}
"""


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A folder with ``bots.py`` in which ``ray-agents start --app bots:registry`` was typed."""
    path = tmp_path_factory.mktemp("shell")
    (path / "bots.py").write_text(BOTS.format(answer="wake.payload"))
    for folder in folder_in(path):
        said = folder.shell("start", "--app", "bots:registry")
        assert f"http://127.0.0.1:{folder.port}" in said.stdout
        assert "bot (version 1)" in said.stdout
        yield folder
