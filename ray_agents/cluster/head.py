"""One head node of Ray in a directory of its own: ``ray start`` run, checked, described, ended."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from ray_agents.cluster.processes import ProcessMark, marks_in, terminate, trees_of
from ray_agents.cluster.running import RunningRay
from ray_agents.cluster.sockets import LOOPBACK
from ray_agents.cluster.tokens import PRIVATE_FOLDER
from ray_agents.errors import RuntimeUnavailable
from ray_agents.settings import Settings, to_env

DIRECTORY_LENGTH_MAX = 38  # Linux: a socket path has 107 bytes, and Ray and Serve add up to 68
LAST_WORDS = 2_000
KILL_GRACE = timedelta(seconds=5)
PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What was ended: processes that left when asked, and those that had to be killed."""

    ended: int
    killed: int


def fresh_directory() -> Path:
    """A new private directory for one runtime's sockets and logs.

    It is in /tmp if the temporary directory's own path is too long for sockets, as on macOS.

    Raises:
        RuntimeUnavailable: a directory of our name there belongs to somebody else.
    """
    name, fresh = f"ray-agents-{os.getuid()}", secrets.token_hex(4)
    parent = Path(tempfile.gettempdir()) / name
    if len(str(parent / fresh)) > DIRECTORY_LENGTH_MAX:
        parent = Path("/tmp") / name  # noqa: S108 - made private below
    parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if parent.stat().st_uid != os.getuid() or parent.is_symlink():
        raise RuntimeUnavailable(
            f"{str(parent)!r} belongs to somebody else; set TMPDIR to a directory of yours",
            directory=str(parent),
        )
    parent.chmod(PRIVATE_FOLDER)  # the one that counts: Ray opens its own directory to all
    (parent / fresh).mkdir(mode=PRIVATE_FOLDER)
    return parent / fresh


def run_head(settings: Settings, directory: Path, environment: dict[str, str]) -> RunningRay:
    """Run ``ray start --head`` in ``directory`` with ``environment`` on top of ours.

    Raises:
        RuntimeUnavailable: it failed or took longer than the start deadline; nothing is left.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        _ray_start(settings, directory, inherited | environment)
        return _started(settings, directory, environment["RAY_AUTH_TOKEN_PATH"])
    except BaseException:  # Ctrl-C too: nobody would know of what is left running
        end_directory(directory, within=KILL_GRACE)
        raise


def _ray_start(settings: Settings, directory: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, our own words
            [sys.executable, "-m", "ray.scripts.scripts", *_start_words(settings, directory)],
            env=environment | {"PYTHONPATH": _python_path()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=settings.start_deadline.total_seconds(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailable(
            f"Ray did not start within {settings.start_deadline.total_seconds():g} s; "
            "RAY_AGENTS_START_DEADLINE gives it longer"
        ) from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout)[-LAST_WORDS:].strip()
        raise RuntimeUnavailable(f"Ray did not start; its last words were:\n{words}")


def _start_words(settings: Settings, directory: Path) -> list[str]:
    words = [
        "start",
        "--head",
        f"--node-ip-address={LOOPBACK}",
        "--port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--include-dashboard=false",
        "--include-log-monitor=false",
        "--no-monitor",
        "--disable-usage-stats",
        f"--temp-dir={directory}",
        f"--object-store-memory={settings.object_store_bytes}",
    ]
    return words + ([f"--num-cpus={settings.num_cpus}"] if settings.num_cpus else [])


def _python_path() -> str:
    """Workers import this package, and Serve's ``serve.app`` beside it, as this process does."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, [str(PACKAGE_ROOT), given]))


def _started(settings: Settings, directory: Path, token_file: str) -> RunningRay:
    marks = marks_in(directory)
    try:
        address = (directory / "ray_current_cluster").read_text().strip()
    except OSError as error:
        raise RuntimeUnavailable(f"Ray left no address in {str(directory)!r}") from error
    if not marks:
        raise RuntimeUnavailable("Ray's daemons ended as soon as they had started; try again")
    return describe(settings, directory, address=address, token_file=token_file, marks=marks)


