"""A model from its settings, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bsap.errors import ModelError
from bsap.models.config import EncoderConfig
from bsap.models.encoder import Encoder
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.transformers_families import PREFIX


def load_model(config: EncoderConfig | Mapping[str, Any] | str) -> DualEncoder | PairScorer:
    """Load a model.

    Args:
        config: the settings, a mapping of them, or a name: ``demo``, ``ViT-B-32-quickgelu:openai``, ``hf:/FOLDER``.

    Returns:
        A dual encoder, or a pair scorer for BLIP with ``mode: itm``.

    Raises:
        ConfigError: unknown or contradictory settings.
        ModelError: the model, its weights or its tokenizer is missing or does not fit.

    Example:
        >>> load_model("demo").encode_text(["a dog"]).shape
        torch.Size([1, 128])
    """
    config = EncoderConfig.of(config)
    if not config.name.startswith(PREFIX):
        return Encoder(config)
    try:
        import transformers  # noqa: F401 - an optional package
    except ImportError as error:
        raise ModelError(f"Model {config.name!r} needs the package transformers: `pip install 'bsap[hf]'`.") from error
    from bsap.models.transformers_encoder import BLIPPairScorer, TransformersEncoder
    from bsap.models.transformers_files import find_model

    found = find_model(config)
    return BLIPPairScorer(config, found) if found.mode == "itm" else TransformersEncoder(config, found)
