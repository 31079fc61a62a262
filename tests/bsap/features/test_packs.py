"""Packs across scenes, views and batches: every feature has the same bits whatever it is encoded with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bsap.datamodules.batch import SceneBatch, collate
from bsap.datamodules.scene import Expression, Proposals, Referent, Scene
from bsap.errors import ConfigError
from bsap.features.ensemble import Ensemble
from bsap.features.packs import PackQueue
from bsap.models.encoder import Encoder
from bsap.models.precision import autocast
from bsap.views import make_view

COUNTS = (3, 0, 5, 1, 9, 2)
NOBODY = Referent(id="", ann_ids=(), boxes=np.zeros((0, 4), np.float32), masks=())


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, torch.Tensor]]:
    """Scenes of as many regions as ``COUNTS`` says, with their pictures."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    found = []
    for n, count in enumerate(COUNTS):
        pixels = random.integers(0, 256, (30 + n, 40 - n, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        corners = np.sort(random.random((count, 2, 2)) * 30, axis=1)  # (x1, y1), (x2, y2)
        boxes = corners.reshape(count, 4).astype(np.float32)
        text = (Expression(f"{n}/0", n, f"thing {n}", NOBODY),)
        scene = Scene(str(n), folder / f"{n}.png", 40 - n, 30 + n, Proposals(boxes), text, ("a thing",))
        found.append((scene, torch.from_numpy(pixels).permute(2, 0, 1)))
    return found


@pytest.fixture(scope="module")
def demo() -> Encoder:
    return Encoder("demo")


def ensemble(demo: Encoder, **settings: Any) -> Ensemble:
    return Ensemble([demo], [make_view("crop"), make_view("blur")], **settings)


def run(found: Ensemble, items: Any, order: list[int], batch: int) -> tuple[dict[str, list[torch.Tensor]], list[int]]:
    """Region features of every scene as a test makes them, and the number of scenes complete after each batch."""
    features, done = {}, []

    def take() -> None:
        for encoded in found.complete():
            similarities = found.joined(encoded, None)
            for b, scene in enumerate(encoded[0].scenes):
                features[scene.image_id] = similarities.query[b, :, 0, : len(scene.proposals)]
        done.append(len(features))

    for start in range(0, len(order), batch):
        found.submit(collate([items[i] for i in order[start : start + batch]]))
        take()
    found.finish()
    take()
    return features, done


@pytest.fixture
def shapes(demo: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the encoder got."""
    seen: list[int] = []
    encode = demo.encode_image
    monkeypatch.setattr(demo, "encode_image", lambda pixels, **o: (seen.append(len(pixels)), encode(pixels, **o))[1])
    return seen


@pytest.mark.parametrize(
    ("order", "batch"), [([0, 1, 2, 3, 4, 5], 2), ([5, 3, 1, 4, 2, 0], 1), ([4, 0, 2, 1, 5, 3], 6)]
)
def test_bits_do_not_depend_on_order_and_batches(
    items: Any, demo: Encoder, shapes: list[int], tmp_path: Path, order: list[int], batch: int
) -> None:
    found = ensemble(demo, store=tmp_path / "run", pack=8)
    run(found, items, order, batch)
    found.keep()
    assert shapes == [8] * -(-2 * sum(COUNTS) // 8), "both views share packs, and the last one is filled up"
    # Each scene alone, as learning and analysis encode: what they find in the store is what they would make.
    single = ensemble(demo, store=tmp_path / "single", pack=8)
    for item in items:
        alone, stored = single.regions(collate([item])), found.stored_regions(item[0])
        assert stored is not None
        assert all(torch.equal(a, b) for a, b in zip(alone, stored, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_bits_on_a_gpu(items: Any, tmp_path: Path, precision: str) -> None:
    stored = []
    for name, order in (("a", [0, 1, 2, 3, 4, 5]), ("b", [5, 3, 1, 4, 2, 0])):
        found = ensemble(Encoder("demo").to("cuda"), store=tmp_path / name, pack=8, precision=precision)
        on_device = [(scene, picture.cuda()) for scene, picture in items]
        with autocast(precision, "cuda"):
            for index in order:
                found.submit(collate([on_device[index]]).to("cuda"))
        found.finish()
        for encoded in found.complete():
            found.joined(encoded, None)
        found.keep()
        stored.append([found.stored_regions(scene) or [] for scene, _ in items])
    for first, second in zip(*stored, strict=True):
        assert len(first) == len(second) == 2
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_pack_is_another_feature(items: Any, demo: Encoder, tmp_path: Path) -> None:
    run(first := ensemble(demo, store=tmp_path, pack=8), items, [0, 1, 2], 1)
    first.keep()
    first.flush()
    assert ensemble(demo, store=tmp_path, pack=8).is_stored(items[0][0])
    assert not ensemble(demo, store=tmp_path, pack=4).is_stored(items[0][0])


def test_scenes_wait_until_their_packs_are_full(items: Any, demo: Encoder, shapes: list[int]) -> None:
    """With 8 in a pack: 6 views of two scenes wait, 10 more fill two packs, 2, 18 and 4 more fill two and leave 8."""
    found = ensemble(demo, pack=8)
    _, done = run(found, items, [0, 1, 2, 3, 4, 5], 1)
    assert done == [0, 1, 3, 3, 4, 6, 6]
    assert shapes == [8] * 5


def test_the_plain_call_wastes_nothing_without_a_store(items: Any, demo: Encoder, shapes: list[int]) -> None:
    ensemble(demo, pack=8).regions(collate([items[0]]))
    assert shapes == [6]


def test_the_plain_call_gives_what_a_run_gives(items: Any, demo: Encoder) -> None:
    cosines, _ = run(ensemble(demo, pack=8), items, [4, 2, 0, 1, 3, 5], 2)
    whole = ensemble(demo, pack=8).similarities(collate(items), None)
    for b, (scene, _) in enumerate(items):
        torch.testing.assert_close(
            cosines[scene.image_id], whole.query[b, :, 0, : len(scene.proposals)], atol=1e-5, rtol=0
        )


class Small:
    """Encodes mean colours; more than ``most`` pictures do not fit into its memory."""

    label, size, fill, interpolation, dim = "toy", (4, 4), (0.0, 0.0, 0.0), "bicubic", 3
    device, compiled = torch.device("cpu"), False

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, []

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return pixels.float().mean((2, 3))


def numbered(segments: Any) -> torch.Tensor:
    """Each region as a picture of one grey level: its scene and its place in it."""
    levels = [16 * scene + r for scene, start, stop in segments for r in range(start, stop)]
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)


def test_packs_are_halved_in_the_middle_of_a_run() -> None:
    queue = PackQueue(encoder := Small(most=5), 8)  # type: ignore[arg-type]
    first = queue.add([7], numbered)
    with pytest.warns(UserWarning, match=r"packs of 8 regions; packs of 4 are used.*`--model.region_batch 4`"):
        second = queue.add([0, 9], numbered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queue.finish()
    assert encoder.seen == [8, 4, 4, 4, 4]
    assert first.features()[:, 0].tolist() == [*range(7)]
    assert second.features()[:, 0].tolist() == [*range(16, 25)]
    assert (first.size, second.size, queue.size) == (0, 0, 4), "features of mixed packs are not stored"


def test_what_never_fits_names_the_setting() -> None:
    queue = PackQueue(Small(most=3), 8)  # type: ignore[arg-type]
    with (
        pytest.warns(UserWarning, match="ran out of memory"),
        pytest.raises(ConfigError, match=r"packs of 8 and of 4 regions\. Set `--model\.region_batch` to less than 4"),
    ):
        queue.add([8], numbered)


def test_a_view_that_looks_into_the_model_needs_no_pack(items: Any, demo: Encoder) -> None:
    class Inside(type(make_view("crop"))):  # type: ignore[misc]
        """Its features are the areas of boxes."""

        kind = "inside"

        def features(self, encoder: Any, pictures: Any, boxes: Any, masks: Any, **options: Any) -> torch.Tensor:
            areas = torch.cat([(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in boxes])
            return areas[:, None].expand(-1, encoder.dim)

    found = Ensemble([demo], [Inside()], pack=8)
    batch: SceneBatch = collate(items[:3])
    found.submit(batch)
    (encoded,) = found.complete()
    similarities = found.joined(encoded, None)
    assert encoded[0].scenes == batch.scenes
    text = demo.encode_text(["a photo of thing 0"]).sum()
    boxes = batch.boxes[:3]
    expected = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * text
    torch.testing.assert_close(similarities.query[0, 0, 0, :3], expected)
