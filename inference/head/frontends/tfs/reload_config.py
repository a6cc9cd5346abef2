"""A `tensorflow.serving.ModelServerConfig` as the list of models that are to be served."""

from __future__ import annotations

from typing import Any, Final

from ringpull.ps.errors import InvalidInput
from ringpull.router.control.operations import ModelSource, ServeModels

PLATFORMS: Final = ("", "tensorflow", "ringpull")
"""Platforms that a model may say it is of. `tensorflow` is what clients send that know no other."""


def models_of(config: Any) -> ServeModels:
    """Return the request for the models of a config, and no others.

    Raises:
        InvalidInput: It names no model, or one in a way that is not possible here; the message names the field.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise InvalidInput(
            "config.custom_model_config: ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    configs = config.model_config_list.config
    if not configs:
        raise InvalidInput(
            "config.model_config_list: names no model; what is served is what the list names, so this would unload all."
            " To do that, unload each by its name"
        )
    return ServeModels(models=tuple(_source(f"config[{place}]", each) for place, each in enumerate(configs)))


def _source(where: str, config: Any) -> ModelSource:
    if not config.name:
        raise InvalidInput(f"{where}.name: is empty; it must name a model")
    if config.model_platform not in PLATFORMS:
        raise InvalidInput(
            f"{where}.model_platform: is {config.model_platform!r:.80}; versions that `ringpull.export_model` wrote are"
            " served here, so leave it empty"
        )
    policy = config.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    versions: tuple[int, ...] = ()
    latest = 1
    if choice == "specific":
        versions = tuple(policy.specific.versions)
        if not versions or min(versions) < 1:
            raise InvalidInput(
                f"{where}.model_version_policy.specific.versions: must be numbers of versions, from 1 on"
            )
    elif choice == "latest":
        latest = policy.latest.num_versions or 1
    elif choice == "all":
        latest = 0
    # The labels are replaced whole, as the list is: those that are not named are gone.
    return ModelSource(
        name=config.name,
        folder=config.base_path,
        versions=versions,
        latest=latest,
        labels=dict(config.version_labels),
    )
