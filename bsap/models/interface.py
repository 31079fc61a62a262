"""What every CLIP-like model offers, whichever library it comes from: pixels and texts in, features or scores out.

There are two kinds. A :class:`DualEncoder` has one feature for a picture and one for a text, which are compared by
their cosine. A :class:`PairScorer` reads a picture and a text together and gives one score for the pair.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError
from bsap.models.checkpoint import state_sha256
from bsap.models.config import EncoderConfig
from bsap.models.precision import not_finite

ModelT = TypeVar("ModelT", bound="VisionLanguageModel")

_DESCRIBED = (
    *("label", "quickgelu", "weights_sha256", "weights_hashed", "size", "mean", "std", "interpolation", "dim"),
    *("context_length", "architecture_sha256", "tau"),
)
_TOKEN_TABLES = ("token_embedding", "word_embeddings")  # what open_clip and transformers call them


class VisionLanguageModel(nn.Module):
    """A frozen model that takes uint8 pixels and texts; the common part of both kinds.

    It never trains: its parameters need no gradient and it stays in eval mode. Towers run under the autocast that
    surrounds the call; what leaves is float32.

    Args:
        preprocess: ``size``, ``mean``, ``std`` and ``interpolation`` of the model's own preprocessing.
        described: what besides the weights changes a feature, architecture and tokenizer, as plain values.
        weights_sha256: of the weight file; "" takes the state dictionary's.
        others: the attributes of the same name.

    Attributes:
        config: the settings.
        label: short unique name, for example ``ViT-B-32-quickgelu:openai``.
        model: the library's own model.
        size: (h, w) pixels that the image tower takes.
        mean: three numbers in 0..1, from the model's own preprocessing.
        std: three numbers, from the model's own preprocessing.
        fill: the mean colour in 0..255, for padding and masked background.
        interpolation: the model's own, for example ``bicubic``.
        tau: the model's logit scale.
        dim: D, or 0 for a model that scores pairs.
        context_length: the number of tokens that the text tower reads.
        architecture_sha256: of the architecture's configuration and the tokenizer's description: the same weights give
            other features with other heads or other activations.
        quickgelu: whether the model runs QuickGELU.
        weights_file: where the weights came from, None for random ones.
        weights_sha256: of the weight file, or of the state dictionary where there is no file.
        weights_hashed: which of the two: ``file`` or ``state_dict``.
        truncated: the texts so far that were longer than the context and lost their end.

    Raises:
        ModelError: the logit scale is not a positive, finite number.
    """

    model: Any
    mean_pixel: Tensor
    std_pixel: Tensor
    _image_tower: ClassVar[str]
    """The name of the image tower in ``model``."""

    def __init__(
        self,
        config: EncoderConfig,
        label: str,
        model: Any,
        preprocess: Mapping[str, Any],
        *,
        tau: float,
        dim: int,
        context_length: int,
        described: Sequence[Any],
        quickgelu: bool = False,
        weights_file: Path | None = None,
        weights_sha256: str = "",
    ) -> None:
        super().__init__()
        if not (math.isfinite(tau) and tau > 0):
            raise ModelError(
                f"Model {label!r} has the logit scale {tau}, which is not a positive number; its weights are damaged "
                "or its training overflowed. Use another weight file."
            )
        self.config, self.label, self.model = config, label, model.requires_grad_(False)
        self.tau, self.dim, self.context_length, self.quickgelu = tau, dim, context_length, quickgelu
        size = preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.mean: tuple[float, ...] = tuple(map(float, preprocess["mean"]))
        self.std: tuple[float, ...] = tuple(map(float, preprocess["std"]))
        self.fill: tuple[float, float, float] = (255 * self.mean[0], 255 * self.mean[1], 255 * self.mean[2])
        self.interpolation: str = preprocess["interpolation"]
        self.register_buffer("mean_pixel", torch.tensor(self.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_pixel", torch.tensor(self.std).view(3, 1, 1), persistent=False)
        canonical = json.dumps(described, sort_keys=True, default=str)
        self.architecture_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        self.weights_file, self.weights_hashed = weights_file, "file" if weights_file else "state_dict"
        self.weights_sha256 = weights_sha256 or state_sha256(model.state_dict())
        self.truncated: set[str] = set()
        tables = (module for name, module in model.named_modules() if name.endswith(_TOKEN_TABLES))
        self._vocabulary = next((table.num_embeddings for table in tables if isinstance(table, nn.Embedding)), None)
        visual = getattr(model, self._image_tower)
        if config.channels_last:
            visual.to(memory_format=torch.channels_last)
        if config.compile:
            visual.compile(mode="default" if config.compile is True else config.compile)
        self.eval()

    def extra_repr(self) -> str:
        """The first line of ``repr``: what the model is."""
        return f"{self.label!r}, size={self.size}, dim={self.dim}, tau={self.tau:.4g}"

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.mean_pixel.device

    @property
    def compiled(self) -> bool:
        """Whether the image tower is compiled, again for each new number of pictures."""
        return bool(self.config.compile)

    def train(self: ModelT, mode: bool = True) -> ModelT:
        """Stay in eval mode, whatever the mode of the module that contains this one."""
        super().train(False)
        return self

    def describe(self) -> dict[str, Any]:
        """What results record of the model: settings, weights' SHA-256, preprocessing and tau; plain values only."""
        settings = {key: value for key, value in asdict(self.config).items() if value not in (None, False)}
        facts = ((name, getattr(self, name)) for name in _DESCRIBED)
        return {**settings, **{name: list(value) if isinstance(value, tuple) else value for name, value in facts}}

    def standardize(self, pixels: Tensor) -> Tensor:
        """The image tower's input: (x / 255 - mean) / std.

        Args:
            pixels: (N, 3, h, w) uint8, RGB, of the model's ``size``.

        Returns:
            (N, 3, h, w) float32.

        Raises:
            ValueError: pixels of another type or shape.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, *self.size):
            raise ValueError(
                f"Expected argument `pixels` to be uint8 of shape (N, 3, {self.size[0]}, {self.size[1]}), but got "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}."
            )
        x = (pixels.to(self.device).float() / 255 - self.mean_pixel) / self.std_pixel
        return x.contiguous(memory_format=torch.channels_last) if self.config.channels_last else x

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of N texts; texts longer than the context lose their end and are remembered in ``truncated``.

        Args:
            texts: N sentences.

        Returns:
            (N, L) long on the CPU, L at most ``context_length``.
        """
        raise NotImplementedError

    def drop_image_tower(self) -> None:
        """Free the image tower's memory; only texts can be encoded afterwards."""
        setattr(self.model, self._image_tower, None)

    def _check_ids(self, ids: Tensor, fix: str) -> None:
        """Refuse ids outside the table of tokens, for which a GPU would report a failed assertion."""
        if self._vocabulary is not None and ids.numel() and int(ids.max()) >= self._vocabulary:
            raise ModelError(
                f"The tokenizer of model {self.label!r} gives ids up to {int(ids.max())}, the model knows "
                f"{self._vocabulary}. {fix}"
            )

    def _note_truncated(self, texts: Sequence[str]) -> None:
        if texts and not self.truncated:
            warnings.warn(
                f"Model {self.label!r} reads {self.context_length} tokens: texts such as {min(texts)[:60]!r} lose "
                "their end.",
                stacklevel=3,
            )
        self.truncated |= set(texts)


