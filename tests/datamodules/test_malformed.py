"""Whatever a file holds, a reader either makes scenes of it or says what is wrong with it: no other error comes out."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.check import check_root
from bsap.errors import BSAPError

Write = Callable[..., Path]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**400, -0.5, 1e308, float("nan"), float("inf"), "", " ", "7", "x",
    "../../x", "a\0b", "\ud800", "é" * 300, "gUW3:[;>C6", [], [None], [[]], [[1, 2, 3, 4]], [1, 2, 3, 4], [5, 5, 0, 5],
    [-9, 0, 5, 5], [1, 1, 1e9, 1e9], ["1", 2, 3, 4], [[0, 0, 9, 0, 9, 9]], [[0.0] * 6], [[1e9] * 8], {},
    {"size": [30, 40]}, {"size": [30, 40], "counts": "0"}, {"size": [30, 40], "counts": "PPPP"},
    {"size": [30, 40], "counts": [1200]},
    {"size": [40, 30], "counts": [1200]}, {"size": [2**40, 2**40], "counts": "o"}, {"size": None, "counts": None},
    {"size": [30, 40], "counts": [10**30]}, {"id": 1}, {"sent": 5}, {"bbox": [0, 0, 5, 5]}, {"image_id": 7, "box": 3},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index below a value."""
    found = []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, inner in entries:
        found += [(*path, key), *places(inner, (*path, key))]
    return found


