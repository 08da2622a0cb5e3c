"""The README's example with Ray Data, on a Ray that a fresh interpreter starts and ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ray_agents.events import Draft
from ray_agents.log.store import open_blobs
from ray_agents.testing.scan_suite import ADA, BOB, append, log_of

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
EXAMPLE = next(
    code
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "ray.data" in code
)
SCRIPT = f"""
from ray_agents.cluster.launch import embed_ray, leave_ray
from ray_agents.settings import Settings
settings = Settings(store="of-the-cluster", num_cpus=2)
running = embed_ray(settings)
{EXAMPLE}
leave_ray(settings, running)
"""


@pytest.mark.timeout(150)
async def test_the_example_with_ray_data_runs(tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path / ".ray-agents"))
    for address, count in ((ADA, 1), (BOB, 2)):
        calls = [Draft.of("tool_call", f"r:s1:tool:{n}", value={}) for n in range(count)]
        with closing(log_of(blobs, address)) as log:
            await append(log, calls)
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"
