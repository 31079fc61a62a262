"""Makes ``results.json``: the metrics with everything that made them."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch

from bsap.datamodules.scene import SplitSummary
from bsap.prompts.banks import too_small_for
from bsap.runs.evaluated import Evaluated
from bsap.runs.schema import (
    BankInfo,
    Counts,
    MadeBy,
    Precision,
    Protocol,
    Record,
    RelationCounts,
    Results,
    RunSettings,
    Timing,
)
from bsap.runs.settings import SPEED_SETTINGS, digest
from bsap.views.packing import pack_size, too_large


def make_results(
    module: Evaluated,
    records: Sequence[Record],
    *,
    summary: SplitSummary,
    settings: RunSettings,
    precision: Precision,
    timing: Timing,
) -> Results:
    """The results of a finished test, without what the run folder adds."""
    found = counts(records, summary)
    whole = summary.published in (None, summary.selected) and len(records) == summary.selected
    partial = found["no_mask"] > 0 or summary.partial
    models: list[Any] = list(module.encoders)
    results: Results = {
        "metrics": module.results,
        "counts": found,
        "complete": whole and not partial,
        "partial": partial,
        "selection": summary.selection,
        "protocol": protocol(module, summary),
        "transductive": any(bank is not None and bank.transductive for bank in (module.bank, module.region_bank)),
        "models": [encoder.describe() for encoder in models],
        "precision": precision,
        "settings": settings,
        "versions": versions(),
        "timing": timing,
    }
    if any("relations" in record for record in records):
        results["relations"] = relation_counts(records)
    return results


def relation_counts(records: Sequence[Record]) -> RelationCounts:
    """How many sentences have which status and which relation, each once, and of how many one left a scorer no region.

    Records without ``relations`` count as nothing.
    """
    known = [record for record in records if "relations" in record]
    statuses = Counter(record["relations"]["status"] for record in known)
    found = Counter(name for record in known for name in dict.fromkeys(record["relations"]["found"]))
    return {
        "sentences": dict(sorted(statuses.items())),
        "found": dict(sorted(found.items())),
        "contradictions": sum(
            any(None in choice.get("steps", ()) for choice in record["scorers"].values()) for record in known
        ),
    }


def counts(records: Sequence[Record], summary: SplitSummary) -> Counts:
    """Counts of expressions, scenes and regions that were seen or left out."""
    return {
        "seen": len(records),
        "selected": summary.selected,
        "published": summary.published,
        "no_proposals": sum(record["n_regions"] == 0 for record in records),
        "no_mask": sum(record["status"] == "no_mask" for record in records),
        "skipped": summary.skipped,
        "texts_cut": sum(record["text_cut"] for record in records),
        "scenes": summary.scenes,
        "regions": summary.regions,
    }


def protocol(module: Evaluated, summary: SplitSummary) -> Protocol:
    """How the numbers were made."""
    fixed: dict[str, Any] = {
        "dataset": summary.dataset,
        "split_by": summary.split_by,
        "split": summary.split,
        "proposals": summary.proposals,
        "hit": "IoU > 0.5" if module.settings["strict"] else "IoU >= 0.5",
        "bank": bank_info(module),
    }
    if summary.pictures:
        fixed["pictures"] = summary.pictures
    if module.parsers:
        fixed["parsers"] = module.parsers
    rest = {key: value for key, value in module.settings.items() if key not in ("bank", *SPEED_SETTINGS)}
    if module.region_bank is not None:
        learnt = module.transform is not None and module.transform.needs_region_bank
        used_by = [name for name, scorer in module.scorers.items() if scorer.needs_region_bank or learnt]
        rest["region_bank"] = module.region_bank.describe() | {"used_by": used_by}
    return cast(Protocol, fixed | rest)


def bank_info(module: Evaluated) -> BankInfo | None:
    """The auxiliary prompts and who used them; None where no scorer needed any."""
    bank = module.bank
    if bank is None:
        return None
    learnt = module.transform is not None and module.transform.needs_bank  # then every score depends on it
    return {
        "name": bank.name,
        "prompts": len(bank.prompts) or None,
        "prompts_digest": digest(bank.prompts) if bank.prompts else None,
        "transductive": bank.transductive,
        "source": bank.source,
        "used_by": [name for name, scorer in module.scorers.items() if scorer.needs_bank or learnt],
        "too_small_for": too_small_for(bank, module.scorers),
    }


def made_by(module: Evaluated, *, processes: int) -> MadeBy:
    """Device, versions, processes and pack of one attempt at a run; the next attempt may have others."""
    device = module.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    setting = module.settings.get("region_batch")
    encoders: list[Any] = list(module.encoders)
    packs = [pack_size(encoder, setting) for encoder in encoders]
    made: MadeBy = {"processes": processes, "device": name, "versions": versions(), "pack": min(packs)}
    if failed := [size for encoder in encoders if (size := too_large(encoder)) is not None]:
        made["pack_too_large"] = max(failed)
    return made


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("bsap", "lightning", "open_clip_torch", "pycocotools", "torch", "torchmetrics", "torchvision"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
