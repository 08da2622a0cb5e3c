"""The guards of conftest.py catch what they are there for: each is shown to fail once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")

BAD = {
    "a pure test imported ray": "def test_bad():\n    import ray",
    "files left open": "def test_bad(tmp_path):\n    global f\n    f = open(tmp_path / 'a', 'w')",
    "asyncio tasks left running": (
        "import asyncio\n"
        "async def test_bad():\n    global t\n    t = asyncio.create_task(asyncio.Event().wait())"
    ),
    "processes left running": (
        "import subprocess\ndef test_bad():\n    global p\n    p = subprocess.Popen(['sleep', '2'])"
    ),
    "not within": (
        "from datetime import timedelta\n"
        "async def test_bad(wait_until):\n"
        "    await wait_until(lambda: False, within=timedelta(milliseconds=20))"
    ),
}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    shutil.copy(CONFTEST, pytester.path / "conftest.py")
    markers = "markers =\n    ray\n    benchmark\n    slow"
    pytester.makeini(f"[pytest]\nasyncio_mode = auto\naddopts = -m 'not ray'\n{markers}")
    return pytester


@pytest.mark.slow
@pytest.mark.parametrize(("complaint", "test"), BAD.items(), ids=[key[-12:] for key in BAD])
def test_a_guard_catches(project: pytest.Pytester, complaint: str, test: str) -> None:
    project.makepyfile(test)
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{complaint}*"])


@pytest.mark.slow
def test_a_module_of_ray_is_not_imported_by_a_pure_run(project: pytest.Pytester) -> None:
    project.makepyfile("import ray, pytest\npytestmark = pytest.mark.ray\ndef test_a(): ...")
    assert project.runpytest_subprocess().ret == pytest.ExitCode.NO_TESTS_COLLECTED
