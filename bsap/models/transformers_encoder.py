"""CLIP-like models of `transformers`: CLIP, SigLIP, SigLIP 2, MetaCLIP 2, ALIGN, BLIP, and others with features."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bsap.errors import ModelError
from bsap.models.checkpoint import short
from bsap.models.config import EncoderConfig
from bsap.models.interface import DualEncoder, PairScorer, VisionLanguageModel
from bsap.models.transformers_families import OTHER, Family, family_of
from bsap.models.transformers_files import ModelFolder, build_model, load_image_processor, load_tokenizer

_PROBE = 64  # pixels of the pictures that a processor is measured with
_GREYS = (0, 255, 128)
_FILTERS = {2: "bilinear", 3: "bicubic"}
_ENDLESS = 1 << 20  # tokenizers without a limit state an absurd one


def _measure(processor: Any, label: str) -> dict[str, Any]:
    """What an image processor does to a picture, measured by running it on grey ones.

    Returns:
        ``size`` (h, w), ``mean``, ``std`` and ``interpolation``, and whether its output is ``patches``, as of NaFlex.

    Raises:
        ModelError: the processor fails, or does anything else to colours than a mean and a standard deviation.
    """
    outputs = []
    for grey in _GREYS:
        picture = Image.fromarray(np.full((_PROBE, _PROBE, 3), grey, np.uint8))
        try:
            found = processor(images=picture, return_tensors="pt")
            pixels = found["pixel_values"].double()
        except Exception as error:  # processors raise what they like
            raise ModelError(
                f"The preprocessing of model {label!r} fails: {short(error)}. Correct its "
                "preprocessor_config.json, which must state the size of the pictures."
            ) from error
        outputs.append(pixels)
    patches = "spatial_shapes" in found
    if patches:
        side = round((outputs[0].shape[-1] // 3) ** 0.5)
        height, width = (side * int(n) for n in found["spatial_shapes"][0])
        low, high, middle = (pixels[0, 0].view(side, side, 3)[0, 0] for pixels in outputs)
    else:
        if outputs[0].ndim != 4 or outputs[0].shape[:2] != (1, 3):
            raise ModelError(
                f"The preprocessing of model {label!r} gives pixels of shape {tuple(outputs[0].shape)}, but bsap needs "
                "(1, 3, h, w). Use a model that reads one picture at one size."
            )
        height, width = outputs[0].shape[-2:]
        low, high, middle = (pixels[0, :, height // 2, width // 2] for pixels in outputs)
    std = 1 / (high - low)
    mean = -low * std
    if not (std > 0).all() or not torch.allclose(low + (high - low) * _GREYS[2] / 255, middle, atol=1e-4):
        raise ModelError(
            f"The preprocessing of model {label!r} changes colours otherwise than by `image_mean` and `image_std`; "
            "correct its preprocessor_config.json."
        )
    # The file's own numbers where they are what was measured: float32 has rounded them on the way.
    stated = [getattr(processor, name, None) for name in ("image_mean", "image_std")]
    exact = [
        tuple(np.broadcast_to(np.asarray(own, float), 3).tolist())
        if own is not None and np.allclose(own, seen, atol=1e-4)
        else tuple(seen.tolist())
        for own, seen in zip(stated, (mean, std), strict=True)
    ]
    resample = int(getattr(processor, "resample", None) or 0)
    if resample not in _FILTERS:
        raise ModelError(
            f"The preprocessing of model {label!r} resizes by `resample: {resample}`, but bsap has 2 (bilinear) and 3 "
            "(bicubic) only. Correct its preprocessor_config.json."
        )
    size = int(height), int(width)
    return {"size": size, "mean": exact[0], "std": exact[1], "interpolation": _FILTERS[resample], "patches": patches}


class _Transformers(VisionLanguageModel):
    """What both kinds of models of `transformers` have in common: loading, and texts to tokens.

    Args:
        config: the settings.
        found: the model's folder.
    """

    _image_tower = "vision_model"

    def __init__(self, config: EncoderConfig, found: ModelFolder) -> None:
        tokenizer, processor = load_tokenizer(found), load_image_processor(found)
        model, file, sha256 = build_model(found, random_init=config.random_init)
        if found.family is OTHER:
            warnings.warn(
                f"Model {found.label!r} is of the kind {found.config['model_type']!r}, which bsap is not tested with: "
                "compare a few of its features with those that transformers gives.",
                stacklevel=2,
            )
        self._assemble(config, found.label, model, tokenizer, processor, mode=found.mode, file=file, sha256=sha256)

    def _assemble(
        self,
        config: EncoderConfig,
        label: str,
        model: Any,
        tokenizer: Any,
        processor: Any,
        *,
        mode: str,
        file: Path | None = None,
        sha256: str = "",
    ) -> None:
        family = family_of(str(model.config.model_type))
        seen = _measure(processor, label)
        expected = getattr(getattr(model.config, "vision_config", None), "image_size", None)
        anything = seen["patches"] or family is OTHER or family.kind == "align"  # ALIGN's convolutions take any size
        if isinstance(expected, int) and seen["size"] != (expected, expected) and not anything:
            raise ModelError(
                f"Model {label!r} takes pictures of {expected} x {expected} pixels, but its preprocessing makes "
                f"{seen['size'][0]} x {seen['size'][1]}. Correct its preprocessor_config.json."
            )
        architecture = json.loads(model.config.to_json_string(use_diff=False))
        for key in ("_name_or_path", "transformers_version"):
            architecture.pop(key, None)
        rules = getattr(tokenizer, "backend_tokenizer", None)
        super().__init__(
            config,
            label,
            model,
            {**seen, **(config.preprocess or {})},
            tau=1.0 if isinstance(self, PairScorer) else _scale(config, label, model, family),
            dim=0,
            context_length=_context_length(model, family, tokenizer),
            described=[architecture, str(tokenizer) if rules is None else rules.to_str(), mode],
            weights_file=file,
            weights_sha256=sha256,
        )
        self.family, self._patches, self._tokenizer = family, seen["patches"], tokenizer
        read = getattr(model, "get_text_features", None)
        kinds = read is not None and "token_type_ids" in inspect.signature(read).parameters
        self._unread = () if kinds else ("token_type_ids",)  # some tokenizers give what the model does not take

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids of N texts, see :meth:`DualEncoder.tokenize`."""
        return self._tokens(texts)["input_ids"]

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the tokenizer gives, as the model was trained with it; on the CPU."""
        whole = self.family.whole_context
        try:
            found = self._tokenizer(
                list(texts),
                padding="max_length" if whole else "longest",
                truncation=True,
                max_length=self.context_length,
                return_tensors="pt",
            )
        except Exception as error:  # tokenizers raise what they like
            raise ModelError(
                f"The tokenizer of model {self.label!r} fails: {short(error)}. Put the model's own tokenizer into its "
                "folder."
            ) from error
        ids: Tensor = found["input_ids"]
        self._check_ids(ids, "Put the model's own tokenizer into its folder.")
        if ids.shape[1] >= self.context_length:
            lengths = map(len, self._tokenizer(list(texts), verbose=False)["input_ids"])
            cut = [text for text, length in zip(texts, lengths, strict=True) if length > self.context_length]
            if cut:
                self._note_truncated(cut)
        return {key: value for key, value in found.items() if isinstance(value, Tensor) and key not in self._unread}

    def _chunks(self, texts: Sequence[str], size: int) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(texts), size):
            tokens = self._tokens(texts[start : start + size])
            yield {key: value.to(self.device) for key, value in tokens.items()}


class TransformersEncoder(_Transformers, DualEncoder):
    """A frozen model of `transformers` with a feature for a picture and one for a text.

    Attributes:
        family: the family of the model.

    Raises:
        ModelError: the model, its weights, its tokenizer or its preprocessing is missing or does not fit.
    """

    @classmethod
    def from_model(
        cls, model: Any, tokenizer: Any, *, label: str, preprocess: Any, tau: float | None = None
    ) -> TransformersEncoder:
        """An encoder around a model of `transformers` that is already built.

        Args:
            model: the model.
            tokenizer: its tokenizer.
            label: the model's name in results.
            preprocess: its image processor.
            tau: the factor of its cosines, for models without one.
        """
        encoder = cls.__new__(cls)
        mode = "itc" if family_of(str(model.config.model_type)).modes else ""
        config = EncoderConfig(label, label=label, tau=tau)
        encoder._assemble(config, label, model.float(), tokenizer, preprocess, mode=mode)
        return encoder

    def _assemble(self, *args: Any, **options: Any) -> None:
        super()._assemble(*args, **options)
        self.dim = int(self.encode_text(["a"]).shape[1])
        try:
            seen = self.encode_image(torch.zeros(1, 3, *self.size, dtype=torch.uint8))
        except Exception as error:  # a picture of a size that the tower does not take
            raise ModelError(
                f"Model {self.label!r} cannot encode a picture of {self.size[0]} x {self.size[1]} pixels, the size in "
                f"its preprocessor_config.json: {short(error)}"
            ) from error
        if seen.shape[1] != self.dim:
            raise ModelError(
                f"Model {self.label!r} gives pictures {seen.shape[1]} features and texts {self.dim}, which cannot be "
                "compared."
            )

    def _images(self, x: Tensor) -> Tensor:
        if self.family.kind == "blip":
            return _first(self.model.vision_proj, self.model.vision_model(pixel_values=x))
        if self._patches:
            return _feature(self.model.get_image_features(**patchify(x, self.model.config.vision_config.patch_size)))
        return _feature(self.model.get_image_features(pixel_values=x))

    def _texts(self, texts: Sequence[str], chunk: int) -> Tensor:
        features = []
        for tokens in self._chunks(texts, chunk):
            if self.family.kind == "blip":
                output = self.model.text_encoder(tokens["input_ids"], attention_mask=tokens.get("attention_mask"))
                features.append(_first(self.model.text_proj, output))
            else:
                features.append(_feature(self.model.get_text_features(**tokens)))
        return torch.cat(features)


class BLIPPairScorer(_Transformers, PairScorer):
    """BLIP's image-text matching head, which reads a picture and a text by cross-attention.

    Source: Li et al., BLIP, ICML 2022, arXiv 2201.12086.
    """

    @torch.no_grad()
    def encode_image(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """(N, S) outputs of the image tower, flat, for (N, 3, h, w) uint8 pixels."""
        states: Tensor = self.model.vision_model(pixel_values=self.standardize(pixels)).last_hidden_state
        return states.flatten(1)

    @torch.no_grad()
    def score(self, states: Tensor, texts: Sequence[str]) -> Tensor:
        """(N,) float32 log-odds that picture n, (N, S), matches text n."""
        if len(states) != len(texts):
            raise ValueError(f"Expected argument `texts` to be {len(states)} texts, but got {len(texts)}.")
        if not texts:
            return torch.zeros(0, device=self.device)
        (tokens,) = self._chunks(texts, len(texts))
        picture = states.view(len(states), -1, self.model.config.vision_config.hidden_size)
        # The submodules: the model's own forward makes this mask on the CPU.
        hidden = self.model.text_encoder(
            tokens["input_ids"],
            attention_mask=tokens.get("attention_mask"),
            encoder_hidden_states=picture,
            encoder_attention_mask=torch.ones(picture.shape[:2], dtype=torch.long, device=states.device),
        ).last_hidden_state
        logits = self.model.itm_head(hidden[:, 0]).float()
        odds: Tensor = logits[:, 1] - logits[:, 0]
        return odds


def patchify(x: Tensor, patch: int) -> dict[str, Tensor]:
    """Pictures, (N, 3, h, w), as SigLIP 2 NaFlex reads them: flat patches, all real, and their number on each side."""
    count, _, height, width = x.shape
    rows, columns = height // patch, width // patch
    flat = x.reshape(count, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
    return {
        "pixel_values": flat,
        "pixel_attention_mask": torch.ones(flat.shape[:2], dtype=torch.long, device=x.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=x.device),
    }


def _feature(output: Any) -> Tensor:
    """A tensor in `transformers` 4, an output object in 5."""
    feature: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return feature


def _first(layer: nn.Module, output: Any) -> Tensor:
    feature: Tensor = layer(output.last_hidden_state[:, 0])
    return feature


def _scale(config: EncoderConfig, label: str, model: Any, family: Family) -> float:
    """The logit scale: the model's own, or the setting `tau` where the model has none."""
    if family.divides:
        own = 1 / float(model.temperature.detach())
    elif (scale := getattr(model, "logit_scale", None)) is not None:
        own = float(scale.detach().float().exp())
    elif config.tau is not None:
        return float(config.tau)
    else:
        raise ModelError(
            f"Model {label!r} has no learned temperature. Set `tau`, the factor of its cosines (CLIP's is 100)."
        )
    if config.tau is not None:
        raise ModelError(
            f"Model {label!r} has its own logit scale {own:.4g}. Remove `tau: {config.tau}` and set the scorer's "
            "temperature instead."
        )
    return own


def _context_length(model: Any, family: Family, tokenizer: Any) -> int:
    text: Any = getattr(model.config, "text_config", model.config)
    limits = [getattr(text, "max_position_embeddings", None)]
    if not family.positions:
        limits.append(tokenizer.model_max_length)
    if family.kind == "align":
        limits.append(64)  # AlignProcessor's own
    known = [int(limit) for limit in limits if limit is not None and 0 < int(limit) < _ENDLESS]
    if not known:
        raise ModelError("The model states no context length; add `model_max_length` to its tokenizer_config.json.")
    return min(known)
