"""Labelled pictures with a class and an attribute each, and a classifier's features of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from method import Words
from PIL import Image
from torch import Tensor, nn

from bsap.demo.kinds import CATEGORIES, PALETTE
from bsap.demo.objects import draw_object
from bsap.errors import ConfigError, DataError
from bsap.models.checkpoint import read_plain
from bsap.models.encoder import Encoder

COLUMNS = (("file", "class", "group"), ("img_filename", "y", "place"), ("image_id", "Blond_Hair", "Male"))
"""Own form, Waterbirds and CelebA; each with a column ``split`` or ``partition``."""
SPLITS = {"0": "train", "1": "val", "2": "test"}
BATCH = 64


@dataclass(frozen=True)
class Samples:
    """N pictures, files or drawn ones, with (N,) classes and (N,) attributes of A."""

    pictures: Sequence[Path | Image.Image]
    labels: Tensor
    attributes: Tensor
    kinds: int

    @property
    def groups(self) -> Tensor:
        """(N,) class and attribute as one number."""
        return self.labels * self.kinds + self.attributes

    def batches(self, size: tuple[int, int]) -> Iterator[Tensor]:
        """(B, 3, h, w) uint8, squashed to ``size``."""
        for start in range(0, len(self.pictures), BATCH):
            yield torch.stack([_pixels(picture, size) for picture in self.pictures[start : start + BATCH]])


def _pixels(picture: Path | Image.Image, size: tuple[int, int]) -> Tensor:
    try:
        image = Image.open(picture) if isinstance(picture, Path) else picture
        resized = image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read the picture {picture}: {error}. Restore the file.") from error
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def read_samples(folder: Path, metadata: Path, words: Words) -> dict[str, Samples]:
    """The splits ``train``, ``val`` and ``test`` of a CSV file; what does not fit the words is a DataError."""
    with metadata.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    names = set(rows[0]) if rows else set()
    columns = next((c for c in COLUMNS if names.issuperset(c)), None)
    split = next((name for name in ("split", "partition") if name in names), None)
    if columns is None or split is None:
        raise DataError(
            f"{metadata}: expected the columns {' or '.join(map(str, COLUMNS))}, and `split`, in its header."
        )
    codes = [_codes([row[name] for row in rows], list(part), f"{metadata}: column {name}")
             for name, part in zip(columns[1:], (words.classes, words.attributes), strict=True)]  # fmt: skip
    found = {}
    for wanted in SPLITS.values():
        at = [n for n, row in enumerate(rows) if SPLITS.get(row[split], row[split]) == wanted]
        found[wanted] = Samples(
            [folder / rows[n][columns[0]] for n in at], *(code[at] for code in codes), len(words.attributes)
        )
        for group, names in enumerate(product(words.classes, words.attributes)):
            if group not in found[wanted].groups:
                raise DataError(f"{metadata}, split {wanted}: the group ({', '.join(names)}) has no picture. Add one.")
    return found


def _codes(values: list[str], names: list[str], where: str) -> Tensor:
    """Numbers of the names; datasets that number their values are taken in the order of the numbers."""
    distinct = sorted(set(values))
    if not set(distinct) <= set(names):
        try:
            distinct = sorted(distinct, key=int)
        except ValueError:
            distinct = []
        if len(distinct) != len(names):
            unknown = sorted(set(values) - set(names))
            raise DataError(
                f"{where}: {', '.join(unknown[:5])} is none of {', '.join(names)}. Fix the file or the words."
            )
        names = distinct
    return torch.tensor([names.index(value) for value in values])


def draw_samples(words: Words, count: int, *, agreement: float, seed: int) -> Samples:
    """Drawn pictures in which the attribute, a colour, agrees with the class in a share of each class."""
    if unknown := [*({*words.classes} - {*CATEGORIES}), *({*words.attributes} - {*PALETTE})]:
        raise DataError(f"The drawn world has no {', '.join(unknown)}. Change the words, or set --pictures.")
    rng, classes, kinds = np.random.default_rng(seed), list(words.classes), list(words.attributes)
    labels = np.arange(count) % len(classes)
    shift = rng.integers(1, len(kinds), count)
    place = np.arange(count) // len(classes)  # within the class
    agrees = np.floor((place + 1) * agreement) > np.floor(place * agreement)
    attributes = np.where(agrees, labels, labels + shift) % len(kinds)
    pictures = [_draw(classes[label], kinds[kind], rng) for label, kind in zip(labels, attributes, strict=True)]
    return Samples(pictures, torch.from_numpy(labels), torch.from_numpy(attributes), len(kinds))


def _draw(category: str, colour: str, rng: np.random.Generator) -> Image.Image:
    ground = rng.uniform(90, 205) + rng.uniform(-28, 28, 3) + rng.normal(0, rng.uniform(2, 9), (96, 96, 3))
    canvas = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    red, green, blue = (int(np.clip(value + rng.uniform(-25, 25), 0, 255)) for value in PALETTE[colour])
    stamp = draw_object(
        category, (red, green, blue), "plain", int(rng.integers(50, 80)), turn=float(rng.uniform(-10, 10))
    )
    canvas.paste(stamp, (int(rng.integers(97 - stamp.width)), int(rng.integers(97 - stamp.height))), stamp)
    return canvas


@torch.no_grad()
def clip_features(encoder: Encoder, samples: Samples) -> Tensor:
    """(N, D) CLIP features of samples."""
    return torch.cat([encoder.encode_image(batch).cpu() for batch in samples.batches(encoder.size)])


def torchvision_classifier(
    name: str, train: Samples, classes: int, *, weights: Path | None, side: int, epochs: int, lr: float = 1e-3
) -> tuple[Callable[[Samples], Tensor], nn.Linear]:
    """A torchvision model, from a file or trained on all pictures: its features before the last layer, and that."""
    from torchvision import models

    model = models.get_model(name, weights=None, num_classes=classes)
    path, layer = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    if weights is not None:
        try:
            model.load_state_dict(read_plain(weights))
        except (RuntimeError, TypeError) as error:
            raise ConfigError(f"{weights} does not fit {name} with {classes} classes: {str(error)[:300]}") from error
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=epochs * -(-len(train.labels) // BATCH)
        )
        pixels = torch.cat(list(train.batches((side, side))))
        for _ in range(epochs):
            for at in torch.randperm(len(pixels)).split(BATCH):
                loss = nn.functional.cross_entropy(model(pixels[at].float() / 127.5 - 1), train.labels[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    model.eval()

    @torch.no_grad()
    def features(samples: Samples) -> Tensor:
        return torch.cat([model(batch.float() / 127.5 - 1) for batch in samples.batches((side, side))])

    return features, layer.requires_grad_(False)
