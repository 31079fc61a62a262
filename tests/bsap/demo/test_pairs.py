from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from bsap.demo.draw import draw_scene
from bsap.demo.language import NOUNS
from bsap.demo.pairs import Check, PairsDataModule, draw_pair, squash


def test_squash_is_a_crop_and_a_resize() -> None:
    picture = draw_scene(8, 1).picture
    expected = np.asarray(picture.crop((20, 30, 90, 150)).resize((64, 64), Image.Resampling.BICUBIC))
    found = squash(picture, (20.4, 29.6, 90.2, 149.7), 64)
    assert found.dtype == torch.uint8
    assert (found.permute(1, 2, 0).numpy() == expected).all()


def test_pairs_do_not_depend_on_the_number_of_workers() -> None:
    def batches(workers: int) -> list[tuple[torch.Tensor, list[str]]]:
        return list(PairsDataModule(steps=2, scenes=2, pairs=3, workers=workers).train_dataloader())  # type: ignore[arg-type]

    alone, helped = batches(0), batches(2)
    assert len(alone) == 2
    for (one, texts), (other, same) in zip(alone, helped, strict=True):
        assert one.shape == (6, 3, 64, 64)
        assert len(texts) == 6
        assert texts == same
        assert torch.equal(one, other)
    assert not torch.equal(alone[0][0], alone[1][0])


def test_a_check_asks_for_things_of_its_scene() -> None:
    data = PairsDataModule(steps=1, checks=3, workers=0)
    for check in data.val_dataloader():
        assert isinstance(check, Check)
        assert len(check.texts) == len(check.targets)
        assert set(check.targets.tolist()) == set(range(len(check.regions)))
        assert all(text.startswith("a photo of ") for text in check.texts)


def test_captions_teach_every_noun() -> None:
    scene, rng = draw_scene(8, 2), np.random.default_rng(0)
    said = " ".join(draw_pair(scene, 64, rng)[1] for _ in range(400))
    for thing in scene.things:
        assert all(noun in said for noun in NOUNS[thing.category])
