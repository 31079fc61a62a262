"""The families of `transformers` models that bsap reads, and how each differs from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "hf:"
"""Names of models in the format of `transformers` start with it: ``hf:ORGANISATION/NAME`` or ``hf:/FOLDER``."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model.

    Attributes:
        name: as papers call it.
        kind: the ``model_type`` in the model's ``config.json``; "" for all that are not listed.
        architecture: the class in `transformers`; "" takes the one that AutoModel would take.
        example: a name that loads.
        whole_context: whether texts are padded to the context length, because the model was trained on such texts.
            Otherwise they are padded to the longest text of a chunk, which gives the same features faster.
        positions: whether the context is as long as the text tower's table of positions; otherwise the processor and
            the tokenizer limit it too.
        scale: what the cosines are scaled by: ``exp`` of ``logit_scale``, 1 / ``temperature``, or a setting.
        modes: the values of the setting `mode`; empty where there is nothing to choose.
    """

    name: str
    kind: str
    architecture: str
    example: str
    whole_context: bool = False
    positions: bool = True
    scale: Literal["logit_scale", "temperature", "setting"] = "logit_scale"
    modes: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family(name="CLIP", kind="clip", architecture="CLIPModel", example="hf:openai/clip-vit-base-patch32"),
    Family(
        name="SigLIP",
        kind="siglip",
        architecture="SiglipModel",
        example="hf:google/siglip2-base-patch16-224",
        whole_context=True,
    ),
    Family(
        name="SigLIP 2 NaFlex",
        kind="siglip2",
        architecture="Siglip2Model",
        example="hf:google/siglip2-base-patch16-naflex",
        whole_context=True,
    ),
    Family(
        name="MetaCLIP 2",
        kind="metaclip_2",
        architecture="MetaClip2Model",
        example="hf:facebook/metaclip-2-worldwide-huge-quickgelu",
    ),
    Family(
        name="ALIGN",
        kind="align",
        architecture="AlignModel",
        example="hf:kakaobrain/align-base",
        positions=False,
        scale="temperature",
    ),
    Family(
        name="BLIP",
        kind="blip",
        architecture="BlipForImageTextRetrieval",
        example="hf:Salesforce/blip-itm-base-coco",
        positions=False,
        scale="setting",
        modes=("itc", "itm"),
    ),
)
"""The families that the tests cover."""

OTHER = Family(
    name="another model with `get_image_features` and `get_text_features`",
    kind="",
    architecture="",
    example="",
    whole_context=True,
    positions=False,
)
"""Any other model with features for pictures and for texts."""


def family_of(kind: str) -> Family:
    """The family of a ``model_type``."""
    return next((family for family in FAMILIES if family.kind == kind), OTHER)
