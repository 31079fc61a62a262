"""Views inside the encoder against a vision transformer written out in float64."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as coco

from bsap.cli import main
from bsap.demo.dataset import make_demo_root
from bsap.errors import ConfigError, DataError, ModelError
from bsap.models.encoder import Encoder
from bsap.models.load import load_model
from bsap.views import FALIP, Dense, DenseMask, make_view
from bsap.views.inside import box_shares, foveal_bias

BOXES = torch.tensor(
    [[2.0, 3.0, 40.0, 30.0], [30.0, 10.0, 79.5, 47.0], [50.0, 20.0, 53.0, 22.0], [-5.0, -5.0, 99.0, 99.0]]
)
HEIGHT, WIDTH, SIZE, GRID = 48, 80, 32, (4, 4)


@pytest.fixture(scope="module")
def open_clip_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    vision = {"image_size": SIZE, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    encoder = Encoder({"name": f"local-dir:{folder}", "random_init": True})
    for block in encoder.model.visual.transformer.resblocks:
        torch.nn.init.normal_(block.attn.in_proj_weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return encoder


@pytest.fixture(params=["open_clip", "clip", "metaclip_2"])
def encoder(request, open_clip_encoder):
    if request.param == "open_clip":
        return open_clip_encoder
    found = load_model({"name": f"hf:{request.getfixturevalue('tiny_model')(request.param)}"})
    for layer in found.model.vision_model.encoder.layers:
        for part in ("q_proj", "k_proj", "v_proj"):
            torch.nn.init.normal_(
                getattr(layer.self_attn, part).weight, std=0.3, generator=torch.Generator().manual_seed(1)
            )
    return found


@pytest.fixture
def picture():
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def layers(encoder):
    """Both libraries' towers as the same functions in float64."""
    model = encoder.model
    if hasattr(model, "visual"):
        v = model.visual
        blocks = [
            (
                b.ln_1, b.attn.in_proj_weight.chunk(3), b.attn.in_proj_bias.chunk(3), b.attn.out_proj, b.ln_2,
                (b.mlp.c_fc, b.mlp.gelu, b.mlp.c_proj), b.attn.num_heads,
            )
            for b in v.transformer.resblocks
        ]  # fmt: skip
        return v.conv1, v.class_embedding, v.positional_embedding, v.ln_pre, blocks, v.ln_post, v.proj
    v = model.vision_model
    blocks = []
    for b in v.encoder.layers:
        a = b.self_attn
        three = (a.q_proj, a.k_proj, a.v_proj)
        blocks.append(
            (
                b.layer_norm1, [p.weight for p in three], [p.bias for p in three], a.out_proj, b.layer_norm2,
                (b.mlp.fc1, b.mlp.activation_fn, b.mlp.fc2), a.num_heads,
            )
        )  # fmt: skip
    e = v.embeddings
    position = e.position_embedding.weight
    return (
        e.patch_embedding,
        e.class_embedding,
        position,
        v.pre_layrnorm,
        blocks,
        v.post_layernorm,
        model.visual_projection.weight.T,
    )


def plain(encoder, picture, bias, first):
    """(L, D) features of all tokens of the squashed picture, with a bias (L, L) on the attention from a block on."""

    def norm(layer, x):
        return F.layer_norm(x, layer.normalized_shape, layer.weight.double(), layer.bias.double(), layer.eps)

    def linear(layer, x):
        return x @ layer.weight.double().T + layer.bias.double()

    image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (encoder.mean, encoder.std))
    conv, start, position, before, blocks, after, projection = layers(encoder)
    patches = F.conv2d(((pixels - mean) / std)[None], conv.weight.double(), stride=conv.stride)[0].flatten(1).T
    x = norm(before, torch.cat([start.double()[None], patches]) + position.double())
    for number, (ln_1, weights, biases, out, ln_2, (up, act, down), heads) in enumerate(blocks):
        y = norm(ln_1, x)
        q, k, v = (y @ w.double().T + b.double() for w, b in zip(weights, biases, strict=True))
        joined = []
        for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            logits = a @ b.T / math.sqrt(a.shape[1])
            joined.append((logits + (bias if number >= first else 0)).softmax(-1) @ c)
        x = x + linear(out, torch.cat(joined, 1))
        x = x + linear(down, act(linear(up, norm(ln_2, x))))
    return norm(after, x) @ projection.double()


