import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco
from torchvision.transforms import functional as TF

from bsap.datamodules.loader import collate
from bsap.datamodules.scene import Proposals, Scene
from bsap.errors import ConfigError, DataError, ModelError
from bsap.features.ensemble import Ensemble
from bsap.features.regions import region_features
from bsap.models.encoder import Encoder
from bsap.views import GlobalLocal, make_view
from bsap.views.global_local import token_weights

SIZE = 32
VISION = {"image_size": SIZE, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}


def make_encoder(folder, vision=(), **model):
    config = {"embed_dim": 24, "vision_cfg": {**VISION, **dict(vision)}, "text_cfg": TEXT, **model}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    encoder = Encoder({"name": f"local-dir:{folder}", "random_init": True})
    for block in encoder.model.visual.transformer.resblocks:  # open_clip's own start is too small to tell blocks apart
        torch.nn.init.normal_(block.attn.in_proj_weight, std=0.2, generator=torch.Generator().manual_seed(1))
    return encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def picture():
    return torch.randint(0, 256, (3, 48, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def rle(dense):
    return coco.encode(np.asfortranarray(np.asarray(dense, np.uint8)))


def rectangle(height, width, x1, y1, x2, y2):
    dense = np.zeros((height, width), np.uint8)
    dense[y1:y2, x1:x2] = 1
    return dense


def squashed(picture):
    image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def encode_scene(encoder, picture, boxes, masks, **settings):
    return GlobalLocal(**settings).features(encoder, [picture], [boxes], [masks])


def global_features(encoder, picture, masks, block):
    return encode_scene(encoder, picture, torch.zeros(len(masks), 4), masks, v=1.0, block=block)


def cosine(a, b):
    return float((a * b).sum(-1).min())


FULL = np.array([[0, 0, 80, 48]], np.float32)


def test_a_full_mask_and_v_one_is_the_plain_image_embedding(encoder, picture):
    boxes = torch.from_numpy(FULL)
    pixels = make_view("crop").render(picture, boxes, encoder.size, interpolation="bicubic")
    got = encode_scene(encoder, picture, boxes, [rle(np.ones((48, 80)))], v=1.0, block=2)
    assert torch.allclose(got, encoder.encode_image(pixels), atol=1e-5)
    assert cosine(got, encoder.encode_image(squashed(picture))) > 0.999


def test_masking_outside_changes_it_from_each_block_on_differently(encoder, picture):
    masks = [rle(rectangle(48, 80, 0, 0, 40, 48))]
    plain = global_features(encoder, picture, [rle(np.ones((48, 80)))], block=0)
    near = [cosine(global_features(encoder, picture, masks, block=b), plain) for b in (3, 2, 1, 0)]
    assert near[0] < 0.9999
    assert len(set(near)) == 4


def reference(encoder, picture, weights, block):
    """One region at a time, every block written out, without hooks."""
    return tower(encoder, (picture.float() / 255 - encoder.mean_pixel) / encoder.std_pixel, weights, block)


def tower(encoder, x, weights, block):
    visual = encoder.model.visual
    x = visual.conv1(x).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for index, layer in enumerate(visual.transformer.resblocks):
        if index >= block:
            x = torch.cat([x[:, :1], x[:, 1:] * weights[None, :, None]], dim=1)
        normed = layer.ln_1(x)
        x = x + layer.attn(normed, normed, normed, need_weights=False)[0]
        x = x + layer.mlp(layer.ln_2(x))
    return visual.ln_post(x[:, 0]) @ visual.proj


def test_equals_a_plain_loop(encoder, picture):
    dense = [rectangle(48, 80, 5, 3, 40, 30), rectangle(48, 80, 50, 20, 80, 48), np.ones((48, 80), np.uint8)]
    boxes = torch.tensor([[5, 3, 40, 30], [50, 20, 80, 48], [0, 0, 80, 48]], dtype=torch.float32)
    masks = [rle(d) for d in dense]
    pixels = make_view("crop").render(picture, torch.from_numpy(FULL), encoder.size, interpolation="bicubic")
    weights = token_weights(masks, (4, 4))
    crops = make_view("masked_crop").render(
        picture, boxes, encoder.size, masks=masks, interpolation="bicubic", fill=encoder.fill
    )
    for v in (0.85, 0.0, 1.0):
        rows = []
        for index in range(3):
            whole = reference(encoder, pixels, weights[index], block=2)
            part = encoder.encode_image(crops[index : index + 1], normalize=False)
            rows.append(F.normalize(v * whole + (1 - v) * part, dim=-1))
        got = encode_scene(encoder, picture, boxes, masks, v=v, block=2)
        assert torch.allclose(got, torch.cat(rows), atol=1e-5)


def test_early_blocks_run_once_for_all_regions_and_leave_no_hooks(encoder, picture):
    blocks = encoder.model.visual.transformer.resblocks
    seen = []
    hooks = [
        block.register_forward_hook(lambda m, i, o, n=n: seen.append((n, len(o)))) for n, block in enumerate(blocks)
    ]
    masks = [rle(rectangle(48, 80, 0, 0, 8 * k, 48)) for k in range(1, 6)]
    global_features(encoder, picture, masks, block=2)
    for hook in hooks:
        hook.remove()
    assert seen == [(0, 1), (1, 1), (2, 5), (3, 5)]
    assert not any(block._forward_pre_hooks for block in blocks)


def test_regions_do_not_depend_on_their_company(encoder, picture):
    masks = [rle(rectangle(48, 80, 0, 0, 8 * k, 40)) for k in range(1, 10)]
    together = global_features(encoder, picture, masks, block=1)
    alone = torch.cat([global_features(encoder, picture, [mask], block=1) for mask in masks])
    assert torch.allclose(together, alone, atol=1e-5)


def test_token_weights_sample_or_average():
    thin = rectangle(16, 16, 0, 0, 1, 16)  # one column of a four pixel token, away from its centre
    assert token_weights([rle(thin)], (4, 4)).sum() == 0
    averaged = token_weights([rle(thin)], (4, 4), antialias=True)
    assert averaged.view(4, 4)[:, 0].min() > 0.1
    checker = np.kron(np.array([[1, 0], [0, 1]]), np.ones((8, 12)))
    assert torch.equal(token_weights([rle(checker)], (2, 2)), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))


def test_many_masks_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    masks = [rle(rng.random((20, 30)) > 0.5) for _ in range(70)]
    one_by_one = torch.cat([token_weights([mask], (3, 5)) for mask in masks])
    assert torch.equal(token_weights(masks, (3, 5)), one_by_one)


def test_no_regions(encoder, picture):
    assert encode_scene(encoder, picture, torch.zeros(0, 4), [], block=2).shape == (0, 24)


def test_autocast_gives_float32_unit_vectors(encoder, picture):
    boxes = torch.from_numpy(FULL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = encode_scene(encoder, picture, boxes, [rle(np.ones((48, 80)))], block=2)
    assert got.dtype == torch.float32
    assert torch.allclose(got.norm(dim=-1), torch.ones(1), atol=1e-6)
    assert cosine(got, encode_scene(encoder, picture, boxes, [rle(np.ones((48, 80)))], block=2)) > 0.99


def test_bad_input(encoder, picture):
    boxes, ones = torch.from_numpy(FULL), [rle(np.ones((48, 80)))]
    with pytest.raises(DataError, match="needs a mask for every proposal, but these proposals have boxes only"):
        encode_scene(encoder, picture, boxes, None, block=2)
    with pytest.raises(DataError, match="got 1 masks for 2 proposals"):
        encode_scene(encoder, picture, boxes.repeat(2, 1), ones, block=2)
    with pytest.raises(DataError, match="The mask of proposal 0 is 48 x 80 pixels, but its picture is 80 x 48"):
        encode_scene(encoder, picture, boxes, [rle(np.ones((80, 48)))], block=2)
    with pytest.raises(ConfigError, match=r"v of the view 'global_local' must be between 0 and 1, but is 1.5"):
        encode_scene(encoder, picture, boxes, ones, v=1.5)
    with pytest.raises(ModelError, match=r"has the blocks 0 to 3, but `block` of the view 'global_local' is 9"):
        encode_scene(encoder, picture, boxes, ones)


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": [1, 1, 1, 1], "width": 16},
        {"pool_type": "avg"},
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    ],
    ids=["resnet", "average", "attention"],
)
def test_other_towers_are_refused(tmp_path, picture, vision):
    config = {"embed_dim": 24, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    encoder = Encoder({"name": f"local-dir:{tmp_path}", "random_init": True})
    with pytest.raises(ModelError, match="need one of open_clip's own vision transformers"):
        encode_scene(encoder, picture, torch.from_numpy(FULL), [rle(np.ones((48, 80)))], block=0)


def published(encoder, image, boxes, dense, *, v, block):
    """The steps of the published code, with torchvision, one region at a time."""
    mean, std = list(encoder.mean), list(encoder.std)
    columns, rows = (800 * side // min(image.size) for side in image.size)
    large = image.resize((columns, image.height), Image.Resampling.BILINEAR).resize(
        (columns, rows), Image.Resampling.BILINEAR
    )
    tensor = TF.normalize(TF.to_tensor(large), mean, std)
    original = TF.resize(tensor, [image.height, image.width], antialias=False)
    whole = TF.resize(tensor, [SIZE, SIZE], antialias=False)
    background = torch.tensor(mean)[:, None, None]
    found = []
    for (x1, y1, x2, y2), mask in zip(boxes, dense, strict=True):
        plane = torch.from_numpy(mask)
        weights = TF.resize(plane[None].float(), [4, 4], antialias=False).flatten()
        masked = original * plane + (1 - plane) * background
        crop = TF.resized_crop(
            masked, int(y1), int(x1), int(y2) - int(y1), int(x2) - int(x1), [SIZE, SIZE], antialias=False
        )
        everywhere = torch.ones(16)
        local = tower(encoder, crop[None], everywhere, block=block)
        found.append(F.normalize(v * tower(encoder, whole[None], weights, block=block) + (1 - v) * local, dim=-1))
    return torch.cat(found)


@pytest.mark.parametrize("size", [(80, 48), (31, 77), (1200, 900), (820, 800)])
def test_the_published_steps_are_those_of_the_published_code(encoder, size):
    width, height = size
    pixels = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)[:height, :width])
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    boxes = [(0.4, 0.6, width / 2 + 0.7, height / 2 + 0.9), (width / 3, height / 4, width, height)]
    dense = [rectangle(height, width, *(int(edge) for edge in box)) for box in boxes]
    dense[1][::3] = 0
    view = GlobalLocal(v=0.6, block=2, background="published", resampling="published")
    got = view.features(encoder, [picture], [torch.tensor(boxes)], [[rle(d) for d in dense]])
    expected = published(encoder, image, boxes, dense, v=0.6, block=2)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    ours = GlobalLocal(v=0.6, block=2).features(encoder, [picture], [torch.tensor(boxes)], [[rle(d) for d in dense]])
    assert (got - ours).abs().max() > 1e-3


