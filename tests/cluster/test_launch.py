"""A real local runtime: what it listens on, whom it refuses, how it is found again and ended."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from ray_agents.cluster.deploy import deploy_serve
from ray_agents.cluster.launch import join_ray, leave_ray, start_ray, stop_ray
from ray_agents.cluster.processes import marks_in, terminate, trees_of
from ray_agents.cluster.running import RunningRay, find_running, recorded, write_running
from ray_agents.cluster.sockets import free_ports, listeners_of
from ray_agents.errors import PortTaken, RuntimeUnavailable
from ray_agents.settings import Settings

IGNORE = "ignore::DeprecationWarning"  # Ray Serve's own models make pydantic warn
pytestmark = [pytest.mark.ray, pytest.mark.timeout(180), pytest.mark.filterwarnings(IGNORE)]

FAKE_API = "tests.serve.fake_app:app"
ROOT = Path(__file__).parents[2]
Block = Callable[..., object]


def settings_in(folder: Path) -> Settings:
    return Settings(store=str(folder / "store"), http_port=free_ports(1)[0], num_cpus=2)


def start(settings: Settings) -> RunningRay:
    """A runtime with the control API over a runtime in memory."""
    running = start_ray(settings)
    join_ray(running)
    try:
        running = running.with_url(deploy_serve(settings, import_path=FAKE_API))
        write_running(settings, running)
    except BaseException:
        stop_ray(settings)
        raise
    finally:
        leave_ray(settings, running)
    return running


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("launch"))


@pytest.fixture(scope="module")
def running(settings: Settings) -> Iterator[RunningRay]:
    yield start(settings)
    stop_ray(settings)


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_every_socket_of_the_runtime_is_on_loopback(running: RunningRay) -> None:
    listeners = listeners_of(trees_of(running.processes))
    names = {listener.process.partition(":")[0] for listener in listeners}
    assert {"gcs_server", "raylet", "haproxy", "ray"} <= names
    assert [each for each in listeners if not each.on_loopback] == []


def test_on_loopback_too_the_control_api_asks_for_the_token(running: RunningRay) -> None:
    assert running.url is not None
    path = f"{running.url}/v1/types"
    token = Path(running.token_file).read_text().strip()
    assert httpx.get(path).status_code == 401
    assert httpx.get(path, headers={"authorization": "Bearer x"}).status_code == 401
    assert httpx.get(path, headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_on_loopback_too_ray_asks_for_the_token(
    running: RunningRay, metadata: tuple[tuple[str, str], ...]
) -> None:
    method = "/ray.rpc.NodeInfoGcsService/GetClusterId"
    with grpc.insecure_channel(running.address) as channel:
        connected: Any = channel  # grpc ships no types
        call = connected.unary_unary(method)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=metadata, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_what_is_written_is_for_its_owner_only(running: RunningRay, settings: Settings) -> None:
    assert mode_of(running.token_file) == 0o600
    assert mode_of(f"{settings.store}/runtime.json") == 0o600
    assert mode_of(settings.store) == 0o700
    assert mode_of(str(Path(running.directory).parent)) == 0o700


def test_the_token_is_in_no_environment_and_no_command_line(running: RunningRay) -> None:
    token = Path(running.token_file).read_text().strip()
    for process in trees_of(running.processes):
        assert token not in " ".join(process.cmdline())
        assert token not in process.environ().values()


def test_it_is_found_again_and_not_started_twice(running: RunningRay, settings: Settings) -> None:
    assert find_running(settings) == running
    assert start_ray(settings) == running


def test_another_process_joins_by_the_record_alone(settings: Settings, running: RunningRay) -> None:
    script = (
        "from ray_agents.cluster.launch import join_ray, leave_ray\n"
        "from ray_agents.cluster.running import find_running\n"
        "from ray_agents.settings import Settings\n"
        f"settings = Settings(store={settings.store!r})\n"
        "running = find_running(settings)\n"
        "join_ray(running)\n"
        "import ray\n"
        "print([node['NodeManagerAddress'] for node in ray.nodes()])\n"
        "leave_ray(settings, running)\n"
    )
    assert run(script).strip() == "['127.0.0.1']"
    assert running.is_alive


def test_a_second_runtime_lives_beside_the_first_and_ends_alone(
    running: RunningRay, tmp_path: Path
) -> None:
    other = settings_in(tmp_path)
    second = start(other)
    first_pids = {mark.pid for mark in running.processes}
    try:
        assert first_pids.isdisjoint(mark.pid for mark in second.processes)
        for each in (running, second):
            assert httpx.get(f"{each.url}/healthz").status_code == 200
        assert all(each.on_loopback for each in listeners_of(trees_of(second.processes)))
    finally:
        stopped = stop_ray(other)
    assert stopped.killed == 0
    assert marks_in(Path(second.directory)) == []
    assert not Path(second.directory).exists()
    assert httpx.get(f"{running.url}/healthz").status_code == 200


def test_a_taken_port_is_named(running: RunningRay, settings: Settings) -> None:
    assert running.url is not None
    with pytest.raises(PortTaken, match=f"{settings.http_port}.*haproxy"):
        deploy_serve(settings, import_path=FAKE_API)


def test_after_kill_9_of_everything_the_record_is_stale_and_a_start_is_fresh(
    tmp_path: Path, block_until: Block
) -> None:
    settings = settings_in(tmp_path)
    first = start_ray(settings)
    for process in trees_of(first.processes):
        process.kill()
    block_until(lambda: find_running(settings) is None)
    assert recorded(settings) == first
    second = start_ray(settings)
    try:
        assert second.is_alive
        assert not Path(first.directory).exists()
    finally:
        stop_ray(settings)
    assert recorded(settings) is None


def test_stopping_what_does_not_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="is running here"):
        stop_ray(Settings(store=str(tmp_path)))


EMBEDDED = """
import psutil
from ray_agents.cluster.launch import embed_ray, leave_ray
from ray_agents.cluster.sockets import listeners_of
from ray_agents.settings import Settings
settings = Settings(store={store!r})
running = embed_ray(settings)
me = psutil.Process()
print(all(each.on_loopback for each in listeners_of([me, *me.children(recursive=True)])))
print(running.directory)
{last}
"""


@pytest.mark.parametrize("last", ["leave_ray(settings, running)", "import os; os.kill(me.pid, 9)"])
def test_an_embedded_runtime_is_on_loopback_and_dies_with_its_process(
    tmp_path: Path, block_until: Block, last: str
) -> None:
    all_on_loopback, directory = run(EMBEDDED.format(store=str(tmp_path), last=last)).split()
    assert all_on_loopback == "True"
    assert find_running(Settings(store=str(tmp_path))) is None
    block_until(lambda: marks_in(Path(directory)) == [])
    assert mode_of(str(tmp_path / "token")) == 0o600


def run(script: str) -> str:
    """What ``script`` prints in a fresh interpreter; it may end by a signal."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-u", "-c", script],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr
    return done.stdout


def test_a_process_that_ends_meanwhile_does_not_disturb(tmp_path: Path) -> None:
    assert trees_of(marks_in(tmp_path)) == []
    assert terminate([], within=Settings().stop_deadline) == []
