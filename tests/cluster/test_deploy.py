"""What can be known of a deployment before Ray is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_agents.cluster import deploy
from ray_agents.cluster.deploy import serve_root, url_of
from ray_agents.errors import RuntimeUnavailable
from ray_agents.settings import Settings


def test_serve_is_found_beside_the_package() -> None:
    assert (serve_root() / "serve" / "app.py").is_file()


def test_a_wheel_without_serve_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "PACKAGE_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeUnavailable, match="clone the repository"):
        serve_root()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4437"),
        ("::", "http://127.0.0.1:4437"),
        ("::1", "http://[::1]:4437"),
        ("node7", "http://node7:4437"),
    ],
)
def test_a_client_on_this_machine_is_told_where_to_knock(host: str, url: str) -> None:
    assert url_of(Settings(http_host=host, token="t")) == url
