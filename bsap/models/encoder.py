"""A frozen CLIP-like model: uint8 pixels and sentences in, float32 unit vectors out."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsap.errors import ModelError
from bsap.models.checkpoint import build, make_tokenizer, state_sha256
from bsap.models.config import EncoderConfig
from bsap.models.text import run_text_tower, text_tower
from bsap.models.weights import locate

__all__ = ["Encoder", "EncoderConfig"]


class Encoder(nn.Module):
    """A frozen open_clip model behind two methods.

    It never trains: its parameters need no gradient and it stays in eval mode. Towers run under the autocast that
    surrounds the call; features leave as float32 unit vectors, normalised in float32.

    Args:
        config: the model, as :class:`EncoderConfig`, a mapping of its fields, or a name.

    Attributes:
        config: the settings.
        label: short unique name, for example ``ViT-B-32-quickgelu:openai``.
        model: the open_clip model.
        size: (h, w) pixels that :meth:`encode_image` takes.
        mean: pixel statistics of the model's own preprocessing, three numbers.
        std: likewise.
        fill: the mean colour in 0..255, for padding and masked background.
        interpolation: the model's own, for example ``bicubic``.
        tau: the model's logit scale, exp(logit_scale).
        dim: D.
        context_length: tokens that the text tower reads.
        architecture_sha256: of the architecture's configuration and the tokenizer's description: the same weights run
            otherwise with other heads or other activations.
        quickgelu: whether the model runs QuickGELU.
        weights_file: where the weights came from, None for random ones.
        weights_sha256: of the weight file, or of the state dictionary where there is no file.
        weights_hashed: which of the two: ``file`` or ``state_dict``.
        trimmed: whether sentences run only to the longest of their chunk.
        truncated: the texts so far that were longer than the context and lost their end.

    Raises:
        ConfigError: unknown or contradictory settings.
        ModelError: the model, its weights or its tokenizer is missing or does not fit.
    """

    model: Any
    mean_pixel: Tensor
    std_pixel: Tensor

    def __init__(self, config: EncoderConfig | Mapping[str, Any] | str) -> None:
        super().__init__()
        self.config = EncoderConfig.of(config)
        located = locate(self.config)
        self.label = located.label
        # The tokenizer first: its absence is found in moments, a model takes seconds to load.
        self._located = located
        self._tokenizer = None if self.config.random_init else make_tokenizer(located)
        model = build(located)
        self.model = model.requires_grad_(False)
        self.quickgelu = located.quickgelu
        self.weights_file = located.file
        self.weights_hashed = "file" if located.file else "state_dict"
        self.weights_sha256 = located.sha256 or state_sha256(self.model.state_dict())

        preprocess: Mapping[str, Any] = model.visual.preprocess_cfg
        size = preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.mean: tuple[float, ...] = tuple(map(float, preprocess["mean"]))
        self.std: tuple[float, ...] = tuple(map(float, preprocess["std"]))
        self.interpolation: str = preprocess["interpolation"]
        self.fill: tuple[float, float, float] = (255 * self.mean[0], 255 * self.mean[1], 255 * self.mean[2])
        self.register_buffer("mean_pixel", torch.tensor(self.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_pixel", torch.tensor(self.std).view(3, 1, 1), persistent=False)

        self.tau = float(model.logit_scale.detach().float().exp())
        self.dim = int(located.architecture["embed_dim"])
        settled = [dict(located.architecture), str(getattr(self._tokenizer, "tokenizer", type(self._tokenizer)))]
        self.architecture_sha256 = hashlib.sha256(json.dumps(settled, sort_keys=True, default=str).encode()).hexdigest()
        self.context_length = int(located.architecture["text_cfg"].get("context_length", 77))
        self._tower = text_tower(model)
        self.trimmed = self._tower is not None and self._tower.trimmable
        self.truncated: set[str] = set()
        if self.config.channels_last:
            model.visual.to(memory_format=torch.channels_last)
        if self.config.compile:
            model.visual.compile(mode="default" if self.config.compile is True else self.config.compile)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.mean_pixel.device

    @property
    def compiled(self) -> bool:
        """Whether the image tower is compiled, again for each new number of pictures."""
        return bool(self.config.compile)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, called with texts."""
        if self._tokenizer is None:  # random models are timed on images where no tokenizer may exist
            self._tokenizer = make_tokenizer(self._located)
        return self._tokenizer

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode, whatever the module around does."""
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

    @torch.no_grad()
    def encode_image(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """Encode pictures.

        Args:
            pixels: (N, 3, h, w) uint8, RGB, of the model's ``size``.
            normalize: unit vectors; otherwise the tower's own lengths.

        Returns:
            (N, D) float32.
        """
        features = [] if len(pixels) == 0 else [self.model.encode_image(self.standardize(pixels), normalize=False)]
        return self._finish(features, normalize)

    def standardize(self, pixels: Tensor) -> Tensor:
        """The image tower's input: (x / 255 - mean) / std.

        Args:
            pixels: (N, 3, h, w) uint8, RGB, of the model's ``size``.

        Returns:
            (N, 3, h, w) float32.
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
            (N, L) long on the CPU, L = ``context_length``.
        """
        tokens: Tensor = self.tokenizer(list(texts))
        vocabulary = self._vocabulary()
        if vocabulary is not None and int(tokens.max()) >= vocabulary:
            raise ModelError(
                f"The tokenizer of model {self.label!r} gives ids up to {int(tokens.max())}, the model knows "
                f"{vocabulary}; state the right `hf_tokenizer_name` in its open_clip_config.json."
            )
        self._note_truncated(texts, tokens)
        return tokens

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], *, normalize: bool = True, chunk: int = 256) -> Tensor:
        """Encode sentences; see :class:`bsap.features.texts.TextCache` for encoding each only once.

        Sentences are sorted by length and run in chunks, each trimmed to its longest where that is exact.

        Args:
            texts: N sentences, templates already applied.
            normalize: unit vectors; otherwise the tower's own lengths.
            chunk: sentences per run of the tower.

        Returns:
            (N, D) float32.
        """
        if not texts:
            return self._finish([], normalize)
        tokens = self.tokenize(texts)
        if self._tower is None:
            features = [
                self.model.encode_text(part.to(self.device), normalize=False) for part in _chunks(tokens, chunk)
            ]
            return self._finish(features, normalize)
        eot = self._tower.positions(tokens)
        order = eot.argsort(stable=True)
        features = []
        for rows in _chunks(order, chunk):
            length = int(eot[rows].max()) + 1 if self.trimmed else tokens.shape[1]
            ids = tokens[rows, :length].to(self.device)
            embeddings = self._tower.embed(ids)
            features.append(run_text_tower(self.model, embeddings, eot[rows].to(self.device)))
        return self._finish(features, normalize)[order.argsort().to(self.device)]

    def _finish(self, features: Sequence[Tensor], normalize: bool) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            if not features:
                return torch.empty((0, self.dim), device=self.device)
            joined = torch.cat(list(features)).float()
            return F.normalize(joined, dim=-1) if normalize else joined

    def _vocabulary(self) -> int | None:
        text = getattr(self.model, "text", self.model)
        embedding = getattr(text, "token_embedding", None)
        return None if embedding is None else int(embedding.num_embeddings)

    def _note_truncated(self, texts: Sequence[str], tokens: Tensor) -> None:
        # A text was cut if one more place would hold one more token. Only full rows can have been; some tokenizers end
        # sentences with their padding id, which leaves a full row one short.
        pad = getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        used = (tokens != pad).sum(dim=1)
        rows = (used >= tokens.shape[1] - 1).nonzero()[:, 0].tolist()
        if not rows:
            return
        longer = self.tokenizer([texts[row] for row in rows], context_length=tokens.shape[1] + 1)
        more = (longer != pad).sum(dim=1) > used[rows]
        cut = {texts[row] for row, grown in zip(rows, more.tolist(), strict=True) if grown}
        if cut and not self.truncated:
            warnings.warn(
                f"Model {self.label!r} reads {tokens.shape[1]} tokens: texts such as {min(cut)[:60]!r} lose their end.",
                stacklevel=2,
            )
        self.truncated |= cut


def _chunks(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
