"""A store is opened by its URL, or refused with the reason."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_agents.errors import MissingPackage, StoreUnavailable
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.store import look_into, open_blobs, store_identity


def test_memory_is_a_fresh_store_each_time() -> None:
    blobs = open_blobs("memory:")
    assert isinstance(blobs, MemoryBlobs)
    assert open_blobs("memory:") is not blobs


def test_a_directory_is_made_and_opened_again(tmp_path: Path) -> None:
    open_blobs(str(tmp_path / "new" / "store")).create("f", b"x")
    assert open_blobs(str(tmp_path / "new" / "store")).read("f") == b"x"


def test_a_store_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("ray-agents store 99\n")
    with pytest.raises(StoreUnavailable, match="99"):
        open_blobs(str(tmp_path))


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        open_blobs(str(tmp_path / "file"))


def test_a_scheme_that_is_not_supported_is_named() -> None:
    for url in ("ftp://bucket/prefix", "s3://", "s3:///prefix", "gs://bucket?x=1"):
        with pytest.raises(StoreUnavailable, match=re.escape(url)):
            open_blobs(url)


@pytest.mark.parametrize("opened", [open_blobs, look_into])
def test_without_its_package_a_bucket_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], object]
) -> None:
    for module in [name for name in sys.modules if name.startswith(("obstore", "ray_agents.log."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ray-agents\[objects\]'"):
        opened("s3://bucket/prefix")


def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    open_blobs(store)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreUnavailable, match="store"):
        open_blobs(store)


def test_looking_into_a_store_makes_nothing(tmp_path: Path) -> None:
    assert look_into(str(tmp_path)).names("") == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreUnavailable, match="there is no store"):
        look_into(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []


def test_a_store_keeps_its_identity_wherever_it_is_moved(tmp_path: Path) -> None:
    first = store_identity(open_blobs(str(tmp_path / "here")))
    (tmp_path / "here").rename(tmp_path / "there")
    assert store_identity(open_blobs(str(tmp_path / "there"))) == first
    assert store_identity(open_blobs(str(tmp_path / "here"))) != first
