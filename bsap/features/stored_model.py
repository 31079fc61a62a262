"""A model of an earlier run, known without loading it: enough to find its stored features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bsap.errors import ConfigError
from bsap.models.config import EncoderConfig
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.load import load_model


@dataclass
class StoredModel:
    """Stands in for an :class:`~bsap.models.interface.DualEncoder` where all region features are stored.

    The model is loaded only when a text is asked for that no run has encoded; only its text tower is kept.

    Attributes:
        config: the settings that load the model.
        truncated: the texts so far that lost their end; empty while the model is not loaded.

    The other attributes are those of the encoder.
    """

    config: EncoderConfig
    label: str
    weights_sha256: str
    quickgelu: bool
    context_length: int
    architecture_sha256: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    dim: int
    tau: float
    truncated: set[str] = field(default_factory=set)
    _encoder: DualEncoder | None = None

    @classmethod
    def of(cls, description: Mapping[str, Any], config: Mapping[str, Any] | str) -> StoredModel:
        """The model that an entry of ``models`` in ``results.json`` describes, with its settings in the same run.

        Raises:
            ConfigError: the model scores pairs and has no features that could be stored.
        """
        if EncoderConfig.of(config).mode == "itm":
            raise ConfigError(
                f"Model {description['label']!r} scores pairs of regions and texts and stores no features. Run "
                "`bsap test` with other settings; the scores of known pairs are reused."
            )
        known = {f.name for f in fields(cls)} - {"config", "truncated", "_encoder"}
        return cls(EncoderConfig.of(config), **{name: description[name] for name in known})

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """No ids: texts whose features are stored were tokenised in the run that stored them."""
        return torch.zeros(len(texts), 0, dtype=torch.long)

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """(N, D) float32 features of N texts; loads the model at the first call.

        Raises:
            ConfigError: the settings now load other weights than in the run.
        """
        if self._encoder is None:
            encoder = load_model(self.config)
            assert isinstance(encoder, DualEncoder)
            if encoder.weights_sha256 != self.weights_sha256:
                raise ConfigError(
                    f"Model {encoder.label} has other weights than in the run: SHA-256 {encoder.weights_sha256[:12]} "
                    f"instead of {self.weights_sha256[:12]}. Restore the weights, or run `bsap test` again."
                )
            encoder.drop_image_tower()
            self._encoder = encoder
        return self._encoder.encode_text(texts, normalize=normalize)


Model: TypeAlias = DualEncoder | PairScorer | StoredModel
"""What an ensemble is made of."""
