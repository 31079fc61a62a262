"""Which model an encoder is, as a configuration states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bsap.errors import ConfigError, unknown

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of torch.compile."""


@dataclass(frozen=True)
class EncoderConfig:
    """Which model to use, and with which weights.

    Args:
        name: an open_clip architecture (``ViT-B-32-quickgelu``), ``hf-hub:ORGANISATION/REPOSITORY``,
            ``local-dir:FOLDER`` with ``open_clip_config.json`` and weights, or ``demo``, the model in this package.
        pretrained: a published tag (``openai``) or a weight file, for architectures only.
        random_init: seeded random weights, for benchmarks.
        quickgelu: whether a weight file was trained with QuickGELU; needed only where that cannot be known.
        preprocess: ``mean``, ``std`` (per channel, in 0..1) or ``interpolation`` instead of the model's own.
        label: name in results instead of one made of model and weights.
        channels_last: memory layout that convolutional towers are faster with on GPUs.
        compile: compile the image tower, True or a mode of torch.compile: ``reduce-overhead`` records CUDA graphs.

    Raises:
        ConfigError: an unknown key in ``preprocess``, an unknown mode.
    """

    name: str
    pretrained: str | None = None
    random_init: bool = False
    quickgelu: bool | None = None
    preprocess: dict[str, Any] | None = None
    label: str | None = None
    channels_last: bool = False
    compile: bool | str = False

    def __post_init__(self) -> None:
        for key in self.preprocess or ():
            if key not in ("mean", "std", "interpolation"):
                raise unknown("key of `preprocess`", key, ("mean", "std", "interpolation"))
        if isinstance(self.compile, str) and self.compile not in COMPILE_MODES:
            raise unknown("mode of `compile`", self.compile, COMPILE_MODES)

    @classmethod
    def of(cls, value: EncoderConfig | Mapping[str, Any] | str) -> EncoderConfig:
        """A configuration from itself, a mapping of its fields, or just a name.

        Example:
            >>> EncoderConfig.of({"name": "ViT-B-32-quickgelu", "pretrained": "openai"}).pretrained
            'openai'
        """
        if isinstance(value, EncoderConfig):
            return value
        if isinstance(value, str):
            return cls(value)
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                raise unknown("key of a model", key, known)
        if "name" not in value:
            raise ConfigError(f"A model needs a `name`, got {dict(value)}.")
        return cls(**value)
