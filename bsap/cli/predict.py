"""``bsap predict``: which regions of your own pictures sentences mean, printed and written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from pycocotools import mask as coco

from bsap.cli.arguments import writing
from bsap.cli.parser import CommandLine
from bsap.datamodules import PictureDataModule, Scene
from bsap.datamodules.picture_files import load_picture, picture_size, scene_picture
from bsap.errors import ConfigError, DataError
from bsap.module import BSAPModule
from bsap.reports.formats import json_text
from bsap.reports.scene_picture import contact_sheet, draw_scene
from bsap.reports.shown_run import answer_of
from bsap.reports.terminal import print_choices
from bsap.runs.schema import Record

HIDDEN = ("run.", "seed_everything", "model.tasks", "model.strict", "model.missing_mask", "model.compile")
"""Settings that change nothing here, and what they start with; the help leaves them out."""

_PICTURE = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class PredictCommand(CommandLine):
    """The command line of ``bsap predict``, with the files that it writes."""

    hidden = HIDDEN

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The settings of ``bsap test``, and where the answers go."""
        parser.add_argument("--output", type=str, help="write the answers to a JSON file")
        parser.add_argument(
            "--output-picture",
            type=str,
            help="write a picture that shows the chosen regions; for several pictures, a folder of them",
        )
        parser.add_argument(
            "--output-mask",
            type=str,
            help="write the mask of the chosen region, or the union of several, as PNG, 255 inside. Several "
            "expressions or scorers make several files, NAME-1-clip.png; several pictures make a folder",
        )
        parser.add_argument(
            "--propose",
            type=str,
            help="find the regions with torchvision's Mask R-CNN instead of data.boxes: default for its published "
            "weights, or a weight file",
        )
        super().add_arguments_to_parser(parser)


def predict(cli: PredictCommand) -> int:
    """Choose regions, print them and write what was asked for."""
    data, model, options = cli.datamodule, cli.model, cli.config
    assert isinstance(data, PictureDataModule)
    assert isinstance(model, BSAPModule)
    outputs = {name: Path(value).expanduser() for name in _WRITERS if (value := options.get(name))}
    if options.get("propose"):
        data.boxes = find_regions(data.files(), str(options.propose))
    data.setup("predict")
    for name in outputs.keys() & {"output_picture", "output_mask"}:
        _check_output(outputs[name], data.scenes, f"--{name.replace('_', '-')}")
    batches = cli.trainer.predict(model, datamodule=data)
    records = [record for batch in batches or [] for record in batch]
    if not records:  # another process has the pictures
        return 0
    print_choices(records)
    for name, path in outputs.items():
        with writing(path, f"--{name.replace('_', '-')}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _WRITERS[name](path, records, data.scenes, model)
        print(f"Written: {path}")
    return 0


def find_regions(files: Sequence[Path], weights: str) -> dict[str, list[dict[str, Any]]]:
    """Objects in pictures, by a detector.

    Args:
        files: the pictures.
        weights: ``default`` for the published weights of the detector, or a weight file.

    Returns:
        For each file, as text, objects with ``bbox``, and with ``segmentation`` where the detector finds masks.
    """
    from bsap.propose.detectors import DEFAULT, load_detector
    from bsap.propose.picture_list import Picture
    from bsap.propose.run import rows_of

    score, most = 0.5, 100
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = load_detector(DEFAULT, weights=weights, score=score, max_per_picture=most, device=device)
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        picture = Picture(str(file), file, *picture_size(file))
        pixels = load_picture(file, picture.width, picture.height).to(device).float() / 255
        with torch.no_grad():
            (objects,) = detector.find([pixels])
        found[str(file)] = rows_of(objects, picture, score=score, most=most)
        if not found[str(file)]:
            raise DataError(f"The detector found nothing in {file}. Give regions by `--data.boxes` instead.")
    return found


def _write_json(path: Path, records: Sequence[Record], scenes: Sequence[Scene], model: BSAPModule) -> None:
    pictures: dict[str, Any] = {
        scene.image_id: {
            "picture": str(scene.path),
            "width": scene.width,
            "height": scene.height,
            "boxes": scene.proposals.boxes.tolist(),
            "expressions": [],
        }
        for scene in scenes
    }
    for record in records:
        answer = {key: record[key] for key in ("text", "text_cut", "scorers", "relations") if key in record}
        pictures[record["image_id"]]["expressions"].append(answer)
    content = {
        "models": [encoder.describe() for encoder in model.models],
        "views": model.settings["views"],
        "bank": None if model.bank is None else model.bank.name,
        "pictures": list(pictures.values()),
    }
    path.write_text(json_text(content), encoding="utf-8")


def _write_pictures(path: Path, records: Sequence[Record], scenes: Sequence[Scene], model: BSAPModule) -> None:
    for scene, file in zip(scenes, _files(path, scenes), strict=True):
        picture = Image.fromarray(scene_picture(scene).permute(1, 2, 0).numpy())
        drawn = [
            draw_scene(
                picture,
                boxes=scene.proposals.boxes,
                referent=None,
                choices={name: answer_of(row) for name, row in record["scorers"].items()},
                title=record["text"],
            )
            for record in records
            if record["image_id"] == scene.image_id
        ]
        contact_sheet(drawn).save(file) if len(drawn) > 1 else drawn[0].save(file)


def _write_masks(path: Path, records: Sequence[Record], scenes: Sequence[Scene], model: BSAPModule) -> None:
    for scene, file in zip(scenes, _files(path, scenes), strict=True):
        masks = scene.proposals.masks or ()
        own = [record for record in records if record["image_id"] == scene.image_id]
        for n, record in enumerate(own, start=1):
            for scorer, row in record["scorers"].items():
                parts = [
                    file.stem,
                    *([str(n)] if len(own) > 1 else []),
                    *([scorer] if len(record["scorers"]) > 1 else []),
                ]
                if row["region"] is not None:
                    pixels = np.zeros((scene.height, scene.width), np.uint8)
                    for region in answer_of(row):
                        pixels |= coco.decode(masks[region]) * np.uint8(255)
                    Image.fromarray(pixels).save(file.with_name("-".join(parts) + ".png"))


def _check_output(path: Path, scenes: Sequence[Scene], option: str) -> None:
    """Raise before the models run if pictures or masks cannot be written."""
    if path.suffix.lower() in _PICTURE and len(scenes) > 1:
        raise ConfigError(f"{option} {path} is one file, but there are {len(scenes)} pictures. Name a folder.")
    bare = next((scene.path for scene in scenes if scene.proposals.masks is None), None)
    if option == "--output-mask" and bare is not None:
        raise DataError(
            f"The regions of {bare} have boxes only, so that there is no mask to write. Give objects with "
            "`segmentation` in `--data.boxes`, or use --propose."
        )


def _files(path: Path, scenes: Sequence[Scene]) -> list[Path]:
    if path.suffix.lower() in _PICTURE:
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    return [path / f"{scene.image_id}.png" for scene in scenes]


_WRITERS = {"output": _write_json, "output_picture": _write_pictures, "output_mask": _write_masks}
