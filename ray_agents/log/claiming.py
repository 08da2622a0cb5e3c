"""Taking ownership: one atomic create of the next epoch's segment, and finding out who has it."""

from __future__ import annotations

from ray_agents.errors import Fenced
from ray_agents.log.files import LogFiles
from ray_agents.log.segment import Claim, Head, Preamble, new_preamble, read_preamble, segment_name


class ClaimLost(Fenced):
    """Somebody else took the epoch that was claimed; ``head`` says who has the log now."""

    @property
    def head(self) -> Head:
        """The newest segment, as it was just after the claim was lost."""
        return Head(**self.facts)


def take(files: LogFiles, *, head: Head | None, claim: Claim) -> Preamble:
    """Create the segment after ``head``, with the preamble that is returned.

    The epoch may have been taken, merged and deleted long ago. As the newest segment is never
    deleted, none that is newer shows that it was not. If there is one, ours stays where it is,
    for whoever has claimed after it meanwhile may be about to read it, unless the one after it is
    gone: segments are deleted in ascending order. (One that is of the past all the same is listed
    by no manifest, and goes when the log is tidied: :meth:`LogFiles.stray`.)

    Raises:
        ClaimLost: somebody else created it before, or long ago.
    """
    before = 0 if head is None else head.epoch
    name = segment_name(files.folder, before + 1)
    preamble = new_preamble(before + 1, claim)
    if head is not None and not head.sealed:  # of two names, a power failure may keep the later
        files.blobs.sync_names(segment_name(files.folder, before))
    if not files.blobs.create(name, preamble.data):
        if _token_of(files, name) != claim.token:
            raise _lost(files)
    elif (lost := superseded(files, preamble.epoch)) is not None:
        if not files.blobs.exists(segment_name(files.folder, before + 2)):
            files.blobs.delete(name)
        raise lost
    return preamble


def superseded(files: LogFiles, epoch: int) -> ClaimLost | None:
    """What to say to whoever claimed ``epoch`` if a newer one has been claimed since; else None.

    Whoever owns the newer one may have deleted what the older one is about to read.
    """
    return _lost(files) if files.newest_epoch() > epoch else None


def _token_of(files: LogFiles, name: str) -> str | None:
    data = files.blobs.read(name)
    return None if data is None else read_preamble(name, data).token


def _lost(files: LogFiles) -> ClaimLost:
    head = files.head()
    if head is None:
        head = Head(epoch=0, host="", token="", sealed=True)
    return ClaimLost(
        f"log {files.folder!r} is owned by host {head.host!r} in epoch {head.epoch}; "
        "look its owner up again",
        epoch=head.epoch,
        host=head.host,
        token=head.token,
        sealed=head.sealed,
    )
