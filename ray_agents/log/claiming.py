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

    Raises:
        ClaimLost: somebody else created it before, or long ago.
    """
    before = 0 if head is None else head.epoch
    name = segment_name(files.folder, before + 1)
    preamble = new_preamble(before + 1, claim)
    if not files.blobs.create(name, preamble.data):
        if _token_of(files, name) != claim.token:
            raise _lost(files)
    elif _is_past(files, before):
        files.blobs.delete(name)
        raise _lost(files)
    return preamble


def _token_of(files: LogFiles, name: str) -> str | None:
    data = files.blobs.read(name)
    return None if data is None else read_preamble(name, data).token


def _is_past(files: LogFiles, before: int) -> bool:
    """Whether the epoch after ``before`` was taken and deleted already.

    Segments are deleted in ascending order: while ``before`` stands, none after it was deleted.
    """
    if before == 0:
        return files.newest_epoch() != 1
    return not files.blobs.exists(segment_name(files.folder, before))


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
