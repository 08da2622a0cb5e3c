"""``notebooks/swarm.py``: its script goes, its swarm and all fifty answers stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doors.conftest import Folder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
SWARM = str(Path(__file__).parents[2] / "notebooks" / "swarm.py")

FOLLOW = f"""
import sys
sys.path.insert(0, {str(Path(SWARM).parent)!r})
import swarm
with swarm.connect() as client:
    swarm.wait_for_all(client, "first", 50)
"""


def answers(folder: Folder) -> list[str]:
    """What another process finds."""
    return folder.python(SWARM, "answers").stdout.splitlines()


def test_a_script_brings_its_own_runtime_and_a_later_one_sees_the_answers(folder: Folder) -> None:
    sent = folder.python(SWARM, "--wait")
    assert sent.stdout.splitlines()[0].startswith("sent 5 of 50")
    assert sent.stdout.splitlines()[-1].startswith("answered 50 of 50")
    found = answers(folder)
    assert found[-1] == "50 answers"
    assert found[7] == "/scout/first-007: Cusco 7 is worth a visit"


def test_a_swarm_goes_on_when_its_script_has_gone(started: Folder) -> None:
    assert "sent 50 of 50" in started.python(SWARM).stdout
    started.python("-c", FOLLOW)
    assert answers(started)[-1] == "50 answers"
