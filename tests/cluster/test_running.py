"""The record of a running runtime, and the token beside it."""

from __future__ import annotations

import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ray_agents.cluster.processes import ProcessMark
from ray_agents.cluster.running import (
    RunningRay,
    find_running,
    forget_running,
    open_state_folder,
    recorded,
    state_folder,
    write_running,
)
from ray_agents.cluster.tokens import ensure_token, private_file, token_of
from ray_agents.errors import InvalidSetting, StoreUnavailable
from ray_agents.settings import Settings


def running_in(folder: Path) -> RunningRay:
    return RunningRay(
        store=str(folder),
        namespace="ray-agents",
        address="127.0.0.1:1",
        directory=str(folder / "d"),
        token_file=str(folder / "token"),
        processes=(ProcessMark.of(psutil.Process()),),
        machine=socket.gethostname(),
    )


def test_what_is_recorded_is_found(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path))
    running = running_in(tmp_path).with_url("http://127.0.0.1:4437")
    write_running(settings, running)
    assert find_running(settings) == running
    assert stat.S_IMODE((tmp_path / "runtime.json").stat().st_mode) == 0o600
    forget_running(settings)
    forget_running(settings)
    assert recorded(settings) is None


def test_a_record_of_dead_processes_is_stale(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path))
    dead = ProcessMark(pid=os.getpid(), started=1.0, name="another process of this pid")
    write_running(settings, replace(running_in(tmp_path), processes=(dead,)))
    assert find_running(settings) is None
    assert recorded(settings) is not None


def test_a_record_of_another_machine_is_not_ours(tmp_path: Path) -> None:
    assert not replace(running_in(tmp_path), machine="elsewhere").is_alive


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99}'])
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "runtime.json").write_text(text)
    with pytest.raises(StoreUnavailable, match=r"runtime\.json"):
        recorded(Settings(store=str(tmp_path)))


def test_an_unknown_member_is_an_error_too(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path))
    write_running(settings, running_in(tmp_path))
    fields = json.loads((tmp_path / "runtime.json").read_text()) | {"stranger": 1}
    (tmp_path / "runtime.json").write_text(json.dumps(fields))
    with pytest.raises(StoreUnavailable, match="stranger"):
        recorded(settings)


def test_a_store_behind_a_url_keeps_its_state_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    one, other = (state_folder(Settings(store=f"s3://bucket/{name}")) for name in ("a", "b"))
    assert one.is_relative_to(tmp_path)
    assert one != other


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="RAY_AGENTS_STORE"):
        open_state_folder(Settings(store=str(tmp_path / "file" / "store")))


def test_a_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    token = ensure_token(tmp_path / "token")
    assert len(token) == 64
    assert ensure_token(tmp_path / "token") == token
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_a_token_file_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("known\n")
    (tmp_path / "token").chmod(0o644)
    assert ensure_token(tmp_path / "token") == "known"
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(StoreUnavailable, match="empty"):
        ensure_token(tmp_path / "token")


def test_a_private_file_leaves_nothing_half_written(tmp_path: Path) -> None:
    private_file(tmp_path / "x", "1")
    private_file(tmp_path / "x", "2")
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    with pytest.raises(StoreUnavailable, match="nowhere"):
        private_file(tmp_path / "nowhere" / "x", "1")


def test_the_token_comes_from_the_setting_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("from-file\n")
    assert token_of(Settings()) is None
    assert token_of(Settings(token="given", token_file=str(tmp_path / "t"))) == "given"
    assert token_of(Settings(token_file=str(tmp_path / "t"))) == "from-file"
    with pytest.raises(InvalidSetting, match="RAY_AGENTS_TOKEN_FILE"):
        token_of(Settings(token_file=str(tmp_path / "absent")))