def tampered(rng: random.Random, value: Any) -> Any:
    """One to three changes anywhere: a value replaced, removed, doubled or swapped with another."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        everywhere = places(changed)
        if not everywhere:
            return rng.choice(ODD)
        *above, key = rng.choice(everywhere)
        place = changed
        for step in above:
            place = place[step]
        action = rng.random()
        if action < 0.6:
            place[key] = copy.deepcopy(rng.choice(ODD))
        elif action < 0.75:
            del place[key]
        elif action < 0.9 and isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        else:
            other = rng.choice(everywhere)
            source = value
            try:
                for step in other:
                    source = source[step]
            except (KeyError, IndexError, TypeError):
                continue
            place[key] = copy.deepcopy(source)
    return changed


def mangled(rng: random.Random, data: bytes) -> bytes:
    """Bytes cut short, flipped, or with a piece repeated."""
    at = rng.randrange(len(data))
    action = rng.random()
    if action < 0.3:
        return data[:at]
    if action < 0.7:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data[:at] + data[max(0, at - rng.randrange(1, 40)) :]


def attempt(action: Callable[[], Any], outcomes: Counter[str], told: str) -> None:
    try:
        action()
        outcomes["read"] += 1
    except BSAPError as error:
        outcomes["refused"] += 1
        message = str(error)
        assert len(message) < 2000, told
        message.encode("utf-8", "backslashreplace")
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}, for {told[:2000]}") from error


def load(root: Path, proposals: ProposalConfig, **settings: Any) -> None:
    data = RefCOCODataModule(str(root), proposals, dataset="tiny", **settings)
    loaded = data.load("val")
    for scene in loaded.scenes:
        assert len(scene.expressions) > 0


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def own_lines() -> list[Any]:
    return [
        {
            "picture": "p_7.png", "image_id": 7, "width": 40, "height": 30, "split": "val",
            "objects": [
                {"id": 1, "bbox": [0, 0, 10, 10], "category": "dog"},
                {"id": "b", "segmentation": [[12, 2, 32, 2, 32, 22]]},
            ],
            "expressions": [{"text": "dog", "target": 1}, {"text": "b", "target": ["b", 1], "id": 5, "phrase": "b"}],
            "proposals": [{"bbox": [1, 1, 5, 5], "score": 0.5}, {"bbox": [2, 2, 5, 5], "score": 0.25}],
        },
        {"picture": "p_8.png", "width": 40, "height": 30, "objects": [], "expressions": [], "proposals": []},
    ]  # fmt: skip


def reclip_lines() -> list[Any]:
    anns = [{"id": 1, "bbox": [0, 0, 10, 10]}, {"id": 2, "bbox": [12, 2, 20, 20]}]
    line = {
        "file_name": "p_7_1.png",
        "image_id": 7,
        "ann_id": 1,
        "anns": anns,
        "sentences": [{"raw": "a"}, {"raw": "b"}],
    }
    return [{**line, "width": 40, "height": 30}, {**line, "ann_id": [1, 2], "width": 40, "height": 30}]


def proposal_contents() -> list[Any]:
    mask = {"size": [30, 40], "counts": [600, 600]}
    return [
        {"7": [[1, 1, 5, 5], [2, 2, 6, 6]], "8": [], "9": [[0, 0, 40, 30]]},
        [{"image_id": n, "box": [1, 1, 5, 5]} for n in (7, 8, 9)],
        [{"image_id": n, "bbox": [1, 1, 5, 5], "score": 0.5, "segmentation": mask} for n in (7, 8, 9)],
        [{"image_id": n, "score": 0.5, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]} for n in (7, 8, 9)],
    ]


@pytest.mark.filterwarnings("ignore:.*does not list:UserWarning")
@pytest.mark.parametrize("seed", range(4))
def test_only_our_errors_come_out(content: dict[str, Any], write_root: Write, seed: int) -> None:
    rng = random.Random(seed)
    root = write_root(content)
    folder, whole = root / "tiny", dict.fromkeys(["refs", "instances", "own", "reclip", "proposals", "lines"], 0)
    refs_file, instances_file = folder / "refs(own).p", folder / "instances.json"
    refs_bytes, instances_bytes = refs_file.read_bytes(), instances_file.read_bytes()
    truth, detections = ProposalConfig("ground_truth"), ProposalConfig("detections", path="dets.json", top_k=None)
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in whole}

    for _ in range(120):
        changed = tampered(rng, content["refs"])
        refs_file.write_bytes(
            mangled(rng, refs_bytes) if rng.random() < 0.3 else pickle.dumps(changed, protocol=rng.randrange(6))
        )
        attempt(lambda: load(root, truth), outcomes["refs"], repr(changed))
        attempt(lambda: check_root(root), outcomes["refs"], repr(changed))
    refs_file.write_bytes(refs_bytes)

    for _ in range(120):
        changed = tampered(rng, content["instances"])
        instances_file.write_bytes(mangled(rng, instances_bytes) if rng.random() < 0.2 else dump(changed))
        attempt(lambda: load(root, truth), outcomes["instances"], repr(changed))
        attempt(lambda: check_root(root), outcomes["instances"], repr(changed))
    instances_file.write_bytes(instances_bytes)

    embedded = ProposalConfig("detections")
    for name, lines, proposals in (("own", own_lines(), embedded), ("reclip", reclip_lines(), truth)):
        for _ in range(120):
            changed = tampered(rng, lines)
            items = changed if isinstance(changed, list) else [changed]
            data = b"\n".join(map(dump, items)) or b"\n"
            (root / "x.jsonl").write_bytes(mangled(rng, data) if rng.random() < 0.2 else data)
            attempt(lambda p=proposals: load(root, p, annotations="x.jsonl"), outcomes[name], repr(changed))  # type: ignore[misc]

    for _ in range(120):
        changed = tampered(rng, rng.choice(proposal_contents()))
        data = dump(changed)
        (root / "dets.json").write_bytes(mangled(rng, data) if rng.random() < 0.2 else data)
        attempt(lambda: load(root, detections), outcomes["proposals"], repr(changed))
        lines = [{"image_id": n, "proposals": [{"bbox": [1, 1, 5, 5], "score": 1}]} for n in (7, 8, 9)]
        changed = tampered(rng, lines)
        (root / "dets.json").write_bytes(b"\n".join(map(dump, changed if isinstance(changed, list) else [changed])))
        attempt(lambda: load(root, detections), outcomes["lines"], repr(changed))

    for name, counted in outcomes.items():
        assert counted["refused"] >= 30, f"{name}: the changes hardly reach the checks: {counted}"
    assert sum(sum(counted.values()) for counted in outcomes.values()) >= 900
