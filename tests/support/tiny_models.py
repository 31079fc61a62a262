"""Tiny models of each family of transformers, saved as people save theirs: weights, processor and tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.normalizers import Lowercase

OLD = transformers.__version__.startswith("4.")
SENTENCE = "a photo of the left right dog cat red blue green man woman in on thing person car bus boat bird"
WORDS = SENTENCE.split()
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**VISION, "vocab_size": 48}
IMAGE = {"image_size": 32, "patch_size": 8}


def words(special: list[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate([*special, *WORDS])}


def bert_tokenizer(limit: int = 16):
    vocabulary = words(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"])
    if OLD:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary))
            return transformers.BertTokenizerFast(vocab_file=f"{folder}/vocab.txt", model_max_length=limit)
    return transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=limit)


def end_tokenizer(*, start: str | None, limit: int = 16, pad: str = "<pad>", ids=("input_ids", "attention_mask")):
    """Words between a start and an end token, the end token first in the vocabulary after padding."""
    special = [pad, "<unk>", *([start] if start else [])]
    vocabulary = words(special)
    vocabulary["</s>"] = len(vocabulary)  # the greatest id, which CLIP takes for the end
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = [*([start] if start else []), "</s>"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A </s>" if start else "$A </s>", special_tokens=[(name, vocabulary[name]) for name in names]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token=pad, eos_token="</s>", bos_token=start,
        model_max_length=limit, model_input_names=list(ids),
    )  # fmt: skip


def clip(context: int = 16):
    tokenizer = end_tokenizer(start="<s>", limit=context)
    end = tokenizer.eos_token_id
    text = {**TEXT, "max_position_embeddings": context, "eos_token_id": end, "bos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config={**VISION, **IMAGE}, projection_dim=24)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return transformers.CLIPModel(config), tokenizer, processor


def long_clip():
    return clip(context=40)


def metaclip_2():
    tokenizer = end_tokenizer(start="<s>")
    text = {**TEXT, "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id, "hidden_act": "quick_gelu"}
    config = transformers.MetaClip2Config(text_config=text, vision_config={**VISION, **IMAGE}, projection_dim=24)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return transformers.MetaClip2Model(config), tokenizer, processor


def siglip():
    text = {**TEXT, "max_position_embeddings": 16, "projection_size": 32}
    config = transformers.SiglipConfig(text_config=text, vision_config={**VISION, **IMAGE})
    processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return transformers.SiglipModel(config), end_tokenizer(start=None, ids=["input_ids"]), processor


def siglip2():
    text = {**TEXT, "max_position_embeddings": 48, "projection_size": 32}
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    if OLD:
        bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True))
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            pad_token="<pad>",
            unk_token="<unk>",
            padding_side="left",
            model_input_names=["input_ids", "attention_mask"],
        )
    else:
        tokenizer = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=[])
    config = transformers.Siglip2Config(text_config=text, vision_config={**VISION, "num_patches": 16, "patch_size": 8})
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return transformers.Siglip2Model(config), tokenizer, processor


def align():
    vision = {
        "image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 24, "kernel_sizes": [3],
        "in_channels": [32], "out_channels": [24], "depthwise_padding": [], "strides": [1], "num_block_repeats": [1],
        "expand_ratios": [1],
    }  # fmt: skip
    text = {**TEXT, "max_position_embeddings": 96}
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=24)
    processor = transformers.EfficientNetImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True, resample=2,
        rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False,
    )  # fmt: skip
    return transformers.AlignModel(config), bert_tokenizer(limit=96), processor


def blip():
    text = {**TEXT, "max_position_embeddings": 16, "encoder_hidden_size": 32, "pad_token_id": 0, "bos_token_id": 5}
    config = transformers.BlipConfig(text_config=text, vision_config={**VISION, **IMAGE}, image_text_hidden_size=24)
    processor = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    return transformers.BlipForImageTextRetrieval(config), bert_tokenizer(), processor


def chinese_clip():
    """For the adapter that takes any model with features."""
    text = {**TEXT, "max_position_embeddings": 16, "type_vocab_size": 2}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config={**VISION, **IMAGE}, projection_dim=24)
    processor = transformers.ChineseCLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
    )
    return transformers.ChineseCLIPModel(config), bert_tokenizer(), processor


MAKE = {
    "clip": clip, "long_clip": long_clip, "metaclip_2": metaclip_2, "siglip": siglip, "siglip2": siglip2,
    "align": align, "blip": blip, "chinese_clip": chinese_clip,
}  # fmt: skip


def save(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny model of a family, with weights large enough that every part counts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, tokenizer, processor = MAKE[family]()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            elif name in ("logit_scale", "temperature"):
                parameter.data.fill_({"logit_scale": 3.0, "temperature": 0.05}[name])
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder
