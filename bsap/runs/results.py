"""results.json: the metrics with everything that made them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bsap.runs.records import Record
from bsap.runs.settings import SPEED_SETTINGS, digest

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from bsap.datamodules.scene import SplitSummary
    from bsap.module import BSAPModule


def make_results(
    trainer: Trainer,
    module: BSAPModule,
    records: Sequence[Record],
    *,
    summary: SplitSummary,
    settings: dict[str, Any],
    timing: dict[str, Any],
) -> dict[str, Any]:
    """Everything that ``results.json`` says."""
    no_mask = sum(record["status"] == "no_mask" for record in records)
    whole = summary.published in (None, summary.selected) and len(records) == summary.selected
    partial = no_mask > 0 or summary.partial
    bank = module.bank
    return {
        "metrics": module.results,
        "counts": {
            "seen": len(records),
            "selected": summary.selected,
            "published": summary.published,
            "no_proposals": sum(record["n_regions"] == 0 for record in records),
            "no_mask": no_mask,
            "skipped": summary.skipped,
            "texts_cut": sum(record.get("text_cut", False) for record in records),
            "scenes": summary.scenes,
            "regions": summary.regions,
        },
        "complete": whole and not partial,
        "partial": partial,
        "selection": summary.selection,
        "protocol": {
            "dataset": summary.dataset,
            "split_by": summary.split_by,
            "split": summary.split,
            "proposals": summary.proposals,
            "hit": "IoU > 0.5" if module.settings["strict"] else "IoU >= 0.5",
            "bank": None
            if bank is None
            else {
                "name": bank.name,
                "prompts": len(bank.prompts) or None,
                "prompts_digest": digest(bank.prompts) if bank.prompts else None,
                "transductive": bank.transductive,
                "source": bank.source,
                "used_by": [name for name, scorer in module.scorers.items() if scorer.needs_bank],
            },
            **{key: value for key, value in module.settings.items() if key not in ("bank", *SPEED_SETTINGS)},
        },
        "transductive": bank is not None and bank.transductive,
        "models": [encoder.describe() for encoder in module.encoders],  # type: ignore[operator]
        "precision": {"requested": _requested_precision(trainer), "effective": str(trainer.precision)},
        "settings": settings,
        "versions": versions(),
        "timing": {**timing, "processes": trainer.world_size, "device": _device_name(module)},
    }


def made_by(trainer: Trainer, module: BSAPModule) -> dict[str, Any]:
    """What made the records of one attempt at a run, and may be otherwise for the next."""
    return {"processes": trainer.world_size, "device": _device_name(module), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("bsap", "lightning", "open_clip_torch", "pycocotools", "torch", "torchmetrics", "torchvision"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _requested_precision(trainer: Trainer) -> str:
    flag = getattr(getattr(trainer, "_accelerator_connector", None), "_precision_flag", None)
    return str(flag or trainer.precision)


def _device_name(module: BSAPModule) -> str:
    import torch

    if module.device.type == "cuda":
        return torch.cuda.get_device_name(module.device)
    return module.device.type
