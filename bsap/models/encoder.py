"""Models of open_clip: uint8 pixels and sentences in, float32 unit vectors out."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bsap.errors import ModelError
from bsap.models.checkpoint import build, make_tokenizer
from bsap.models.config import EncoderConfig, Located
from bsap.models.interface import DualEncoder
from bsap.models.text import TextTower, run_text_tower, text_tower
from bsap.models.weights import locate

__all__ = ["Encoder", "EncoderConfig"]


class Encoder(DualEncoder):
    """A frozen open_clip model behind two methods.

    Args:
        config: the model, as :class:`EncoderConfig`, a mapping of its fields, or a name.

    Raises:
        ConfigError: unknown or contradictory settings.
        ModelError: the model, its weights or its tokenizer is missing or does not fit.
    """

    _image_tower = "visual"

    def __init__(self, config: EncoderConfig | Mapping[str, Any] | str) -> None:
        config = EncoderConfig.of(config)
        located = locate(config)
        # The tokenizer first: its absence is found in moments, a model takes seconds to load.
        tokenizer = None if config.random_init else make_tokenizer(located)
        model = build(located)
        super().__init__(
            config,
            located.label,
            model,
            model.visual.preprocess_cfg,
            tau=float(model.logit_scale.detach().float().exp()),
            dim=int(located.architecture["embed_dim"]),
            context_length=int(located.architecture["text_cfg"].get("context_length", 77)),
            described=[dict(located.architecture), _described(tokenizer)],
            quickgelu=located.quickgelu,
            weights_file=located.file,
            weights_sha256=located.sha256,
        )
        self._located: Located | None = located
        self._tokenizer = tokenizer

    @classmethod
    def from_model(
        cls, model: Any, tokenizer: Any, *, label: str, preprocess: Mapping[str, Any] | None = None
    ) -> Encoder:
        """An encoder around an open_clip model that is already built.

        Args:
            model: the model, as ``open_clip.create_model`` returns it.
            tokenizer: as ``open_clip.get_tokenizer`` returns it.
            label: the model's name in results.
            preprocess: ``mean``, ``std`` and ``interpolation`` where they differ from the model's own.

        Raises:
            ModelError: the model is not one of open_clip's.
        """
        own = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
        if own is None or not callable(tokenizer):
            raise ModelError(
                f"Expected an open_clip model with its tokenizer, but got {type(model).__name__} and "
                f"{type(tokenizer).__name__}. Use `open_clip.create_model` and `open_clip.get_tokenizer`."
            )
        context = getattr(model, "context_length", None) or getattr(tokenizer, "context_length", None) or 77
        encoder = cls.__new__(cls)
        DualEncoder.__init__(
            encoder,
            EncoderConfig(label, label=label),
            label,
            model.float(),
            {**own, **(preprocess or {})},
            tau=float(model.logit_scale.detach().float().exp()),
            dim=int(model(text=tokenizer(["a"]))[1].shape[-1]),
            context_length=int(context),
            described=[str(model), _described(tokenizer)],
        )
        encoder._located, encoder._tokenizer = None, tokenizer
        return encoder

    @functools.cached_property
    def _tower(self) -> TextTower | None:
        return text_tower(self.model)

    @property
    def trimmed(self) -> bool:
        """Whether sentences run only to the longest of their chunk."""
        return self._tower is not None and self._tower.trimmable

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, called with texts."""
        if self._tokenizer is None:  # random models are timed on images where no tokenizer may exist
            assert self._located is not None
            self._tokenizer = make_tokenizer(self._located)
        return self._tokenizer

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of N texts, see :meth:`DualEncoder.tokenize`; L = ``context_length``."""
        tokens: Tensor = self.tokenizer(list(texts))
        self._check_ids(tokens, "Set the right `hf_tokenizer_name` in its open_clip_config.json.")
        self._find_truncated(texts, tokens)
        return tokens

    def _images(self, x: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(x, normalize=False)
        return features

    def _texts(self, texts: Sequence[str], chunk: int) -> Tensor:
        """Sentences sorted by length run in chunks, each cut to its longest where that is exact."""
        tokens = self.tokenize(texts)
        if self._tower is None:
            return torch.cat(
                [self.model.encode_text(part.to(self.device), normalize=False) for part in _chunks(tokens, chunk)]
            )
        eot = self._tower.positions(tokens)
        order = eot.argsort(stable=True)
        features = []
        for rows in _chunks(order, chunk):
            length = int(eot[rows].max()) + 1 if self.trimmed else tokens.shape[1]
            ids = tokens[rows, :length].to(self.device)
            embeddings = self._tower.embed(ids)
            features.append(run_text_tower(self.model, embeddings, eot[rows].to(self.device)))
        return torch.cat(features)[order.argsort().to(self.device)]

    def _find_truncated(self, texts: Sequence[str], tokens: Tensor) -> None:
        # A text was cut if one more place would hold one more token. Only full rows can have been; some tokenizers end
        # sentences with their padding id, which leaves a full row one short.
        pad = getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        used = (tokens != pad).sum(dim=1)
        rows = (used >= tokens.shape[1] - 1).nonzero()[:, 0].tolist()
        if not rows:
            return
        longer = self.tokenizer([texts[row] for row in rows], context_length=tokens.shape[1] + 1)
        more = (longer != pad).sum(dim=1) > used[rows]
        self._note_truncated([texts[row] for row, grown in zip(rows, more.tolist(), strict=True) if grown])


def _described(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "tokenizer", type(tokenizer)))


def _chunks(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
