"""A local Ray, brought up and down: a head that outlives us, or one embedded in this process.

Both are private (``loopback``: this machine only, with a token), bounded, and have a directory of
their own under the temporary directory, mode 0700, so that any number of them can run side by
side. Beside the store lies what is needed to find them again (``running``).
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil

from ray_agents.cluster.head import (
    KILL_GRACE,
    Stopped,
    absolute_store,
    describe,
    end,
    end_directory,
    fresh_directory,
    run_head,
    settings_environment,
)
from ray_agents.cluster.ingress import ingress_environment
from ray_agents.cluster.loopback import (
    apply_to_this_process,
    driver_environment,
    head_environment,
)
from ray_agents.cluster.processes import ProcessMark
from ray_agents.cluster.running import (
    TOKEN_NAME,
    RunningRay,
    find_running,
    forget_running,
    open_state_folder,
    recorded,
    write_running,
)
from ray_agents.cluster.sockets import LOOPBACK
from ray_agents.cluster.tokens import ensure_token, private_file
from ray_agents.cluster.untyped import import_ray, ray_errors
from ray_agents.errors import RuntimeUnavailable, StoreUnavailable
from ray_agents.settings import Settings

LEFTOVERS_WITHIN = timedelta(seconds=1)


def start_ray(settings: Settings) -> RunningRay:
    """Start a head node that outlives this process; if the store has a live one, return that.

    Raises:
        RuntimeUnavailable: Ray did not start; the message holds its last words.
        StoreUnavailable: the store's directory cannot be written.
    """
    folder = open_state_folder(settings)
    with _only_one(folder):
        if (running := find_running(settings)) is not None:
            return running
        _end_leftovers(settings)
        token_file = _token_file(settings, folder)
        directory = fresh_directory()
        environment = (
            head_environment(token_file)
            | ingress_environment(directory)
            | settings_environment(settings, token_file)
        )
        running = run_head(settings, directory, environment)
        try:
            write_running(settings, running)
        except BaseException:  # nobody would know of it
            end_directory(directory, within=KILL_GRACE)
            raise
        return running


def stop_ray(settings: Settings) -> Stopped:
    """End exactly the processes of this store's local runtime, within the stop deadline.

    Hosts are asked first (SIGTERM), while Ray still runs, so that they can seal their logs;
    then Ray's daemons; what is left at the end of the deadline is killed.

    Raises:
        RuntimeUnavailable: no runtime of this store is recorded, or it belongs to a live process.
    """
    running = recorded(settings)
    if running is None:
        raise RuntimeUnavailable(
            f"no runtime of the store {absolute_store(settings)!r} is running here",
            store=settings.store,
        )
    if running.embedded and running.is_alive:
        pid = running.processes[0].pid
        raise RuntimeUnavailable(
            f"the runtime of {settings.store!r} lives in process {pid!r}; it ends with it", pid=pid
        )
    stopped = end(running, within=settings.stop_deadline)
    forget_running(settings)
    return stopped


def join_ray(running: RunningRay) -> None:
    """Connect this process to ``running`` as a driver.

    Raises:
        RuntimeUnavailable: it does not answer, or this process has joined another cluster.
    """
    apply_to_this_process(driver_environment(Path(running.token_file)))
    ray = import_ray()
    try:
        ray.init(
            address=running.address,
            namespace=running.namespace,
            log_to_driver=False,
            logging_level=logging.WARNING,
            ignore_reinit_error=True,
        )
    except ray_errors() as error:
        raise RuntimeUnavailable(
            f"Ray at {running.address!r} does not answer ({error}); `ray-agents stop` and "
            "`ray-agents start` bring a fresh one up, nothing acknowledged is lost",
            address=running.address,
        ) from error


def embed_ray(settings: Settings) -> RunningRay:
    """Connect to a Ray that lives and dies with this process; to the store's own if one is live.

    Raises:
        RuntimeUnavailable: Ray did not start, or does not answer.
        StoreUnavailable: the store's directory cannot be written.
    """
    folder = open_state_folder(settings)
    with _only_one(folder):
        if (running := find_running(settings)) is not None:
            join_ray(running)
            return running
        _end_leftovers(settings)
        running = _init_here(settings, _token_file(settings, folder), fresh_directory())
        write_running(settings, running)
        return running


def _init_here(settings: Settings, token_file: Path, directory: Path) -> RunningRay:
    environment = head_environment(token_file) | settings_environment(settings, token_file)
    apply_to_this_process(environment)
    ray = import_ray()
    try:
        context = ray.init(
            address="local",
            namespace=settings.namespace,
            num_cpus=settings.num_cpus,
            object_store_memory=settings.object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(directory),
        )
    except ray_errors() as error:
        raise RuntimeUnavailable(f"Ray does not start in this process: {error}") from error
    running = describe(
        settings,
        directory,
        address=str(context.address_info["gcs_address"]),
        token_file=str(token_file),
        marks=[ProcessMark.of(psutil.Process())],
    )
    return replace(running, embedded=True)


def leave_ray(settings: Settings, running: RunningRay) -> None:
    """Disconnect this process; if the runtime is embedded in it, that ends with its record."""
    import_ray().shutdown()
    if running.embedded and running.processes[0].pid == os.getpid():
        end_directory(Path(running.directory), within=KILL_GRACE)
        forget_running(settings)


def clear_leftovers(settings: Settings) -> None:
    """End what a dead runtime of this store has left behind; a live one is let be.

    Raises:
        RuntimeUnavailable: another process is starting the runtime of this store.
        StoreUnavailable: the store's directory cannot be written.
    """
    with _only_one(open_state_folder(settings)):
        if find_running(settings) is None:
            _end_leftovers(settings)


def _token_file(settings: Settings, folder: Path) -> Path:
    path = folder / TOKEN_NAME
    if settings.token is not None:
        private_file(path, settings.token)
    ensure_token(path)
    return path


def _end_leftovers(settings: Settings) -> None:
    """What a runtime that died in part has left behind: it would hold ports and memory."""
    if (stale := recorded(settings)) is not None:
        end(stale, within=LEFTOVERS_WITHIN)  # without its daemons nobody of it can save anything
        forget_running(settings)


@contextmanager
def _only_one(folder: Path) -> Generator[None]:
    """Hold the store's start lock, which the kernel frees if we die.

    Raises:
        RuntimeUnavailable: somebody else holds it.
        StoreUnavailable: it cannot be made, nor anything else there.
    """
    lock = folder / "start.lock"
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot write {str(lock)!r}: {error.strerror}; check the owner and mode of the store, "
            "or choose another with RAY_AGENTS_STORE or --store",
            path=str(lock),
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RuntimeUnavailable(
            f"another process is starting the runtime of {str(folder)!r}; try again when it is done"
        ) from error
    finally:
        os.close(handle)
