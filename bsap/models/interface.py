"""What every CLIP-like model offers, whichever library it comes from: pixels and texts in, features or scores out.

There are two kinds. A :class:`DualEncoder` has one feature for a picture and one for a text, which are compared by
their cosine. A :class:`PairScorer` reads a picture and a text together and gives one score for the pair.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsap.errors import ConfigError, ModelError
from bsap.models.checkpoint import state_sha256
from bsap.models.config import EncoderConfig
from bsap.models.precision import not_finite

ModelT = TypeVar("ModelT", bound="VisionLanguageModel")


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A loaded model and what its own library and files say about it.

    Attributes:
        config: the settings it was loaded from.
        label: short unique name.
        model: the library's model, in eval mode or not.
        size: ``(h, w)`` pixels of its input.
        mean: mean of red, green and blue that its preprocessing subtracts, in 0..1.
        std: standard deviations that it divides by.
        interpolation: how its preprocessing resizes: ``bicubic`` or ``bilinear``.
        tau: the factor of its cosines.
        dim: D, or 0 for a model that scores pairs.
        context_length: the number of tokens that the text tower reads.
        architecture_sha256: of everything besides the weights that changes a feature: architecture and tokenizer.
        quickgelu: whether an open_clip model runs QuickGELU.
        weights_file: where the weights came from, or None.
        weights_sha256: of the weight file; "" takes the state dictionary's.
    """

    config: EncoderConfig
    label: str
    model: Any
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str
    tau: float
    dim: int
    context_length: int
    architecture_sha256: str
    quickgelu: bool = False
    weights_file: Path | None = None
    weights_sha256: str = ""


class VisionLanguageModel(nn.Module):
    """A frozen model that takes uint8 pixels and texts; the common part of both kinds.

    It never trains: its parameters need no gradient and it stays in eval mode. Towers run under the autocast that
    surrounds the call; what leaves is float32.

    Args:
        parts: the loaded model and what is known about it.

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

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.config, self.label = parts.config, parts.label
        self.model = parts.model.requires_grad_(False)
        self.size = parts.size
        self.mean: tuple[float, ...] = tuple(map(float, parts.mean))
        self.std: tuple[float, ...] = tuple(map(float, parts.std))
        self.fill: tuple[float, float, float] = (255 * self.mean[0], 255 * self.mean[1], 255 * self.mean[2])
        self.register_buffer("mean_pixel", torch.tensor(self.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_pixel", torch.tensor(self.std).view(3, 1, 1), persistent=False)
        self.interpolation, self.dim, self.context_length = parts.interpolation, parts.dim, parts.context_length
        self.tau = parts.tau
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ModelError(
                f"Model {self.label!r} has the logit scale {self.tau}, which is not a positive number; its weights are "
                "damaged or its training overflowed. Use another weight file."
            )
        self.architecture_sha256, self.quickgelu = parts.architecture_sha256, parts.quickgelu
        self.weights_file = parts.weights_file
        self.weights_hashed = "file" if parts.weights_file else "state_dict"
        self.weights_sha256 = parts.weights_sha256 or state_sha256(self.model.state_dict())
        self.truncated: set[str] = set()
        visual = self._image_tower()
        if self.config.channels_last:
            visual.to(memory_format=torch.channels_last)
        if self.config.compile:
            visual.compile(mode="default" if self.config.compile is True else self.config.compile)
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
        return {
            **{key: value for key, value in asdict(self.config).items() if value not in (None, False)},
            "label": self.label,
            "quickgelu": self.quickgelu,
            "weights_sha256": self.weights_sha256,
            "weights_hashed": self.weights_hashed,
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "dim": self.dim,
            "context_length": self.context_length,
            "architecture_sha256": self.architecture_sha256,
            "tau": self.tau,
        }

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
        raise NotImplementedError

    def _image_tower(self) -> nn.Module:
        raise NotImplementedError

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
    :meth:`_texts`, :meth:`tokenize`, :meth:`_image_tower` and :meth:`drop_image_tower`.
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
        return self._finish([] if len(pixels) == 0 else [self._images(self.standardize(pixels))], normalize)

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
        features = self._finish([self._texts(texts, chunk)] if texts else [], normalize)
        if not bool(features.isfinite().all()):
            raise not_finite(self.label, "text features")
        return features

    def _images(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) float32, standardised, to (N, D)."""
        raise NotImplementedError

    def _texts(self, texts: Sequence[str], chunk: int) -> Tensor:
        """At least one sentence to (N, D)."""
        raise NotImplementedError

    def _finish(self, features: Sequence[Tensor], normalize: bool) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            if not features:
                return torch.empty((0, self.dim), device=self.device)
            joined = torch.cat(list(features)).float()
            return F.normalize(joined, dim=-1) if normalize else joined


class PairScorer(VisionLanguageModel):
    """A frozen model that reads a picture and a text together by cross-attention.

    Its score is the log-odds that the two match, which is the logit itself: tau is 1 and ``dim`` is 0. It has no
    features, so that region banks, learned banks, views inside the encoder and ``bsap fit`` do not work with it. A
    family of models overrides :meth:`encode_image`, :meth:`score`, :meth:`tokenize`, :meth:`_image_tower` and
    :meth:`drop_image_tower`.
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


def check_tau(config: EncoderConfig, label: str, own: float | None) -> float:
    """The logit scale: the model's own, or the setting `tau` where the model has none.

    Raises:
        ModelError: there is none, or the setting contradicts the model's.
    """
    if own is not None and config.tau is not None:
        raise ModelError(
            f"Model {label!r} has its own logit scale {own:.4g}. Remove `tau: {config.tau}` and set the scorer's "
            "temperature instead."
        )
    if own is None and config.tau is None:
        raise ModelError(
            f"Model {label!r} has no learned temperature. Set `tau`, the factor of its cosines (CLIP's is 100)."
        )
    return own if own is not None else float(config.tau or 0)
