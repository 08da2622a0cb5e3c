"""A Serve replica's beginning: its settings, from its environment, and its sockets narrowed."""

from __future__ import annotations

import os
from dataclasses import replace

from ray_agents.cluster.loopback import narrow_replica
from ray_agents.cluster.tokens import token_of
from ray_agents.settings import Settings, from_env


def begin_replica() -> Settings:
    """The settings of this replica, with the token itself in place of its file's name.

    Raises:
        InvalidSetting: a variable does not fit, or the token file cannot be read.
    """
    narrow_replica()
    settings = from_env(os.environ)
    return replace(settings, token=token_of(settings))
