"""Which model answers: the scripted one if the configuration carries responses, else Claude."""

from __future__ import annotations

from collections.abc import Callable

from ray_agents.agent import AgentConfig
from ray_agents.model import Model, ModelSettings
from ray_agents.models.scripted import scripted


def chooser(settings: ModelSettings) -> Callable[[AgentConfig], Model]:
    """A function from an agent's configuration to the model that answers it."""

    def model_for(config: AgentConfig) -> Model:
        if config.test_responses is not None:
            return scripted(config.test_responses)
        from ray_agents.models.anthropic import AnthropicModel

        return AnthropicModel(settings)

    return model_for