def plain_foveal(box, strength, sigma):
    """The released code's steps, token by token."""
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], WIDTH), min(box[3], HEIGHT)
    x1, x2, y1, y2 = x1 * SIZE / WIDTH, x2 * SIZE / WIDTH, y1 * SIZE / HEIGHT, y2 * SIZE / HEIGHT
    left, right = max(math.ceil(x1 / 8), 1) - 1, max(math.ceil(x2 / 8), 1)
    top, bottom = max(math.ceil(y1 / 8), 1) - 1, max(math.ceil(y2 / 8), 1)
    middle_y, middle_x = (bottom - top - 1) / 2, (right - left - 1) / 2
    weights = {
        (y, x): math.exp(-0.5 * ((x - left - middle_x) ** 2 + (y - top - middle_y) ** 2) / sigma**2)
        for y in range(top, bottom)
        for x in range(left, right)
    }
    low, high = min(weights.values()), max(weights.values())
    found = torch.zeros(GRID, dtype=torch.float64)
    for place, weight in weights.items():
        found[place] = (weight - low + 1e-6) / (high - low + 1e-6) * strength
    return found.flatten()


@torch.no_grad()
def test_falip_is_the_plain_transformer_with_a_bias(encoder, picture):
    view = FALIP(strength=3.0, sigma=1.5, block=1)
    for pack in (1, 3, 8):
        found = view.features(encoder, [picture], [BOXES], [None], pack=pack)
        for box, feature in zip(BOXES.tolist(), found, strict=True):
            bias = torch.zeros(17, 17, dtype=torch.float64)
            bias[0, 1:] = plain_foveal(box, 3.0, 1.5)
            expected = F.normalize(plain(encoder, picture, bias, 1)[0], dim=-1)
            torch.testing.assert_close(feature.double(), expected, atol=4e-3, rtol=0)
    untouched = F.normalize(plain(encoder, picture, 0, 0)[0], dim=-1).float()
    assert not torch.allclose(found[0], untouched, atol=1e-2)
    nothing = FALIP(strength=0.0, block=0).features(encoder, [picture], [BOXES], [None])
    torch.testing.assert_close(nothing, untouched.expand(4, -1), atol=2e-3, rtol=0)


def test_the_foveal_bias_follows_the_released_code():
    found = foveal_bias(BOXES, (HEIGHT, WIDTH), GRID)
    for box, row in zip(BOXES.tolist(), found, strict=True):
        torch.testing.assert_close(row.double(), plain_foveal(box, 0.2, 100.0), atol=1e-7, rtol=1e-4)
    assert found.amax(1).tolist() == pytest.approx([0.2] * 4)
    assert (found[2] > 0).sum() == 1  # within one token
    assert (found[3] > 0).all()


@torch.no_grad()
def test_dense_pools_the_values_of_patches(encoder, picture):
    alone = torch.full((17, 17), -math.inf, dtype=torch.float64).fill_diagonal_(0)
    patches = F.normalize(plain(encoder, picture, alone, len(layers(encoder)[4]) - 1)[1:], dim=-1)
    found = Dense().features(encoder, [picture], [BOXES], [None])
    for box, feature in zip(BOXES.tolist(), found, strict=True):
        weights = torch.zeros(4, 4, dtype=torch.float64)
        for y in range(4):  # the area of the patch in the picture that lies in the box
            for x in range(4):
                inside_y = min(box[3], 12 * (y + 1)) - max(box[1], 12 * y)
                inside_x = min(box[2], 20 * (x + 1)) - max(box[0], 20 * x)
                weights[y, x] = max(inside_y, 0) * max(inside_x, 0) / 240
        expected = F.normalize(weights.clamp(max=1).flatten() @ patches, dim=-1)
        torch.testing.assert_close(feature.double(), expected, atol=2e-3, rtol=0)
    # The mask that fills its box, on the borders of patches, pools the same.
    box = torch.tensor([[20.0, 12.0, 60.0, 36.0]])
    dense = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    dense[12:36, 20:60] = 1
    by_mask = DenseMask().features(encoder, [picture], [box], [[coco.encode(dense)]])
    by_box = Dense().features(encoder, [picture], [box], [None])
    assert float((by_mask * by_box).sum()) > 0.9


