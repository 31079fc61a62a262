"""The example runs as its README says, and its parts are held to independent references."""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples" / "last_layer"
FAST = ["--classifier", "clip", "--seeds", "1", "--train", "200"]


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    names = ("method", "pictures", "run")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(FOLDER))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def words(example: dict[str, ModuleType]) -> Any:
    return example["method"].Words.read(FOLDER / "words.yaml")


def test_the_drawn_world(example: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    assert example["run"].main(FAST) == 0
    dropped, *rows = [line for line in capsys.readouterr().out.splitlines() if "light" not in line]
    assert dropped == "dropped: CLIP takes 'dark' for 'red', not 'blue'"
    found = [re.fullmatch(r".{26} worst group +([\d.]+) ± +0.00   mean +([\d.]+) ± +0.00", row) for row in rows]
    assert len(found) == 5
    assert all(match and 0 <= float(match[1]) <= float(match[2]) <= 100 for match in found)


def test_a_model_of_torchvision_is_cut_before_its_last_layer(example: dict[str, ModuleType], words: Any) -> None:
    pictures = example["pictures"]
    train = pictures.draw_samples(words, 70, agreement=0.95, seed=0)
    torch.manual_seed(0)
    features, layer = pictures.torchvision_classifier("resnet18", train, 2, weights=None, side=32, epochs=1)
    assert features(train).shape == (70, 512)
    assert layer(features(train)).shape == (70, 2)


def test_the_drawn_colours_agree_as_often_as_asked(example: dict[str, ModuleType], words: Any) -> None:
    for agreement in (0.5, 0.95, 1.0):
        drawn = example["pictures"].draw_samples(words, 200, agreement=agreement, seed=0)
        for label in (0, 1):
            of_class = drawn.attributes[drawn.labels == label]
            assert len(of_class) == 100
            assert int((of_class == label).sum()) == round(100 * agreement)


def test_the_projection_is_a_regression_that_ignores_the_gap(example: dict[str, ModuleType]) -> None:
    """Held to numpy: ridge regression on the projected features, and nothing of the gap gets through."""
    generator = torch.Generator().manual_seed(0)
    gap = torch.randn(6, generator=generator)
    texts = torch.randn(20, 6, generator=generator)
    images = torch.randn(50, 6, generator=generator) + texts.mean(0) + 3 * gap
    features = images @ torch.randn(6, 4, generator=generator) + 1.0
    fit = example["method"].Projection.fit
    ignoring, whole = (fit(images, features, texts, ignore_gap=value) for value in (True, False))
    direction = images.mean(0) - texts.mean(0)
    assert float((ignoring.weight @ direction).norm()) < 1e-3 * float((whole.weight @ direction).norm())
    x, h = images.double().numpy(), features.double().numpy()
    xc = x - x.mean(0)
    expected = np.linalg.solve(xc.T @ xc + 1e-2 * 50 / 6 * np.eye(6), xc.T @ (h - h.mean(0))).T
    np.testing.assert_allclose(whole.weight.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(whole(images).mean(0).numpy(), h.mean(0), atol=1e-4)
    np.testing.assert_allclose(ignoring(texts).mean(0).numpy(), h.mean(0), atol=1e-2)


def test_the_layer_is_where_its_loss_is_flat_and_groups_weigh_the_same(example: dict[str, ModuleType]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=generator)
    labels = (x[:, 0] + 0.5 * torch.randn(40, generator=generator) > 0).long()
    groups = torch.tensor([0] * 30 + [1] * 10)
    layer = example["method"].fit_layer(x, labels, groups, classes=2)
    scale = x.std(0).mean()
    weight, bias = layer.weight.clone().requires_grad_(True), layer.bias.clone().requires_grad_(True)
    losses = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels, reduction="none")
    total = (losses[:30].mean() + losses[30:].mean()) / 2 + 1e-3 * (weight * scale).square().sum()
    total.backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-3


def test_group_accuracy(example: dict[str, ModuleType]) -> None:
    layer = torch.nn.Linear(1, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[-1.0], [1.0]]), torch.zeros(2)
    x, labels = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([1, 1, 0, 1])
    assert example["method"].group_accuracy(layer, x, labels, torch.tensor([0, 0, 0, 2])) == (0.75, 0.0)


def folder_of(tmp_path: Path, header: tuple[str, ...], values: tuple[tuple[str, str], tuple[str, str]]) -> Path:
    """Twelve pictures, one of each group in each split."""
    rows = []
    for split in range(3):
        for label in values[0]:
            for kind in values[1]:
                name = f"{len(rows)}.png"
                Image.new("RGB", (40, 30), (len(rows) * 20, 0, 0)).save(tmp_path / name)
                rows.append((name, label, kind, str(split)))
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return tmp_path / "metadata.csv"


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (("file", "class", "group", "split"), (("cup", "bottle"), ("red", "blue"))),
        (("img_filename", "y", "place", "split"), (("0", "1"), ("0", "1"))),
        (("image_id", "Blond_Hair", "Male", "partition"), (("-1", "1"), ("-1", "1"))),
    ],
)
def test_forms_of_metadata(
    example: dict[str, ModuleType], words: Any, tmp_path: Path, header: tuple[str, ...], values: Any
) -> None:
    found = example["pictures"].read_samples(tmp_path, folder_of(tmp_path, header, values), words)
    assert list(found) == ["train", "val", "test"]
    for samples in found.values():
        assert samples.labels.tolist() == [0, 0, 1, 1]
        assert samples.attributes.tolist() == [0, 1, 0, 1]
        assert samples.groups.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file,class", "path,class", "expected the columns"),
        ("cup", "mug", "column class: mug is none of cup, bottle"),
        ("11.png,bottle,blue,2", "11.png,bottle,red,2", "split test: the group (bottle, blue) has no picture"),
        ("0.png", "gone.png", "Cannot read the picture"),
        (",", ",", "needs at least 128 pictures, but there are 4"),
    ],
)
def test_bad_pictures(
    example: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    file = folder_of(tmp_path, ("file", "class", "group", "split"), (("cup", "bottle"), ("red", "blue")))
    file.write_text(file.read_text().replace(old, new, 1 if "png" in old else -1))
    assert example["run"].main(["--pictures", str(tmp_path), "--metadata", str(file), *FAST]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "classes: {cup: [giraffe], bottle: []}\nattributes: {red: [], blue: []}",
            "vocabulary of 'demo': giraffe",
        ),
        ("classes: {cup: []}\nattributes: {red: [], blue: []}", "at least two classes"),
        ("classes: [cup]\nattributes: {}", "expected `classes` and `attributes`"),
        ("a: [", "expected `classes` and `attributes`"),
        ("classes: {cup: [], thing: []}\nattributes: {red: [], blue: []}", "The drawn world has no thing"),
    ],
)
def test_bad_words(
    example: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "words.yaml").write_text(text)
    assert example["run"].main(["--words", str(tmp_path / "words.yaml"), *FAST]) == 2
    assert message in capsys.readouterr().err
