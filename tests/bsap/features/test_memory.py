"""Memory is bounded by the batch and the pack, whatever the number of scenes and of proposals."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bsap import BSAPModule, EncoderConfig
from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.loader import SceneDataset, collate
from bsap.datamodules.scene import Proposals, Scene
from support.planted import Planted
from support.processes import Ranks

SCENES, SIZE = 40, (1600, 1200)
DECODED = 3 * SIZE[0] * SIZE[1] / 2**20  # MiB


# Writes down the process's peak after every batch.
def large_pictures(root: Path) -> Path:
    """REFER files over large pictures, one referent each; their objects are the proposals."""
    (root / "refcoco").mkdir(parents=True)
    (root / "images").mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIZE).save(root / "picture.jpg")
    images, annotations, refs = [], [], []
    for n in range(SCENES):
        (root / "images" / f"{n}.jpg").write_bytes((root / "picture.jpg").read_bytes())
        images.append({"id": n, "file_name": f"{n}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for ann, left in ((2 * n, 0), (2 * n + 1, 800)):
            annotations.append({"id": ann, "image_id": n, "category_id": 1, "bbox": [left, 10, 800, 1100]})
        said = {"sent_id": n, "sent": "left one", "raw": "left one"}
        refs.append({"ref_id": n, "ann_id": 2 * n, "image_id": n, "split": "val", "sentences": [said]})
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    return root


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_more_scenes_take_no_more_memory(ranks: Ranks, tmp_path: Path) -> None:
    config = {
        "trainer": {"accelerator": "cpu", "default_root_dir": str(tmp_path)},
        "data": {
            "root": str(large_pictures(tmp_path / "data")),
            "num_workers": 0,
            "batch_size": 1,
            "masks": False,
            "proposals": {"source": "ground_truth"},
        },
        "model": {"encoders": [{"name": "demo"}], "views": ["crop", "blur"], "store": str(tmp_path / "features")},
        "run": {"root": str(tmp_path), "name": "run"},
    }
    file = tmp_path / "peaks"
    ranks.start(config, tmp_path, world=1, hooks=[("peak_memory", {"log": str(file)})]).check()
    peaks = [int(line) / 1024 for line in file.read_text().split()]
    assert len(peaks) == SCENES
    growth = peaks[-1] - peaks[9]
    print(f"peak after 10 scenes {peaks[9]:.0f} MiB, after {SCENES} {peaks[-1]:.0f} MiB")
    assert growth < 5 * DECODED, f"{growth:.0f} MiB more for {SCENES - 10} more scenes: are decoded pictures kept?"


def test_thousands_of_proposals(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn and encoded in packs, and each gets the feature that it gets alone."""
    module = BSAPModule(
        encoders=[EncoderConfig(f"local-dir:{planted.model}")],
        views=["crop", "blur"],
        region_batch=50,
        run=None,
        store=None,
    )
    module.configure_model()
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (2000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 20, (2000, 2))], axis=1).astype(np.float32).clip(max=50)
    path = planted.root / "images" / "train2014" / "COCO_train2014_000000000002.png"
    scene = Scene("2", path, 50, 50, Proposals(boxes), ())

    def batch(*scenes: Scene) -> SceneBatch:
        dataset = SceneDataset(scenes)
        return collate([dataset[n] for n in range(len(scenes))])

    packs: list[int] = []
    (encoder,) = module.encoders
    whole = encoder.encode_image
    monkeypatch.setattr(encoder, "encode_image", lambda pixels: (packs.append(len(pixels)), whole(pixels))[1])
    assert module.ensemble is not None
    for features, member in zip(module.ensemble.regions(batch(scene)), module.members, strict=True):
        assert features.shape == (2000, 3)
        for n in (0, 777, 1999):
            alone = Scene("2", path, 50, 50, Proposals(boxes[n : n + 1]), ())
            expected = module.ensemble.regions(batch(alone))[module.members.index(member)]
            torch.testing.assert_close(features[n : n + 1], expected, atol=1e-5, rtol=0)
    assert max(packs) == 50