def describe(
    settings: Settings,
    directory: Path,
    *,
    address: str,
    token_file: str,
    marks: Sequence[ProcessMark],
) -> RunningRay:
    """The record of the runtime that works in ``directory``."""
    return RunningRay(
        store=absolute_store(settings),
        namespace=settings.namespace,
        address=address,
        directory=str(directory),
        token_file=token_file,
        processes=tuple(marks),
        machine=socket.gethostname(),
    )


def absolute_store(settings: Settings) -> str:
    """The store as every process names it, whatever its working directory."""
    if "://" in settings.store:
        return settings.store
    return str(Path(settings.store).expanduser().absolute())


def store_below(store: str, name: str) -> str:
    """The store ``name`` inside the folder, or below the prefix, of another."""
    return f"{store.rstrip('/')}/{name}" if "://" in store else str(Path(store) / name)


def settings_environment(settings: Settings, token_file: Path) -> dict[str, str]:
    """The settings for the cluster's processes: the token as a file's name, never itself."""
    given = to_env(settings) | {
        "RAY_AGENTS_STORE": absolute_store(settings),
        "RAY_AGENTS_TOKEN_FILE": str(token_file),
    }
    return {name: value for name, value in given.items() if name != "RAY_AGENTS_TOKEN"}


def end(running: RunningRay, *, within: timedelta) -> Stopped:
    """End the runtime's processes: hosts first, then daemons, then whatever is left by force.

    Hosts get most of the time while Ray still runs, because one that seals its log may need to
    speak to others; a worker whose raylet is gone ends at once, sealed or not.
    """
    trees = trees_of(running.processes)
    terminate([each for each in trees if _is_host(each)], within=within * 0.6)
    # The raylet before the rest: asked together, it waits for a GCS that is no longer there.
    terminate([each for each in trees if _is_raylet(each, running)], within=within * 0.2)
    rest = trees_of(_again(running, trees))
    killed = terminate(rest, within=within * 0.2)
    terminate(killed, within=KILL_GRACE, by=signal.SIGKILL)
    shutil.rmtree(running.directory, ignore_errors=True)
    return Stopped(ended=len(trees) - len(killed), killed=len(killed))


def end_directory(directory: Path, *, within: timedelta) -> None:
    """End whatever works in ``directory`` and remove it."""
    rest = terminate(trees_of(marks_in(directory)), within=within, by=signal.SIGKILL)
    if not rest:
        shutil.rmtree(directory, ignore_errors=True)


def agents_of(running: RunningRay) -> list[ProcessMark]:
    """Ray's agents beside the raylet.

    They rename themselves, so that nothing tells whose they are once a raylet that was killed has
    left them behind (as of Ray 2.60): they have to be recorded.
    """
    return [
        ProcessMark.of(process)
        for process in trees_of(running.processes)
        if _title(process) in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    ]


def _again(running: RunningRay, trees: list[psutil.Process]) -> list[ProcessMark]:
    """The first look's processes, and what has been started in the directory since."""
    marks = marks_in(Path(running.directory))
    return marks + [ProcessMark.of(process) for process in trees if process.is_running()]


def _is_raylet(process: psutil.Process, running: RunningRay) -> bool:
    return any(mark.pid == process.pid and mark.name == "raylet" for mark in running.processes)


def _is_host(process: psutil.Process) -> bool:
    """Whether it runs an actor of ours; Ray names a worker's process ``ray::<class>``.

    The agents and Serve's actors are named so too. They have nothing to save and take many
    seconds to heed a SIGTERM (or are restarted by each other): the raylet takes them along.
    """
    title = _title(process)
    return title.startswith("ray::") and not title.startswith(_NOTHING_TO_SAVE)


def _title(process: psutil.Process) -> str:
    try:
        return next(iter(process.cmdline()), "")
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


_NOTHING_TO_SAVE = (
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::ServeController",
    "ray::ServeReplica",
    "ray::SERVE_REPLICA",
    "ray::ProxyActor",
    "ray::HAProxyManager",
)
