"""The module: what it counts beside the metrics, what it shares, what it does not change."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from bsap import BSAPModule, EncoderConfig, ProposalConfig, RefCOCODataModule
from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Proposals
from bsap.errors import ConfigError
from bsap.features.regions import distinct_regions, region_features
from support.planted import Planted


def module(planted: Planted, **settings: Any) -> BSAPModule:
    defaults: dict[str, Any] = {"views": ["crop"], "scorers": ["clip"], "run": None, "store": None}
    found = BSAPModule(encoders=[EncoderConfig(f"local-dir:{planted.model}")], **{**defaults, **settings})
    found.configure_model()
    return found


def batches(planted: Planted, **settings: Any) -> DataLoader[Any]:
    proposals = ProposalConfig("masks", path=str(planted.proposals))
    data = RefCOCODataModule(str(planted.root), proposals, num_workers=0, **settings)
    data.setup("test")
    return data.test_dataloader()


@pytest.fixture
def whole(planted: Planted) -> SceneBatch:
    """All four scenes in one batch, the third without proposals."""
    (batch,) = batches(planted, batch_size=8)
    assert isinstance(batch, SceneBatch)
    return batch


@pytest.mark.parametrize("pack", [1, 2, 3, 100])
def test_packs_change_no_feature(planted: Planted, whole: SceneBatch, pack: int) -> None:
    found = module(planted, views=["crop", "blur", "masked_crop"])
    for member in found.members:
        one = region_features(whole, member.encoder, member.view, pack=pack)
        other = region_features(whole, member.encoder, member.view, pack=7)
        assert one.shape == (len(whole.boxes), 3)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_picture_is_blurred_once(planted: Planted, whole: SceneBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its regions are drawn in several packs."""
    import bsap.views.highlights

    calls: list[int] = []
    blur = bsap.views.highlights.gaussian_blur
    monkeypatch.setattr(bsap.views.highlights, "gaussian_blur", lambda *a, **k: (calls.append(1), blur(*a, **k))[1])
    (member,) = module(planted, views=["blur"]).members
    region_features(whole, member.encoder, member.view, pack=1)
    assert len(calls) == sum(count > 0 for count in whole.counts)


def test_packs_of_nothing_are_refused(planted: Planted) -> None:
    with pytest.raises(ConfigError, match="`region_batch` must be at least 1, but got 0"):
        module(planted, region_batch=0)


def test_batches_change_no_choice(planted: Planted) -> None:
    found = module(planted, scorers=["clip", "dsl", "qb_norm"], bank_seed=1)
    from bsap.prompts.banks import load_bank

    found.bank = load_bank(str(planted.bank))
    by_size = []
    for size in (1, 3, 8):
        records = [record for batch in batches(planted, batch_size=size) for record in found.predict_scenes(batch)]
        by_size.append({r["id"]: {name: row["region"] for name, row in r["scorers"].items()} for r in records})
    assert by_size[0] == by_size[1] == by_size[2]
    assert len(by_size[0]) == 8