@torch.no_grad()
def test_dense_makes_one_pass_for_a_picture(open_clip_encoder, picture):
    sizes = []
    hook = open_clip_encoder.model.visual.conv1.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    other = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    many = torch.rand(50, 4, generator=torch.Generator().manual_seed(2)).sort(1).values * 40
    pictures, boxes = [picture, other, picture, other], [many, many[:3], many[:0], many[:1]]
    together = Dense().features(open_clip_encoder, pictures, boxes, [None] * 4, pack=2)
    assert sizes == [2, 1]  # none for the picture without regions
    hook.remove()
    parts = [Dense().features(open_clip_encoder, [p], [b], [None]) for p, b in zip(pictures, boxes, strict=True)]
    torch.testing.assert_close(together, torch.cat(parts), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(54))
    blocks = open_clip_encoder.model.visual.transformer.resblocks
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in blocks)


def test_shares_add_up_to_the_area_of_the_box():
    boxes = torch.tensor(
        [[2.0, 3.0, 40.0, 30.0], [10.0, 10.0, 10.0, 10.0], [90.0, 60.0, 99.0, 70.0], [0.0, 0.0, 80.0, 48.0]]
    )
    areas = box_shares(boxes, (HEIGHT, WIDTH), (6, 8)).sum(1) * (HEIGHT * WIDTH / 48)
    # A box without an area, or outside, counts as one pixel.
    torch.testing.assert_close(areas, torch.tensor([38.0 * 27.0, 1.0, 1.0, HEIGHT * WIDTH]))


def test_a_mask_without_a_pixel_is_pooled_over_its_box(open_clip_encoder, picture):
    empty = coco.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))
    box = BOXES[:1]
    by_mask = DenseMask().features(open_clip_encoder, [picture], [box], [[empty]])
    torch.testing.assert_close(by_mask, Dense().features(open_clip_encoder, [picture], [box], [None]))
    with pytest.raises(DataError, match="'dense_mask' needs a mask for every proposal"):
        DenseMask().features(open_clip_encoder, [picture], [box], [None])


@pytest.mark.parametrize("name", ["falip", "dense", "dense_mask"])
def test_other_towers_are_refused(name, tmp_path, tiny_model):
    vision = {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": 8}
    config = {
        "embed_dim": 24,
        "vision_cfg": vision,
        "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    resnet = Encoder({"name": f"local-dir:{tmp_path}", "random_init": True})
    with pytest.raises(ModelError, match=rf"view '{name}' works inside a vision transformer .* has a ModifiedResNet"):
        make_view(name).check(resnet, resize="squash")
    siglip = load_model({"name": f"hf:{tiny_model('siglip')}"})
    with pytest.raises(ModelError, match=r"has a SiglipVision\w+\. Use one"):
        make_view(name).check(siglip, resize="squash")


def test_settings_are_checked(open_clip_encoder):
    with pytest.raises(ModelError, match="has the blocks 0 to 2, but `block` of the view 'falip' is 8"):
        FALIP().check(open_clip_encoder, resize="squash")
    for view in (FALIP(block=1), Dense()):
        with pytest.raises(ConfigError, match="supports `resize: squash` only, not 'longest'"):
            view.check(open_clip_encoder, resize="longest")
    with pytest.raises(ConfigError, match="sigma of the view 'falip' must be greater than 0"):
        FALIP(sigma=0)
    with pytest.raises(ConfigError, match="block of the view 'falip' must be a whole number of at least 0, but is -1"):
        FALIP(block=-1)


def test_a_run_with_views_inside_the_encoder(tmp_path, capsys):
    root = make_demo_root(tmp_path / "world", sizes={"train": 1, "test": 2})
    data = ["--data.root", str(root), "--data.dataset", "demo", "--data.split_by", "drawn", "--data.split", "test"]
    views = '[dense, dense_mask, {"class_path": "FALIP", "init_args": {"block": 2}}]'
    model = ["--model.encoders", "demo", "--model.views", views, "--data.proposals.source", "ground_truth"]
    assert main(["test", *data, *model, "--run.root", str(tmp_path / "runs"), "--run.name", "r"]) == 0
    results = json.loads((tmp_path / "runs" / "r" / "results.json").read_text())
    assert 0 < results["metrics"]["rec"]["clip"]["acc@0.5"] <= 1
    assert main(["test", *data, *model[:3], "falip", *model[4:], "--run.root", str(tmp_path / "other")]) == 2
    assert "has the blocks 0 to 3, but `block` of the view 'falip' is 8" in capsys.readouterr().err
