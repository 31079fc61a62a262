from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from bsap.datamodules import RefCOCODataModule
from bsap.datamodules.batch import SceneBatch
from bsap.errors import ConfigError, DataError
from bsap.learning import LearningDataModule


def ready(data: dict[str, Any], **changes: Any) -> LearningDataModule:
    module = LearningDataModule(**{**data, **changes})
    module.setup("fit")
    return module


def test_scenes_of_both_splits(data: dict[str, Any]) -> None:
    module = ready(data)
    assert (len(module.train_scenes), len(module.val_scenes), len(module.gap_scenes)) == (10, 5, 0)
    for split, items in (("train", module.train_scenes), ("val", module.val_scenes)):
        alone = RefCOCODataModule(**{**data, "split": split})
        alone.setup("test")
        assert [scene.image_id for scene in items] == [scene.image_id for scene in alone.scenes]


def test_shards(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On three processes: equally many train scenes each, every one seen; each val and test scene exactly once."""
    seen: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}
    for rank in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: True)
            patch.setattr(dist, "get_world_size", lambda *_: 3)
            patch.setattr(dist, "get_rank", lambda *_, rank=rank: rank)
            module = ready(data, split="test")
            module.setup("test")
            for stage in seen:
                batches = list(getattr(module, f"{stage}_dataloader")())
                scenes = [scene for b in batches for scene in (b.scenes if isinstance(b, SceneBatch) else b)]
                seen[stage].append([scene.image_id for scene in scenes])
    assert {len(shard) for shard in seen["train"]} == {4}
    assert len({name for shard in seen["train"] for name in shard}) == 10
    for stage in ("val", "test"):
        names = [name for shard in seen[stage] for name in shard]
        assert len(names) == len(set(names)) == 5


def test_epochs_are_shuffled_by_the_global_seed(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        module = ready(data)
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [scene.image_id for batch in loader for scene in batch]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_texts_alone_open_no_picture(data: dict[str, Any], tmp_path: Path, world: Path) -> None:
    """The pictures may not even exist; no source of regions is asked for."""
    (tmp_path / "demo").symlink_to(world / "demo")
    given = {key: value for key, value in data.items() if key != "proposals"} | {"root": str(tmp_path)}
    module = ready(given, text_only=True)
    with_pictures = ready(data)
    texts = {text for scene in module.train_texts for group in scene.referents for text in group}
    assert texts == {e.text for scene in with_pictures.train_scenes for e in scene.expressions}
    assert not module.gap_scenes


def test_a_few_regions_for_the_gap(data: dict[str, Any]) -> None:
    module = ready(data, text_only=True, gap_expressions=3)
    assert sum(len(scene.expressions) for scene in module.gap_scenes) == 3
    assert len(module.train_texts) == 10


def test_a_text_file_keeps_a_tenth_for_validation(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("".join(f"sentence number {n}\n" for n in range(25)))
    module = ready({"text_file": str(file)})
    assert (len(module.train_texts), len(module.val_texts)) == (22, 3)
    other = ready({"text_file": str(file), "val_text_file": str(file)})
    assert (len(other.train_texts), len(other.val_texts)) == (25, 25)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_split": "trian"}, DataError, "There is no split 'trian' to learn from.*Did you mean 'train'"),
        ({"val_split": "minival", "text_only": True}, DataError, "There is no split 'minival'.*--data.val_split"),
        ({"root": ""}, ConfigError, "`data.root` is missing"),
        ({"proposals": None}, ConfigError, "must name its source"),
        ({"val_text_file": "x.txt"}, ConfigError, "needs `data.text_file`"),
    ],
)
def test_wrong_settings(data: dict[str, Any], changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        ready(data, **changes)


def test_sources_tell_other_data_apart(data: dict[str, Any], tmp_path: Path, world: Path) -> None:
    """The bank's JSON keeps them: settings that are the same may name files that are not."""
    detections = {"source": "detections", "path": "demo/detections.json"}
    one, again, fewer = (ready(data, proposals=detections, limit=limit).sources for limit in (None, None, 9))
    assert one == again
    assert one["train"]["expressions"] != fewer["train"]["expressions"] != one["val"]["expressions"]
    content = (world / "demo" / "detections.json").read_bytes()
    assert one["val"]["proposals"]["sha256"] == sha256(content).hexdigest()
    texts = ready(data, text_only=True, gap_expressions=3).sources
    assert texts["train"]["expressions"] == one["train"]["expressions"]
    assert set(texts) == {"train", "val", "gap"}
    (tmp_path / "t.txt").write_text("a cup\na bird\n")
    before = ready({"text_file": str(tmp_path / "t.txt")}).sources
    (tmp_path / "t.txt").write_text("a cup\na dog\n")
    assert ready({"text_file": str(tmp_path / "t.txt")}).sources != before


def test_a_split_that_has_two_uses(data: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="`data.train_split` and `data.val_split` are both 'train'"):
        LearningDataModule(**data, val_split="train")
    module = LearningDataModule(**data, split="train")
    with pytest.warns(UserWarning, match="`data.split` is 'train', which prompts are learned from"):
        module.setup("test")
