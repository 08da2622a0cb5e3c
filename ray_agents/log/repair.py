"""Cutting a torn tail by taking the log over, as its next owner would: nothing is ever overwritten.

Theory of operation. A file is not cut in place, for whoever still writes it would lose what it is
about to acknowledge. A repair claims the next epoch, adopts what is whole into a sealed file and
leaves cleanly; the new manifest says how many rows count, and the tail is behind them.

When it is allowed:

- the examination found torn tails and nothing else. Beside corruption nothing is touched;
- nobody can be writing. An owner opens its segment before it writes the first byte of a frame,
  and closes it only when its ownership ends; while it is open, it holds a lock on it that the
  kernel takes back with the process (``DirectoryBlobs.in_use``). So if the tail is torn and nobody
  has the segment open, its owner is dead or has given up, on this machine at least;
- the torn segment is the newest, so that the claim is lost if anybody takes over meanwhile.
  Behind one that was claimed and not begun yet, whose owner may be alive, it is left to the wake.

What cannot be known is whether a machine lives that shares the store and no locks. There the claim
itself protects: it fences a live owner off, which then acknowledges nothing more, so that an
ownership may be ended in vain, but no row is lost.
"""

from __future__ import annotations

from dataclasses import replace

from ray_agents.errors import Fenced
from ray_agents.findings import Fault, Verification
from ray_agents.log.examination import InUse, examine_log
from ray_agents.log.files import LogFiles
from ray_agents.log.owner import LogIO, LogOwner
from ray_agents.log.segment import Claim, segment_name
from ray_agents.log.threads import Kept
from ray_agents.ports import Blobs, Clock

REPAIR = "repair"  # whose name the epoch bears


async def repair_log(
    blobs: Blobs, folder: str, *, in_use: InUse, clock: Clock, io: LogIO
) -> Verification:
    """Cut the log's torn tail, if it has one and that is allowed; what is left to find, and done.

    Raises:
        StoreUnavailable, StoreFull: the medium refused.
    """
    found = await io.run(examine_log, blobs, folder, in_use=in_use)
    torn = [finding.file for finding in found.findings if finding.fault is Fault.TORN]
    if not torn:
        return found
    if len(torn) < len(found.findings):
        return _refused(found, "it stays as long as something else is wrong with the log")
    head = await io.run(LogFiles(blobs, folder, kept=Kept()).head)
    if head is None or segment_name(folder, head.epoch) not in torn:
        return _refused(found, "somebody has claimed the log and not begun; the next wake cuts it")
    try:
        claim = Claim(host=REPAIR, token=clock.fresh_id())
        owner = await LogOwner.claim(blobs, folder, head=head, claim=claim, clock=clock, io=io)
        await owner.seal()
    except Fenced:
        return _refused(found, "somebody has taken the log over meanwhile, and cuts it")
    await io.run(_sync, blobs, segment_name(folder, owner.epoch))
    after = await io.run(examine_log, blobs, folder, in_use=in_use)
    return replace(after, repaired=tuple(torn))


def _sync(blobs: Blobs, name: str) -> None:
    """A closing frame need not be durable; a repair that power can undo would be none."""
    file = blobs.append(name)
    try:
        file.sync()
    finally:
        file.close()


def _refused(found: Verification, why: str) -> Verification:
    """The same findings; those of a torn tail say why they stay."""
    findings = (
        replace(finding, remedy=why) if finding.fault is Fault.TORN else finding
        for finding in found.findings
    )
    return replace(found, findings=tuple(findings))


async def repair_found(
    blobs: Blobs, found: Verification, *, in_use: InUse, clock: Clock, io: LogIO
) -> Verification:
    """Cut the torn tails that a verification has found, log by log; what is left, and was done.

    Raises:
        StoreUnavailable, StoreFull: the medium refused.
    """
    torn = (each.file for each in found.findings if each.fault is Fault.TORN)
    folders = tuple(dict.fromkeys(f"{name.rpartition('/')[0]}/" for name in torn))
    parts = [
        await repair_log(blobs, folder[:-1], in_use=in_use, clock=clock, io=io)
        for folder in folders
    ]
    rest = tuple(each for each in found.findings if not each.file.startswith(folders))
    return replace(
        found,
        findings=rest + tuple(finding for part in parts for finding in part.findings),
        repaired=tuple(name for part in parts for name in part.repaired),
    )
