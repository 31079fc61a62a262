"""The families of `transformers` models that bsap reads, and how each differs from the others."""

from __future__ import annotations

from dataclasses import dataclass

from bsap.models.config import MODES

PREFIX = "hf:"
"""Names of models in the format of `transformers` start with it: ``hf:ORGANISATION/NAME`` or ``hf:/FOLDER``."""


@dataclass(frozen=True)
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
        divides: whether cosines are divided by the model's ``temperature``, not multiplied by ``exp(logit_scale)``.
        modes: the values of the setting `mode`; empty where there is nothing to choose.
    """

    name: str
    kind: str
    architecture: str
    example: str
    whole_context: bool = False
    positions: bool = True
    divides: bool = False
    modes: tuple[str, ...] = ()


FAMILIES = (
    Family("CLIP", "clip", "CLIPModel", "hf:openai/clip-vit-base-patch32"),
    Family("SigLIP", "siglip", "SiglipModel", "hf:google/siglip2-base-patch16-224", whole_context=True),
    Family("SigLIP 2 NaFlex", "siglip2", "Siglip2Model", "hf:google/siglip2-base-patch16-naflex", whole_context=True),
    Family("MetaCLIP 2", "metaclip_2", "MetaClip2Model", "hf:facebook/metaclip-2-worldwide-huge-quickgelu"),
    Family("ALIGN", "align", "AlignModel", "hf:kakaobrain/align-base", positions=False, divides=True),
    Family(
        "BLIP", "blip", "BlipForImageTextRetrieval", "hf:Salesforce/blip-itm-base-coco", positions=False, modes=MODES
    ),
)
"""The families that the tests cover."""

OTHER = Family(
    "another model with `get_image_features` and `get_text_features`", "", "", "", whole_context=True, positions=False
)
"""Any other model with features for pictures and for texts."""


def family_of(kind: str) -> Family:
    """The family of a ``model_type``."""
    return next((family for family in FAMILIES if family.kind == kind), OTHER)
