"""The content of a run folder's files as types, which all writers build and all readers check.

``predictions.jsonl`` holds a :class:`Record` a line, ``results.json`` one :class:`Results`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, get_args

from typing_extensions import NotRequired

from bsap.relations.understood import Understood

Task = Literal["rec", "ris"]
TASKS: tuple[Task, ...] = get_args(Task)

_LARGEST = 1e300  # larger ones are integers that no float holds


def _countable(values: dict[str, Any]) -> bool:
    return all(type(values.get(name)) is int for name in ("n", "missing")) and not any(
        abs(value) > _LARGEST for value in values.values()
    )


Values = Annotated[dict[str, float | int], _countable]
"""``{metric: value}``, with the number of samples ``n`` and of those without proposals ``missing``; NaN without any."""

Metrics = Annotated[dict[str, Annotated[dict[str, Values], bool]], bool]
"""``{task: {scorer: {metric: value}}}``, at least one of each."""

Count = Annotated[int, lambda value: 0 <= value < 2**63]
Finite = Annotated[float, lambda value: abs(value) < _LARGEST]
Share = Annotated[float, lambda value: 0 <= value <= 1]
Box = Annotated[list[Finite], lambda box: len(box) == 4]


# --- predictions.jsonl ------------------------------------------------------------------------------------------------


class Choice(TypedDict):
    """The choice of one scorer with its overlap with the referent: for REC ``box_iou``, for RIS pixels.

    ``region``, ``score`` and ``box`` are None if the picture has no proposal.

    With ``run.all_scores``, ``scores`` holds the score of every region in the order of the proposals.

    Where an answer may hold no region or several (``model.answer``), ``regions`` and ``boxes`` hold it, the best first;
    ``matched`` counts its boxes that match a target, pixels are those of its union, and ``region`` is still the best
    region, whether it is in the answer or not. ``values`` then holds with ``run.all_scores`` what else a
    threshold can be set over, see :class:`~bsap.scoring.answers.AnswerRule`.

    Where parts of the sentence were scored, ``steps`` holds the best region after each of :class:`Understood`'s
    ``steps``; None where the step left no region.
    """

    region: Count | None
    score: Finite | None
    box: Box | None
    scores: NotRequired[list[Finite]]
    steps: NotRequired[list[Count | None]]
    box_iou: NotRequired[Share]
    intersection: NotRequired[Count]
    union: NotRequired[Count]
    regions: NotRequired[list[Count]]
    boxes: NotRequired[list[Box]]
    matched: NotRequired[Count]
    values: NotRequired[dict[str, list[Finite]]]


class RecordedReferent(TypedDict):
    """What an expression means; without annotations, nothing or what is not known.

    ``areas`` are the pixels of each annotation's mask, for RIS. ``match`` is there where all annotations together are
    the answer, and where nothing is.
    """

    id: str
    ann_ids: list[str]
    boxes: list[Box]
    areas: NotRequired[list[Count]]
    match: NotRequired[Literal["any", "all"]]


class Record(TypedDict):
    """One expression with what every scorer chose, and with ``model.relations`` what was understood of it."""

    id: str
    picture: str
    image_id: str
    text: str
    n_regions: Count
    status: Literal["ok", "no_proposals", "no_mask"]
    referent: RecordedReferent
    category: str | None
    text_cut: bool
    words: Count
    distractors: Count | None
    scorers: dict[str, Choice]
    relations: NotRequired[Understood]


# --- results.json -----------------------------------------------------------------------------------------------------


class Counts(TypedDict):
    """Expressions, scenes and regions of a run; see :class:`~bsap.datamodules.scene.SplitSummary`."""

    seen: Count
    selected: Count
    published: Count | None
    no_proposals: Count
    no_mask: Count
    skipped: Count
    texts_cut: Count
    scenes: Count
    regions: Count


class BankInfo(TypedDict):
    """The auxiliary prompts; ``prompts`` counts them; ``too_small_for``: scorers that want more, and how many."""

    name: str
    prompts: Count | None
    prompts_digest: str | None
    transductive: bool
    source: str
    used_by: list[str]
    too_small_for: NotRequired[dict[str, Count]]


class RelationCounts(TypedDict):
    """How many sentences have which status and which relation, and of how many a relation left no region."""

    sentences: dict[str, Count]
    found: dict[str, Count]
    contradictions: Count


class EncoderSettings(TypedDict):
    """The settings of one encoder; more keys than these."""

    name: str


class Protocol(TypedDict):
    """How numbers were made: data, proposals, bank, and every setting of the model that changes a number."""

    dataset: str
    split_by: str
    split: str
    proposals: dict[str, Any]
    hit: str
    bank: BankInfo | None
    encoders: list[EncoderSettings]
    views: list[Any]


class ModelInfo(TypedDict):
    """One encoder, as :meth:`~bsap.models.interface.DualEncoder.describe` tells it; more keys than these."""

    label: str
    weights_sha256: str
    size: list[int]
    mean: list[Finite]
    interpolation: str


class Precision(TypedDict):
    """The precision of the encoders: as given to the Trainer, and as it ran."""

    requested: str
    effective: str


class RunSettings(TypedDict):
    """The resolved settings: what ``config.yaml`` holds without its section ``run``."""

    seed_everything: int
    trainer: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]


class MadeBy(TypedDict):
    """What computed the numbers.

    ``pack``: how many regions were encoded at once. ``pack_too_large``: how many were tried before, for which the first
    process's device had too little memory.
    """

    processes: Count
    device: str
    versions: dict[str, str]
    pack: NotRequired[Count]
    pack_too_large: NotRequired[Count]


class Attempt(MadeBy):
    """One attempt at a run, with the number of expressions that it recorded."""

    expressions: Count


class Timing(TypedDict):
    """Seconds of the last attempt, and what every attempt ran on."""

    seconds: Finite
    resumed_expressions: Count
    attempts: list[Attempt]
    processes: Count
    device: str


class Results(TypedDict):
    """The metrics of a run and everything that made them.

    ``complete``: all published expressions were seen. ``partial``: something was left out. ``transductive``: the bank
    was made from the evaluated split. The SHA-256s are those of ``predictions.jsonl`` and of :data:`NUMBERS`; runs of
    version 0.1.0 have none. ``breakdown`` holds the tables of ``run.breakdown`` as ``{field: {value: metrics}}``, and
    ``relations``, with ``model.relations``, how many sentences have which.
    """

    metrics: Metrics
    counts: Counts
    complete: bool
    partial: bool
    selection: dict[str, Any]
    protocol: Protocol
    transductive: bool
    models: list[ModelInfo]
    precision: Precision
    settings: RunSettings
    versions: dict[str, str]
    timing: Timing
    predictions_sha256: NotRequired[str]
    numbers_sha256: NotRequired[str]
    breakdown: NotRequired[dict[str, dict[str, Metrics]]]
    relations: NotRequired[RelationCounts]


NUMBERS = ("metrics", "counts", "breakdown", "complete", "partial", "transductive")
"""What ``numbers_sha256`` covers. Paths in the settings may change when data move to another machine."""
