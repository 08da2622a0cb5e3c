"""What a Serve replica begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_agents.client import replica_settings
from ray_agents.errors import InvalidSetting


def test_the_token_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("open-sesame\n")
    monkeypatch.setenv("RAY_AGENTS_TOKEN_FILE", str(tmp_path / "token"))
    assert replica_settings().token == "open-sesame"


def test_a_replica_whose_token_cannot_be_read_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AGENTS_TOKEN_FILE", str(tmp_path / "absent"))
    with pytest.raises(InvalidSetting, match="RAY_AGENTS_TOKEN_FILE"):
        replica_settings()


@pytest.mark.parametrize("text", [b"", b"\n", "gehé".encode(), b"\xff"])
def test_a_replica_whose_token_is_none_does_not_begin(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one would let everybody in who sends an empty one."""
    (tmp_path / "token").write_bytes(text)
    monkeypatch.setenv("RAY_AGENTS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(InvalidSetting, match="RAY_AGENTS_TOKEN_FILE"):
        replica_settings()