class DualEncoder(VisionLanguageModel):
    """A frozen model behind two methods, :meth:`encode_image` and :meth:`encode_text`.

    Features are float32 unit vectors, normalised in float32. A family of models overrides :meth:`_images`,
    :meth:`_texts` and :meth:`tokenize`, and names its ``_image_tower``.
    """

    @torch.no_grad()
    def encode_image(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """Encode pictures.

        Args:
            pixels: (N, 3, h, w) uint8, RGB, of the model's ``size``.
            normalize: whether features become unit vectors; otherwise they keep the length that the tower gives.

        Returns:
            (N, D) float32.
        """
        return self._finish(self._images(self.standardize(pixels)) if len(pixels) else None, normalize)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, normalize: bool = True, chunk: int | None = None) -> Tensor:
        """Encode sentences; see :class:`bsap.features.texts.TextCache` for encoding each only once.

        Args:
            texts: N sentences, templates already applied.
            normalize: whether features become unit vectors; otherwise they keep the length that the tower gives.
            chunk: sentences per run of the tower; None: 1,024 on a CUDA device, where 256 leave it half idle, else 256.

        Returns:
            (N, D) float32.

        Raises:
            ModelError: a feature is not finite.
        """
        chunk = chunk or (1024 if self.device.type == "cuda" else 256)
        features = self._finish(self._texts(texts, chunk) if texts else None, normalize)
        if not bool(features.isfinite().all()):
            raise not_finite(self.label, "text features")
        return features

    def _images(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) float32, standardised, to (N, D)."""
        raise NotImplementedError

    def _texts(self, texts: Sequence[str], chunk: int) -> Tensor:
        """At least one sentence to (N, D)."""
        raise NotImplementedError

    def _finish(self, features: Tensor | None, normalize: bool) -> Tensor:
        if features is None:
            return torch.empty((0, self.dim), device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(features.float(), dim=-1) if normalize else features.float()


class PairScorer(VisionLanguageModel):
    """A frozen model that reads a picture and a text together by cross-attention.

    Its score is the log-odds that the two match, which is the logit itself: tau is 1 and ``dim`` is 0. It has no
    features, so that region banks, learned banks, views inside the encoder and ``bsap fit`` do not work with it. A
    family of models overrides :meth:`encode_image`, :meth:`score` and :meth:`tokenize`, and names its ``_image_tower``.
    """

    def encode_image(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """What the text side attends to, computed once for each picture.

        Args:
            pixels: (N, 3, h, w) uint8, RGB, of the model's ``size``.
            normalize: has no effect, because these are no features.

        Returns:
            (N, S), flat, in the type of the surrounding autocast.
        """
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str], *, normalize: bool = True) -> Tensor:
        """A text alone has no feature.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"Model {self.label!r} scores pairs of regions and texts and has no features. Evaluate it with "
            "`bsap test`, or use another model."
        )

    def score(self, states: Tensor, texts: Sequence[str]) -> Tensor:
        """The log-odds that picture n matches text n.

        Args:
            states: (N, S) from :meth:`encode_image`.
            texts: N sentences, templates already applied.

        Returns:
            (N,) float32.

        Raises:
            ValueError: another number of texts than of pictures.
        """
        raise NotImplementedError
