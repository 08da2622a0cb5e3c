"""A claim of somebody who dies before it has begun: its segment is there, without a manifest."""

from __future__ import annotations

from ray_agents.log.claiming import take
from ray_agents.log.files import LogFiles
from ray_agents.log.owner import Claim
from ray_agents.log.threads import Kept
from ray_agents.testing.log_suite import Log


def claim_only(log: Log) -> None:
    """Claim the next epoch of ``log``, and nothing else."""
    files = LogFiles(log.blobs, log.folder, kept=Kept())
    claim = Claim(host="host-1", token=log.clock.fresh_id())
    take(files, head=files.head(), claim=claim)