def test_each_published_option_stands_alone(encoder, picture):
    boxes, masks = torch.tensor([[5.0, 3.0, 40.0, 30.0]]), [rle(rectangle(48, 80, 9, 9, 20, 20))]
    options = [(b, r) for b in ("mean", "published") for r in ("direct", "published")]
    features = torch.cat(
        [encode_scene(encoder, picture, boxes, masks, v=0.0, block=2, background=b, resampling=r) for b, r in options]
    )
    apart = 1 - features @ features.T
    # Nearly all of this crop is background, which therefore matters far more than how it is resampled.
    assert apart[0, 1] < apart[0, 2] > 1e-3
    assert apart[2, 3] < apart[1, 3] > 1e-3
    assert cosine(encode_scene(encoder, picture, boxes, masks, v=0.0, block=2), features[:1]) > 0.99999


# --- as a view of a run -----------------------------------------------------------------------------------------------


def resnet(folder):
    config = {"embed_dim": 24, "vision_cfg": {**VISION, "layers": [1, 1, 1, 1], "width": 16}, "text_cfg": TEXT}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return Encoder({"name": f"local-dir:{folder}", "random_init": True})


def test_what_does_not_fit_is_found_before_the_first_batch(tmp_path, encoder):
    with pytest.raises(ConfigError, match="supports `resize: squash` only, not 'longest'"):
        Ensemble([encoder], [GlobalLocal(block=2)], resize="longest")
    with pytest.raises(ModelError, match="has the blocks 0 to 3, but `block` of the view 'global_local' is 99"):
        Ensemble([encoder], [GlobalLocal(block=99)])
    with pytest.raises(ModelError, match="need one of open_clip's own vision transformers"):
        Ensemble([resnet(tmp_path)], [GlobalLocal(block=0)])


def test_packs_bound_what_is_encoded_at_once_and_change_no_feature(tmp_path, encoder, picture, monkeypatch):
    boxes = np.array([[8 * k, 0, 8 * k + 8, 8 * k] for k in range(1, 6)], np.float32)
    masks = [rle(rectangle(48, 80, 8 * k, 0, 8 * k + 8, 8 * k)) for k in range(1, 6)]
    scene = Scene("1", tmp_path / "none.jpg", 80, 48, Proposals(boxes, masks), ())
    batch, view = collate([(scene, picture)]), GlobalLocal(v=0.5, block=2)
    whole = region_features(batch, encoder, view, pack=100)
    seen, encode = [], encoder.encode_image
    monkeypatch.setattr(encoder, "encode_image", lambda x, **options: (seen.append(len(x)), encode(x, **options))[1])
    assert torch.allclose(region_features(batch, encoder, view, pack=2), whole, atol=1e-5)
    assert sum(seen) == 5
    assert max(seen) == 2
