"""The keys, values and sizes that a model's JSON files may have.

A model folder comes from the network. open_clip, timm and transformers follow some settings to other files, to other
servers and to Python code, so everything outside the tables below is refused before any of them sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bsap.errors import ModelError

PARAMETERS = 10**10
"""The most that a model may have, twice as many as open_clip's largest."""

_LARGEST, _MOST_LAYERS, _CONFIG_BYTES = 1 << 21, 512, 1 << 20
_DROPPED = (
    *("attn_implementation", "auto_map", "dtype", "torch_dtype", "torchscript", "quantization_config"),
    *("return_dict", "output_attentions", "output_hidden_states", "use_return_dict"),
)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and re.fullmatch(pattern, value) is not None


_Kind = tuple[Callable[[Any], bool], str]
_WHOLE: _Kind = (_is_whole, f"a whole number of 0 to {_LARGEST}")
_NUMBER: _Kind = (lambda x: type(x) in (int, float) and abs(x) <= _LARGEST, f"a number of at most {_LARGEST}")
_FLAG: _Kind = (lambda x: type(x) is bool, "true or false")
_WORD: _Kind = (_text(r"[\w.-]{0,100}"), "a plain name of letters, digits, `_`, `.` and `-`")
_CLEANING: _Kind = (_text("canonicalize|lower|whitespace"), "canonicalize, lower or whitespace")
_REPOSITORY: _Kind = (_text(r"\w[\w.-]*(/\w[\w.-]*)?"), "a repository of the Hugging Face hub, `ORGANISATION/NAME`")
_SIZE: _Kind = (
    lambda x: _is_whole(x) or (type(x) is list and 1 <= len(x) <= 4 and all(map(_is_whole, x))),
    f"one to four whole numbers of 0 to {_LARGEST}",
)
_NEEDED = (_WHOLE, _CLEANING)  # the others may be null


