"""What makes a run the same run: settings that change a number, and the content of what they name."""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from bsap.datamodules.base import scene_data
from bsap.datamodules.scene import Expression
from bsap.features.cache import masks_bytes, regions_digest, view_code
from bsap.runs.settings import SPEED_SETTINGS, digest, plain

if TYPE_CHECKING:
    from bsap.module import BSAPModule


def resolved_settings(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What makes a result: settings of data and model, and the precision; not how many processes shared the work."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return {
        "seed_everything": int(seed or 0),
        "trainer": {"precision": str(trainer.precision)},
        "data": plain(scene_data(trainer).settings),
        "model": module.settings,
    }


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that change a number: those of speed and memory do not."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items() if key != "run"}
    kept["data"].pop("num_workers", None)
    kept["data"].pop("batch_size", None)
    for name in SPEED_SETTINGS:
        kept["model"].pop(name, None)
    kept["model"]["encoders"] = [
        {key: value for key, value in encoder.items() if key not in ("compile", "channels_last")}
        for encoder in kept["model"].get("encoders") or ()
    ]
    return kept


def origin(trainer: Trainer, module: BSAPModule) -> dict[str, Any]:
    """Digests of what the settings name: expressions, referents and proposals, weights, and the bank."""
    data = scene_data(trainer)
    seen = [
        [s.image_id, regions_digest(s, with_masks=True), [_expression(e) for e in s.expressions]] for s in data.scenes
    ]
    bank = module.bank
    return {
        "data": plain(asdict(data.summary)),
        "expressions": digest(seen),
        "weights": {encoder.label: encoder.weights_sha256 for encoder in module.encoders},
        "architectures": {encoder.label: encoder.architecture_sha256 for encoder in module.encoders},
        "views": {view.name: view_code(view) for view in module.views},
        "bank": None if bank is None else digest([bank.name, bank.prompts, _features_digest(bank.features)]),
    }


def _expression(expression: Expression) -> list[Any]:
    """What an expression is measured by."""
    referent = expression.referent
    masks = [None if mask is None else masks_bytes(mask).hex() for mask in referent.masks]
    return [expression.id, expression.text, expression.phrase, list(referent.ann_ids), referent.boxes.tolist(), masks]


def _features_digest(features: Tensor | None) -> str | None:
    return None if features is None else sha256(features.cpu().numpy().tobytes()).hexdigest()
