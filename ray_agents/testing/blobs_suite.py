"""The conformance suite of ``Blobs``: what a log relies on, whatever the medium.

Inherit it in a test module and give it a fixture ``blobs`` that returns an empty tree; beside it,
:class:`ray_agents.testing.log_suite.LogSuite` runs a log on the same.
"""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from ray_agents.errors import StoreUnavailable
from ray_agents.log.threads import LogIO
from ray_agents.ports import Blobs


class BlobsSuite:
    """What every ``Blobs`` does."""

    def test_a_name_is_created_once(self, blobs: Blobs) -> None:
        assert blobs.create("a/b/c", b"one")
        assert not blobs.create("a/b/c", b"two")
        assert blobs.read("a/b/c") == b"one"

    def test_what_is_not_there_is_not_there(self, blobs: Blobs) -> None:
        assert not blobs.exists("a/b")
        assert blobs.read("a/b") is None
        assert blobs.names("a") == []
        blobs.delete("a/b")
        with pytest.raises(StoreUnavailable, match="a/b"):
            blobs.append("a/b")

    def test_a_file_is_read_from_any_byte_on(self, blobs: Blobs) -> None:
        blobs.create("f", b"0123456789")
        assert blobs.read("f", 4) == b"456789"
        assert blobs.read("f", 10) == b""
        assert blobs.read("f", 99) == b""

    def test_a_folder_names_its_files_and_folders_in_order(self, blobs: Blobs) -> None:
        for name in ("f/2", "f/1", "f/sub/3", "g/4"):
            blobs.create(name, b"")
            blobs.sync_names(name)
        assert blobs.names("f") == ["1", "2", "sub"]
        assert blobs.names("") == ["f", "g"]
        assert blobs.names("f/1") == []

    def test_a_link_is_a_second_name_that_outlives_the_first(self, blobs: Blobs) -> None:
        blobs.create("a/1", b"content")
        assert blobs.link("a/1", "b/c/2")
        blobs.sync_names("b/c/2")
        assert not blobs.link("b/c/2", "a/1")
        blobs.delete("a/1")
        assert (blobs.read("b/c/2", 3), blobs.names("b/c")) == (b"tent", ["2"])
        with pytest.raises(StoreUnavailable):
            blobs.link("a/1", "a/3")
        assert blobs.names("a") == []

    def test_a_deleted_name_is_free_again(self, blobs: Blobs) -> None:
        blobs.create("f/1", b"one")
        blobs.delete("f/1")
        assert not blobs.exists("f/1")
        assert blobs.create("f/1", b"two")
        assert blobs.read("f/1") == b"two"

    def test_what_is_appended_is_read_at_once(self, blobs: Blobs) -> None:
        blobs.create("f", b"one")
        file = blobs.append("f")
        file.write(b" two")
        assert blobs.read("f") == b"one two"
        file.sync()
        file.write(b" three")
        file.close()
        file.close()
        assert blobs.read("f", 3) == b" two three"

    def test_a_closed_file_takes_nothing(self, blobs: Blobs) -> None:
        blobs.create("f", b"")
        file = blobs.append("f")
        file.close()
        with pytest.raises(StoreUnavailable):
            file.write(b"late")
        with pytest.raises(StoreUnavailable):
            file.sync()

    async def test_of_many_who_create_a_name_one_succeeds(self, blobs: Blobs) -> None:
        with closing(LogIO(threads_max=8)) as io:
            made = await asyncio.gather(
                *(io.run(blobs.create, "f/x", b"%d" % n * 100) for n in range(8))
            )
        assert sum(made) == 1
        assert blobs.read("f/x") == b"%d" % made.index(True) * 100
