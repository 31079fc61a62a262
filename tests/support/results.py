"""A run's results, changed as if the run itself had come to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from bsap.runs.saved import numbers_digest


def change_results(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda results: None) -> Path:
    """Change ``results.json`` of a run in place, and write the checksums of both its files again."""
    path, predictions = folder / "results.json", folder / "predictions.jsonl"
    results = json.loads(path.read_text())
    change(results)
    if predictions.exists():
        results["predictions_sha256"] = sha256(predictions.read_bytes()).hexdigest()
    results["numbers_sha256"] = numbers_digest(results)
    path.write_text(json.dumps(results))
    return folder
