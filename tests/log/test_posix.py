"""A directory obeys the suites, and says what is wrong with it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ray_agents.errors import StoreFull, StoreUnavailable
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.ports import Blobs
from ray_agents.testing.blobs_suite import BlobsSuite
from ray_agents.testing.log_suite import LogSuite


@pytest.mark.parametrize("prompt", [True, False], ids=["local", "far"])
class TestDirectoryBlobs(BlobsSuite, LogSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path, prompt: bool) -> Blobs:
        return DirectoryBlobs(tmp_path, prompt=prompt)


def test_nothing_temporary_is_left_behind(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.create("f/1", b"one")
    blobs.create("f/1", b"two")
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "1"]


def test_what_a_creator_that_died_left_is_shown_to_nobody_and_goes_with_its_folder(
    tmp_path: Path,
) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.create("f/1", b"one")
    (tmp_path / "f" / ".tmp-of-a-dead-one").write_bytes(b"half")
    assert blobs.names("f") == ["1"]
    blobs.delete("f/1")
    blobs.delete("f")
    assert blobs.names("") == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable)],
)
def test_an_error_of_the_system_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.create("f/1", b"one")
    file = blobs.append("f/1")

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(kind, match="f/1") as raised:
        file.write(b"two")
    assert type(raised.value) is kind
    file.close()


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, write = DirectoryBlobs(tmp_path), os.write

    def write_three(descriptor: int, data: bytes) -> int:
        return write(descriptor, bytes(data)[:3])

    monkeypatch.setattr(os, "write", write_three)
    blobs.create("f/1", b"0123456789")
    assert blobs.read("f/1") == b"0123456789"


def test_a_folder_known_to_be_durable_is_not_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, synced, fsync = DirectoryBlobs(tmp_path), list[str](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(
            str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path))
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    for name in ("a/b/1", "a/b/2", "a/c/1"):
        blobs.create(name, b"")
        blobs.sync_names(name)
    assert synced == ["/a/b", "/a", "", "/a/b", "/a/c", "/a"]


def test_a_file_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, link = list[str](), os.link

    def linked(source: str, path: str) -> None:
        order.append("named")
        link(source, path)

    def synced(_: int) -> None:
        order.append("synced")

    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(os, "link", linked)
    assert DirectoryBlobs(tmp_path).create("a", b"x")
    assert order == ["synced", "named"]
