"""The identity of a run: its settings, and the content of the files that they name."""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from lightning.pytorch import Trainer

from bsap.datamodules.base import SceneDataModule, scene_data
from bsap.datamodules.scene import Expression
from bsap.features.cache import masks_bytes, regions_digest, view_code
from bsap.runs.evaluated import Evaluated
from bsap.runs.schema import RunSettings
from bsap.runs.settings import digest, plain


def resolved_settings(trainer: Trainer, model: dict[str, Any]) -> RunSettings:
    """The settings that decide a result: of data and model, and the precision, but not the number of processes."""
    return {
        "seed_everything": int(os.environ.get("PL_GLOBAL_SEED") or 0),
        "trainer": {"precision": str(trainer.precision)},
        "data": plain(scene_data(trainer).settings),
        "model": model,
    }


def origin(data: SceneDataModule, module: Evaluated) -> dict[str, Any]:
    """Digests of what the settings name: expressions, referents and proposals, weights, and the bank."""
    seen = [
        [s.image_id, regions_digest(s, with_masks=True), [_expression(e) for e in s.expressions]] for s in data.scenes
    ]
    bank, features = module.bank, None
    if bank is not None and bank.features is not None:
        features = sha256(bank.features.cpu().numpy().tobytes()).hexdigest()
    models: list[Any] = list(module.encoders)
    found = {
        "data": plain(asdict(data.summary)),
        "expressions": digest(seen),
        "weights": {encoder.label: encoder.weights_sha256 for encoder in models},
        "architectures": {encoder.label: encoder.architecture_sha256 for encoder in models},
        "views": {view.name: view_code(view) for view in module.views},
        "region_bank": None if module.region_bank is None else module.region_bank.describe(),
        "bank": None if bank is None else digest([bank.name, bank.prompts, features]),
    }
    # Runs of earlier versions have no such entry.
    return found | ({"parsers": module.parsers} if module.parsers else {})


def _expression(expression: Expression) -> list[Any]:
    """What an expression is measured by."""
    referent = expression.referent
    masks = [None if mask is None else masks_bytes(mask).hex() for mask in referent.masks]
    return [expression.id, expression.text, expression.phrase, list(referent.ann_ids), referent.boxes.tolist(), masks]
