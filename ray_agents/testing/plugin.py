"""The test tools as pytest fixtures: ``pytest_plugins = ["ray_agents.testing.plugin"]``.

Not loaded by itself, so that pytest stays no dependency of the package.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_agents.models.permission import forbid_real_model_calls

__all__ = ["no_real_model_calls"]


@pytest.fixture
def no_real_model_calls() -> Iterator[None]:
    """No call leaves this machine for a model; ``pytest.mark.usefixtures`` it, or autouse it."""
    with forbid_real_model_calls():
        yield