def test_identical_regions_are_encoded_once(
    planted: Planted, whole: SceneBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    scene = whole.scenes[whole.counts.index(3)]
    masks = scene.proposals.masks
    assert masks is not None
    index = [0, 1, 0, 2, 1]
    repeated = replace(scene, proposals=Proposals(scene.proposals.boxes[index], tuple(masks[i] for i in index)))
    picture = whole.pictures[whole.counts.index(3)]
    batch = SceneBatch((repeated,), (picture,), torch.from_numpy(repeated.proposals.boxes))
    found = module(planted)
    (member,) = found.members
    seen: list[int] = []
    encode = member.encoder.encode_image
    monkeypatch.setattr(member.encoder, "encode_image", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    features = region_features(batch, member.encoder, member.view, pack=64)
    assert seen == [3]
    assert torch.equal(features[0], features[2])
    assert torch.equal(features[1], features[4])


def test_two_masks_in_one_box_are_two_regions_for_views_of_masks() -> None:
    import numpy as np

    boxes = np.array([[0, 0, 4, 4]] * 2, np.float32)
    masks = ({"size": [4, 4], "counts": b"04"}, {"size": [4, 4], "counts": b"22"})
    assert distinct_regions(Proposals(boxes, masks), with_masks=True)[0] == [0, 1]  # type: ignore[arg-type]
    assert distinct_regions(Proposals(boxes, masks), with_masks=False)[0] == [0]  # type: ignore[arg-type]


def test_texts_that_lose_their_end_are_counted(planted: Planted, whole: SceneBatch) -> None:
    long = module(planted, templates=__import__("bsap").Templates("red " * 20 + "{}", "{}"))
    with pytest.warns(UserWarning, match="lose their end"):
        records = long.predict_scenes(whole)
    assert all(record["text_cut"] for record in records)
    assert not any(record["text_cut"] for record in module(planted).predict_scenes(whole))


def test_an_expression_is_never_its_own_auxiliary_prompt(planted: Planted, whole: SceneBatch) -> None:
    from bsap.features.bank_texts import scene_bank_mask
    from bsap.prompts.banks import load_bank

    bank = load_bank("scene")
    mask = scene_bank_mask(whole.scenes, bank)
    assert mask is not None
    for b, scene in enumerate(whole.scenes):
        for e, expression in enumerate(scene.expressions):
            for k, text in enumerate(scene.texts):
                assert bool(mask[b, e, k]) == (text.strip().lower() != expression.text.strip().lower())
            assert not mask[b, e, len(scene.texts) :].any()


def test_choices_are_the_argmax_of_a_plain_loop(planted: Planted, whole: SceneBatch) -> None:
    """An ensemble of two views, scored by numpy from features encoded one by one."""
    import numpy as np

    from bsap.prompts.banks import load_bank

    found = module(planted, views=["crop", "blur_window"], scorers=["clip", "bsap"])
    found.bank = load_bank(str(planted.bank))
    encoder = found.members[0].encoder
    records = {record["id"]: record for record in found.predict_scenes(whole)}
    bank = encoder.encode_text(["white"]).double().numpy()
    checked = 0
    for scene, picture in zip(whole.scenes, whole.pictures, strict=True):
        if not len(scene.proposals):
            continue
        for expression in scene.expressions:
            query = encoder.encode_text([expression.text]).double().numpy()[0]
            scores = []
            for box in torch.from_numpy(scene.proposals.boxes):
                s = a = 0.0
                for view in found.views:
                    fill = tuple(255 * mean for mean in encoder.mean)
                    pixels = view.render(picture, box[None], encoder.size, fill=fill)  # type: ignore[arg-type]
                    image = encoder.encode_image(pixels).double().numpy()[0]
                    s += encoder.tau * float(image @ query) / 2
                    a += encoder.tau * float(image @ bank[0]) / 2
                scores.append((s, s - a))
            row = records[expression.id]["scorers"]
            clip, bsap = np.array(scores).T
            # Where two regions are equally good to rounding, either is right.
            assert clip[row["clip"]["region"]] > clip.max() - 1e-3
            assert bsap[row["bsap"]["region"]] > bsap.max() - 1e-3
            checked += 1
    assert checked == 7


@pytest.mark.slow
def test_compiling_changes_no_choice(planted: Planted, whole: SceneBatch) -> None:
    plain = [record["scorers"] for record in module(planted).predict_scenes(whole)]
    compiled = [record["scorers"] for record in module(planted, compile=True).predict_scenes(whole)]
    assert [r["clip"]["region"] for r in plain] == [r["clip"]["region"] for r in compiled]


def test_encoders_do_not_train(planted: Planted, tmp_path: Path) -> None:
    found = module(planted).train()
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert not any(part.training for encoder in found.encoders for part in encoder.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["rec", "RIS"]}, "Unknown task 'RIS'"),
        ({"missing_mask": "skpi"}, "Did you mean 'skip'"),
        ({"templates": {"query": "{}"}}, "`templates` must be"),
        ({"bank": None}, "`bank` a text"),
    ],
)
def test_python_is_checked_as_the_command_line_is(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BSAPModule(**settings)


def test_the_ensemble_says_how_many_views_each_model_has(planted: Any, whole: SceneBatch) -> None:
    found = module(planted, views=["crop", "gray", "dim"], aggregate="max")
    similarities = found.similarities(whole)
    assert similarities.views == 3
    assert similarities.query.shape[1] == 3


@pytest.mark.parametrize(("size", "short"), [(127, {"nnn": 128}), (128, {})])
def test_a_scorer_that_wants_more_prompts_than_there_are(tmp_path: Path, planted: Any, size: int, short: Any) -> None:
    """The run uses what there is, warns once and records it."""
    import json
    import warnings

    from lightning.pytorch import Trainer

    from bsap import RunConfig

    bank = tmp_path / "words.txt"
    bank.write_text("\n".join(f"word {n}" for n in range(size)))
    found = module(
        planted, scorers=["clip", "csls", "nnn"], bank=str(bank), run=RunConfig(root=str(tmp_path), name="a")
    )
    data = RefCOCODataModule(str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False).test(
            found, data
        )
    shown = [str(w.message) for w in caught if "want more" in str(w.message)]
    assert len(shown) == len(short)
    assert all("Bank 'words' has 127 prompts, but scorers want more (nnn 128)" in text for text in shown)
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["protocol"]["bank"]["too_small_for"] == short
    assert results["timing"]["attempts"][0]["pack"] == 16


def test_all_texts_are_encoded_before_the_first_picture(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each distinct text once, in one call for the queries and the bank, whatever the batches."""
    from lightning.pytorch import Trainer

    found = module(planted, scorers=["clip", "bsap"], views=["crop", "blur"], bank="colours")
    (encoder,) = found.models
    calls: list[list[str] | None] = []
    texts, image = encoder.encode_text, encoder.encode_image
    monkeypatch.setattr(encoder, "encode_text", lambda t, **options: (calls.append(list(t)), texts(t, **options))[1])
    monkeypatch.setattr(encoder, "encode_image", lambda x, **options: (calls.append(None), image(x, **options))[1])
    data = RefCOCODataModule(
        str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=0, batch_size=1
    )
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(found, data)
    first = calls.index(None)
    assert all(call is None for call in calls[first:])
    queries = {f"a photo of {e.text}" for scene in data.scenes for e in scene.expressions}
    assert first == 1
    assert calls[0] is not None
    prompts = {f"a photo of {prompt}" for prompt in found.bank.prompts}  # type: ignore[union-attr]
    assert set(calls[0]) == queries | prompts
    assert len(calls[0]) == len(queries | prompts)


def test_pictures_are_decoded_while_texts_are_encoded(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's workers are started first."""
    import multiprocessing

    from lightning.pytorch import Trainer

    found = module(planted)
    (encoder,) = found.models
    texts, workers = encoder.encode_text, []
    count = lambda: workers.append(len(multiprocessing.active_children()))  # noqa: E731
    monkeypatch.setattr(encoder, "encode_text", lambda t, **options: (count(), texts(t, **options))[1])
    data = RefCOCODataModule(str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=1)
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(found, data)
    assert workers == [1]


def records_of(found: BSAPModule, planted: Any, accelerator: str = "cpu", batch_size: int = 1) -> Any:
    """What every step of a test records: ids and choices."""
    from lightning.pytorch import Trainer

    steps, step = [], found.test_step

    def note(*arguments: Any) -> Any:
        output = step(*arguments)
        steps.append(
            [(r["id"], {name: row["region"] for name, row in r["scorers"].items()}) for r in output["records"]]
        )
        return output

    found.test_step = note  # type: ignore[method-assign]
    proposals = ProposalConfig("masks", path=str(planted.proposals))
    data = RefCOCODataModule(str(planted.root), proposals, num_workers=0, batch_size=batch_size)
    Trainer(accelerator=accelerator, devices=1, logger=False, enable_progress_bar=False).test(found, data)
    return steps


def test_on_a_gpu_the_host_is_one_batch_behind(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stream beside the packs makes it, here without a GPU."""
    from bsap.features.transfer import SideStream

    at_once = records_of(module(planted, region_batch=1), planted)
    monkeypatch.setattr(SideStream, "exists", True)
    behind = records_of(module(planted, region_batch=1), planted)
    assert sorted(chain(*at_once), key=str) == sorted(chain(*behind), key=str)
    assert [len(records) for records in at_once] == [3, 1, 1, 3]
    # The third picture has no region and needs no device.
    assert [len(records) for records in behind] == [0, 3, 2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("pack", [2, 16])
def test_a_gpu_chooses_as_a_cpu(planted: Any, pack: int) -> None:
    views = ["crop", "blur"]
    cpu, gpu = (
        records_of(module(planted, views=views, region_batch=pack), planted, accelerator, batch_size=2)
        for accelerator in ("cpu", "gpu")
    )
    assert sorted(chain(*cpu), key=str) == sorted(chain(*gpu), key=str)


def test_a_pack_that_was_too_large_is_recorded(planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from lightning.pytorch import Trainer

    from bsap import RunConfig

    found = module(planted, run=RunConfig(root=str(tmp_path), name="a"), region_batch=4)
    (encoder,) = found.models
    image = encoder.encode_image

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return image(pixels)

    monkeypatch.setattr(encoder, "encode_image", encode)
    data = RefCOCODataModule(str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=0)
    with pytest.warns(UserWarning, match=r"packs of 4 regions; packs of 2 are used"):
        Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(found, data)
    (attempt,) = json.loads((tmp_path / "a" / "results.json").read_text())["timing"]["attempts"]
    assert (attempt["pack"], attempt["pack_too_large"]) == (2, 4)


def test_only_the_scenes_that_are_left_are_assigned(planted: Any) -> None:
    data = RefCOCODataModule(str(planted.root), ProposalConfig("masks", path=str(planted.proposals)), num_workers=0)
    data.setup("test")
    done, *rest = data.scenes
    data.skip([expression.id for expression in done.expressions])
    data.test_dataloader()
    assert {scene.image_id for scene in data.assigned} == {scene.image_id for scene in rest}


def test_settings_are_found_under_a_debugger() -> None:
    """Python 3.12 lets a comprehension change what `locals()` gave while something traces it."""

    def trace(frame: Any, event: str, arg: Any) -> Any:
        _ = frame.f_locals
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        traced = BSAPModule(encoders=["demo"])
    finally:
        sys.settrace(before)
    assert traced.settings == BSAPModule(encoders=["demo"]).settings
