"""Which model answers: the scripted one if the configuration carries responses, else a provider.

The provider is named before the model, ``openai:gpt-5.5``; a name without one is Claude's.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_agents.agent import AgentConfig
from ray_agents.gateway import Gateway
from ray_agents.model import Model, ModelSettings
from ray_agents.models.openai import PREFIX as OPENAI
from ray_agents.models.scripted import scripted


def chooser(
    settings: ModelSettings,
    *,
    openai: ModelSettings | None = None,
    gateway: Gateway | None = None,
) -> Callable[[AgentConfig], Model]:
    """A function from an agent's configuration to the model that answers it.

    ``settings`` are Anthropic's, ``openai`` those of a server of Chat Completions. Calls of either
    wait for their turn at the ``gateway``, if there is one.
    """

    def model_for(config: AgentConfig) -> Model:
        if config.test_responses is not None:
            return scripted(config.test_responses)
        if config.model.startswith(OPENAI):
            from ray_agents.models.openai import OpenAIModel

            return OpenAIModel(openai or ModelSettings(), gateway=gateway)
        from ray_agents.models.anthropic import AnthropicModel

        return AnthropicModel(settings, gateway=gateway)

    return model_for
