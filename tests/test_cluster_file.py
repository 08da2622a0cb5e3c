"""cluster.yaml is what Ray's cluster launcher reads: it accepts every key that we wrote."""

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.ray

CLUSTER_FILE = Path(__file__).parents[1] / "cluster.yaml"


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(CLUSTER_FILE.read_text()))
    validate_config(config)
    assert config["cluster_name"] == "ray-agents"