def _keys(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


_BLOCKS = {
    **_keys(_FLAG, "final_ln_after_pool output_tokens qk_norm scaled_cosine_attn scale_heads scale_attn_inner"),
    **_keys(_FLAG, "scale_attn scale_fc"),
    **_keys(_NUMBER, "mlp_ratio ls_init_value"),
    **_keys(_WORD, "pool_type block_type"),
    "act_kwargs": {"approximate": _WORD},
    "norm_kwargs": {"eps": _NUMBER, "elementwise_affine": _FLAG, "bias": _FLAG},
}
_VISION = {
    **_BLOCKS,
    **_keys(_WHOLE, "width head_width attn_pooler_queries attn_pooler_heads"),
    **_keys(_SIZE, "layers image_size patch_size"),
    **_keys(_FLAG, "attentional_pool no_ln_pre timm_model_pretrained timm_proj_bias"),
    **_keys(_NUMBER, "patch_dropout timm_drop timm_drop_path"),
    **_keys(_WORD, "pos_embed_type timm_model_name timm_pool timm_proj"),
}
_TEXT = {
    **_BLOCKS,
    **_keys(_WHOLE, "context_length vocab_size width heads layers pad_id eos_id"),
    **_keys(_FLAG, "embed_cls no_causal_mask proj_bias hf_model_pretrained"),
    **_keys(_WORD, "proj_type tokenizer_mode hf_proj_type hf_pooler_type"),
    **_keys(_REPOSITORY, "hf_model_name hf_tokenizer_name"),
    "tokenizer_kwargs": {"clean": _CLEANING, "strip_sep_token": _FLAG},
}
_MODEL = {
    "embed_dim": _WHOLE,
    **_keys(_FLAG, "quick_gelu custom_text nonscalar_logit_scale output_dict"),
    **_keys(_NUMBER, "init_logit_scale init_logit_bias"),
    "vision_cfg": _VISION,
    "text_cfg": _TEXT,
    "multimodal_cfg": {**_TEXT, **_keys(_WHOLE, "dim_head n_queries attn_pooler_heads")},
}


def check_architecture(model: Mapping[str, Any], path: Path) -> None:
    """Refuse a ``model_cfg``, of the ``open_clip_config.json`` at a path, that does more than describe its towers."""
    text = model.get("text_cfg")
    if isinstance(text, dict) and text.get("hf_model_name") == str(path.parent):
        # The model's own folder may hold the text tower's configuration; no other folder is read.
        model = {**model, "text_cfg": {key: value for key, value in text.items() if key != "hf_model_name"}}
    _check(model, _MODEL, "model_cfg", path)
    towers = [model.get(key) or {} for key in ("vision_cfg", "text_cfg", "multimodal_cfg")]
    if sum(_parameters(tower, model["embed_dim"]) for tower in towers) > PARAMETERS:
        raise ModelError(f"{path} describes a model of more than {PARAMETERS:,} parameters. Correct its sizes.")


def _check(given: Mapping[str, Any], known: Mapping[str, Any], where: str, path: Path) -> None:
    for key, value in given.items():
        kind = known.get(key)
        if kind is None:
            raise ModelError(
                f"{path} has an unknown key {key!r:.80} in `{where}`. Remove it. Known: {', '.join(sorted(known))}."
            )
        if isinstance(kind, dict):
            if value is not None and not isinstance(value, dict):
                raise ModelError(f"`{key}` in `{where}` of {path} must be a mapping, but is {value!r:.80}.")
            _check(value or {}, kind, key, path)
        elif not kind[0](value) and (value is not None or kind in _NEEDED):
            raise ModelError(f"`{key}` in `{where}` of {path} must be {kind[1]}, but is {value!r:.80}.")


def _parameters(tower: Mapping[str, Any], embed: int) -> float:
    """Roughly how many parameters a tower has, to refuse sizes that no computer can hold."""

    def size(key: str, usual: int) -> int:
        value = tower.get(key, usual)
        return sum(value) if isinstance(value, list) else value or 0

    width, context, patch = size("width", 768), size("context_length", 77), max(size("patch_size", 16), 1)
    rows = size("vocab_size", 0) + context + size("attn_pooler_queries", 0) + embed
    rows += (size("image_size", 0) // patch) ** 2 + 3 * patch**2
    inner = width * 8 if isinstance(tower.get("layers"), list) else width  # a ResNet's stages grow wider
    blocks: float = size("layers", 12) * max(inner, 1024) ** 2 * (4 + 2 * abs(tower.get("mlp_ratio") or 4))
    return blocks + width * rows + context**2


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a model folder; raises a ModelError where there is none of a sensible size."""
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= _CONFIG_BYTES):
            raise OSError(f"it is not a file of at most {_CONFIG_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelError(f"Model folder {path.parent} has no readable {path.name}: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a mapping, but holds {content!r:.80}.")
    return content


def plain_config(given: Mapping[str, Any], usual: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """The fields of a ``config.json`` of `transformers` that a kind of model has, without those that name other files.

    Other fields can name Python files (``auto_map``) and downloaded kernels (``attn_implementation``).

    Args:
        given: what the file holds.
        usual: the configuration that the kind of model has by default.
        path: of the file, for the message.

    Raises:
        ModelError: a size that no computer can hold.
    """
    kept: dict[str, Any] = {}
    for key, value in given.items():
        if key not in usual or key.startswith("_") or key in _DROPPED:
            continue
        most = _MOST_LAYERS if "layers" in key else _LARGEST
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) > most:
            raise ModelError(f"`{key}` in {path} must be at most {most}, but is {value!r:.80}.")
        nested = isinstance(value, Mapping) and isinstance(usual[key], Mapping) and usual[key]
        kept[key] = plain_config(value, usual[key], path) if nested else value
    return kept


def plain_text_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """:func:`plain_config` of the text tower ``name``, which must be of a kind that open_clip knows."""
    from open_clip.hf_configs import arch_dict
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in arch_dict:
        raise ModelError(f"Text model {name} is of the kind {kind!r:.80}, but open_clip knows {', '.join(arch_dict)}.")
    return {**plain_config(config, CONFIG_MAPPING[kind]().to_dict(), name), "model_type": kind}
