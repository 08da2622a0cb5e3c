"""An NFS mount that caches names is recognised by its line in the mount table."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_agents.errors import StoreUnavailable
from ray_agents.log import store
from ray_agents.log.mounts import caching_mount, is_local

LOCAL = "/dev/vda / ext4 rw,relatime 0 0\n"


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("rw,vers=4.1", True),
        ("rw,lookupcache=none", True),
        ("rw,actimeo=0", True),
        ("rw,lookupcache=pos,actimeo=0", True),
        ("rw,lookupcache=none,actimeo=0", False),
        ("rw,lookupcache=none,noac", False),
        ("rw,lookupcache=none,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0", False),
    ],
)
def test_nfs_is_accepted_only_without_caches(options: str, refused: bool) -> None:
    line = f"server:/export /mnt/nfs nfs4 {options} 0 0"
    assert caching_mount("/mnt/nfs/store", LOCAL + line) == (line if refused else None)
    assert caching_mount("/mnt/nfs", LOCAL + line) == (line if refused else None)
    assert caching_mount("/mnt/nfsother", LOCAL + line) is None
    assert caching_mount("/home", LOCAL + line) is None


def test_the_innermost_mount_counts_and_names_may_have_spaces() -> None:
    nfs = r"server:/x /mnt/my\040nfs nfs rw 0 0" + "\n"
    inner = r"tmpfs /mnt/my\040nfs/fast tmpfs rw 0 0" + "\n"
    assert caching_mount("/mnt/my nfs/store", nfs + inner + LOCAL) == nfs.strip()
    assert caching_mount("/mnt/my nfs/fast/store", inner + nfs + LOCAL) is None


def test_only_kinds_that_are_known_to_be_of_this_machine_count_as_local() -> None:
    table = LOCAL + "server:/x /mnt/nfs nfs4 rw 0 0\nx /mnt/odd fuse.odd rw 0 0\n"
    assert is_local("/home/store", table)
    assert not is_local("/mnt/nfs/store", table)
    assert not is_local("/mnt/odd/store", table)
    assert not is_local("/home/store", "")


def test_a_store_on_such_a_mount_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"server:/x {tmp_path} nfs4 rw,vers=4.1 0 0\n")
    monkeypatch.setattr(store, "MOUNT_TABLE", table)
    with pytest.raises(StoreUnavailable, match=r"lookupcache=none.*vers=4\.1"):
        store.open_blobs(str(tmp_path / "store"))
