"""A model that finds in pictures what sentences mean, in a few lines of Python."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bsap.datamodules.batch import collate
from bsap.datamodules.scene import Expression, Referent, Scene
from bsap.errors import ConfigError, check_names
from bsap.features.ensemble import Ensemble
from bsap.grounding.inputs import to_pixels, to_proposals
from bsap.models.config import EncoderConfig
from bsap.models.interface import DualEncoder, PairScorer
from bsap.models.load import load_model
from bsap.models.precision import autocast, check_precision
from bsap.prompts.banks import load_bank
from bsap.prompts.templates import Templates
from bsap.relations.reading import RelationReader, asked, join_all
from bsap.relations.settings import Relations, relation_settings
from bsap.reports.scene_picture import draw_scene
from bsap.scoring import make_scorer, scorer_name
from bsap.scoring.registry import ScorerSpec
from bsap.views import make_view


@dataclass(frozen=True)
class Answer:
    """What one sentence means.

    Attributes:
        text: the sentence.
        region: the index of the chosen region.
        box: the region's box, xyxy in pixels.
        probability: of the chosen region; for BSAP over texts, for most other scorers over regions.
        scores: R scores, to be ranked.
        probabilities: R probabilities.
    """

    text: str
    region: int
    box: tuple[float, float, float, float]
    probability: float
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Grounding:
    """The answers for one picture.

    Attributes:
        answers: one for each sentence, in order.
        boxes: (R, 4) the regions' boxes.
        scorer: the scorer's name.
        image: the picture.
    """

    answers: tuple[Answer, ...]
    boxes: np.ndarray[Any, Any] = field(repr=False)
    scorer: str
    image: Image.Image = field(repr=False)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Answer:
        return self.answers[index]

    def picture(self, index: int = 0, *, width: int = 480) -> Image.Image:
        """The picture with its regions and the chosen one.

        Args:
            index: of the sentence.
            width: pixels of the result.
        """
        if not -len(self) <= index < len(self):
            raise ValueError(
                f"Expected argument `index` to be below {len(self)}, one of each sentence, but got {index}."
            )
        answer = self.answers[index]
        choices = {self.scorer: answer.region}
        return draw_scene(self.image, boxes=self.boxes, referent=None, choices=choices, title=answer.text, width=width)

    def _repr_html_(self) -> str:
        """What a notebook shows: each sentence, its box and the picture."""
        rows = []
        for index, answer in enumerate(self.answers):
            stream = io.BytesIO()
            self.picture(index, width=320).save(stream, "PNG")
            source = base64.b64encode(stream.getvalue()).decode()
            box = ", ".join(f"{x:g}" for x in answer.box)
            rows.append(
                f"<figure style='display:inline-block'><img src='data:image/png;base64,{source}'><figcaption>"
                f"{html.escape(answer.text)}: region {answer.region} [{box}], p = {answer.probability:.3f}"
                "</figcaption></figure>"
            )
        return "".join(rows)


class Grounder:
    """Finds the region of a picture that a sentence means.

    Args:
        model: a name (``ViT-B-32-quickgelu:openai``, ``hf:ORGANISATION/NAME``, ``demo``), its settings, or a loaded
            model; a list of them makes an ensemble.
        scorer: as in ``bsap list scorers``, or a scorer.
        bank: the auxiliary prompts, as a list, or a name as in ``bsap list banks``, or a file.
        views: how regions are shown to the model, as in ``bsap list views``.
        templates: the sentence around a query and around an auxiliary prompt.
        resize: how a region becomes the model's square: ``squash``, ``longest`` or ``shortest``.
        relations: whether relations and superlatives in a sentence join its scores: true, or settings.
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``.
        device: for example ``cuda``; None takes a GPU if there is one.

    Raises:
        ConfigError: an unknown name or setting.
        ModelError: a model that cannot be loaded.

    Example:
        >>> from PIL import Image
        >>> grounder = Grounder("demo", bank=["a dog", "a cat"], views="crop", device="cpu")
        >>> found = grounder(Image.new("RGB", (64, 48), "red"), [[0, 0, 20, 20], [10, 10, 60, 40]], "the red box")
        >>> found[0].text, len(found[0].scores)
        ('the red box', 2)
    """

    def __init__(
        self,
        model: Any = "ViT-B-32-quickgelu:openai",
        *,
        scorer: ScorerSpec = "bsap",
        bank: str | Sequence[str] = "coco_categories",
        views: Any = ("crop", "blur"),
        templates: Templates = Templates(),  # noqa: B008 - frozen
        resize: str = "squash",
        relations: bool | dict[str, Any] | Relations = False,
        precision: str = "32-true",
        device: torch.device | str | None = None,
    ) -> None:
        check_precision(precision)
        check_names("resize", [resize], ("squash", "longest", "shortest"))
        self.scorer, self.name, self.precision = make_scorer(scorer), scorer_name(scorer), precision
        if self.scorer.needs_region_bank:
            raise ConfigError(
                f"Scorer {self.name!r} needs regions of other pictures, which a Grounder does not have. Use "
                "`bsap.balance` with `region_bank`, or another scorer."
            )
        self.bank = load_bank(bank) if self.scorer.needs_bank else None
        wanted = relation_settings(relations)
        self.relations = None if wanted is None else RelationReader(wanted)
        if not isinstance(templates, Templates):
            raise ConfigError(
                f"`templates` must be a bsap.Templates, for example Templates('a {{}}'), not {templates!r}."
            )
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
            raise ConfigError(f"`device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        shown = [make_view(view) for view in ([views] if isinstance(views, (str, Mapping)) else views)]
        one = isinstance(model, (str, Mapping, EncoderConfig, DualEncoder, PairScorer))
        models = [
            item if isinstance(item, (DualEncoder, PairScorer)) else load_model(item)
            for item in ([model] if one else model)
        ]
        self.ensemble = Ensemble(
            [item.to(self.device) for item in models],
            shown,
            resize=resize,
            templates=templates,
            precision=precision,
        )

    def __repr__(self) -> str:
        members = ", ".join(member.label for member in self.ensemble.members)
        bank = "no bank" if self.bank is None else f"bank {self.bank.name!r}"
        return f"Grounder({members}; scorer {self.name!r}, {bank}, on {self.device})"

    @torch.no_grad()
    def __call__(self, picture: Any, regions: Any, texts: Any) -> Any:
        """Choose a region for each sentence.

        Args:
            picture: a path, a PIL picture, a NumPy array (H, W, 3) or a tensor (3, H, W); or a list of pictures.
            regions: see :func:`bsap.grounding.inputs.to_proposals`; with a list of pictures, a list of such.
            texts: a sentence or several; with a list of pictures, a list of such.

        Returns:
            A :class:`Grounding`; with a list of pictures, a list of them.

        Raises:
            ValueError: an argument of another type or shape than these.
            DataError: a file that cannot be read as a picture, or masks that a view needs and that are missing.
            ModelError: features that are not finite.
        """
        if not isinstance(picture, (list, tuple)):
            return self._ground([picture], [regions], [texts])[0]
        for name, values in (("regions", regions), ("texts", texts)):
            if not isinstance(values, (list, tuple)) or len(values) != len(picture):
                count = len(values) if isinstance(values, (list, tuple)) else type(values).__name__
                raise ValueError(
                    f"Expected argument `{name}` to be a list of {len(picture)}, one for each picture, but got {count}."
                )
        return self._ground(list(picture), list(regions), list(texts)) if picture else []

    def _ground(self, pictures: list[Any], regions: list[Any], texts: list[Any]) -> list[Grounding]:
        pixels = [to_pixels(picture) for picture in pictures]
        scenes = [
            _scene(image, some, sentences, n)
            for n, (image, some, sentences) in enumerate(zip(pixels, regions, texts, strict=True))
        ]
        batch = collate(list(zip(scenes, pixels, strict=True))).to(self.device)
        with autocast(self.precision, self.device):
            similarities = self.ensemble.similarities(
                replace(batch, scenes=asked(batch.scenes, self.relations)), self.bank
            )
        (scores,), _ = join_all(self.relations, batch.scenes, {self.name: self.scorer(similarities)})
        rank, value, choice = (x.cpu() for x in (scores.rank, scores.value, scores.choice))
        found = []
        for b, scene in enumerate(scenes):
            count = len(scene.proposals)
            answers = tuple(
                Answer(
                    text=expression.text,
                    region=int(choice[b, e]),
                    box=tuple(scene.proposals.boxes[int(choice[b, e])].tolist()),
                    probability=float(value[b, e, choice[b, e]]),
                    scores=tuple(rank[b, e, :count].tolist()),
                    probabilities=tuple(value[b, e, :count].tolist()),
                )
                for e, expression in enumerate(scene.expressions)
            )
            image = Image.fromarray(pixels[b].permute(1, 2, 0).numpy())
            found.append(Grounding(answers, scene.proposals.boxes, self.name, image))
        return found


def _scene(pixels: torch.Tensor, regions: Any, texts: Any, number: int) -> Scene:
    sentences = [texts] if isinstance(texts, str) else texts
    good = isinstance(sentences, (list, tuple)) and sentences
    if not good or not all(isinstance(text, str) and text.strip() for text in sentences):
        raise ValueError(f"Expected argument `texts` to be one sentence or more, none empty, but got {texts!r:.200}.")
    height, width = pixels.shape[1:]
    nothing = Referent(id="", ann_ids=(), boxes=np.zeros((0, 4), np.float32), masks=())
    return Scene(
        image_id=str(number),
        path=Path(f"picture-{number}"),
        width=width,
        height=height,
        proposals=to_proposals(regions, height, width),
        expressions=tuple(Expression(f"{number}/{n}", n, text, nothing) for n, text in enumerate(sentences)),
        texts=tuple(sentences),
    )
