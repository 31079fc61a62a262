"""Damaged and hostile input for every reader.

It gives a value or one of the package's errors, in bounded time and memory. The quick test tries a fixed set of inputs.
``BSAP_FUZZ_SECONDS=3600 pytest -m slow tests/test_readers_fuzz.py`` draws new ones for an hour; a failure names the
file that holds the input.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bsap.datamodules import PictureDataModule, ProposalConfig
from bsap.datamodules.files import json_records, parse_json, parse_yaml, text_lines
from bsap.datamodules.jsonl import read_jsonl
from bsap.datamodules.masks import PictureMasks, encode_mask
from bsap.datamodules.picture_files import load_picture, picture_size
from bsap.datamodules.proposal_readers import read_proposals
from bsap.datamodules.proposals import make_proposals
from bsap.datamodules.refer import read_instances, read_refs
from bsap.datamodules.reviewed import Reviewed, label_errors
from bsap.errors import BSAPError
from bsap.prompts.banks import load_bank
from bsap.runs.records import read_predictions
from bsap.runs.saved import read_config, read_results

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = Path(__file__).parent / "datamodules" / "cases"
SECONDS, MEBIBYTES = 30.0, 256  # of one input; most take milliseconds
SLOW = float(os.environ.get("BSAP_FUZZ_SECONDS", "120"))
QUICK = 60

Reader = Callable[[bytes, Path], object]


def from_file(read: Callable[[Path], object], suffix: str) -> Reader:
    def run(data: bytes, folder: Path) -> object:
        file = folder / f"input{suffix}"
        file.write_bytes(data)
        return read(file)

    return run


def proposals(data: bytes, folder: Path) -> None:
    picture = PictureMasks(160, 120)
    for regions in read_proposals(data, "dets.json").values():
        for has_masks in (False, True):
            try:
                make_proposals(regions, ProposalConfig("detections"), picture, has_masks=has_masks)
            except BSAPError:
                continue


def masks(data: bytes, folder: Path) -> None:
    found = parse_json(data, "instances.json")
    annotations = found.get("annotations") if isinstance(found, dict) else found
    for item in annotations if isinstance(annotations, list) else [found]:
        encode_mask(item.get("segmentation") if isinstance(item, dict) else item, 160, 120, "annotation")


def own_picture(data: bytes, folder: Path) -> None:
    boxes = folder / "boxes.json"
    boxes.write_bytes(data)
    PictureDataModule(str(CASES / "base" / "pics" / "p0.png"), str(boxes), ["a"]).setup("predict")


def picture(data: bytes, folder: Path) -> None:
    file = folder / "x.jpg"
    file.write_bytes(data)
    load_picture(file, *picture_size(file), tolerance=1)


def pictures() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    found = []
    for form, mode in [("JPEG", "RGB"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB")]:
        stream = io.BytesIO()
        noise.convert(mode).save(stream, format=form)
        found.append(stream.getvalue())
    return found


def case(name: str) -> bytes:
    return (CASES / name).read_bytes()


RECORD = {"id": "a/b/c/1", "text": "red", "status": "ok", "n_regions": 2, "scorers": {"clip": {"box_iou": 1.0}}}
SEEDS: dict[str, tuple[Reader, Callable[[], list[bytes]]]] = {
    "json": (lambda data, _: parse_json(data, "x.json"), lambda: [case("mattnet_masks.json")]),
    "json lines": (lambda data, _: list(json_records(data, "x")), lambda: [case("padded_ids.jsonl")]),
    "yaml": (lambda data, _: parse_yaml(data, "x.yaml"), lambda: [b"a: &a [1, 2]\nb: {x: *a, y: 'z', <<: {k: 1}}\n"]),
    "lines": (lambda data, _: text_lines(data, "ids.txt"), lambda: [case("ids_with_bom.txt")]),
    "proposals": (
        proposals,
        lambda: [
            case("mattnet_masks.json"), case("coco_dataset_as_proposals.json"), case("base/dets.json"),
            case("normalised_boxes.json"), b'{"image_id": 1, "proposals": [{"bbox": [1, 2, 30, 40], "score": 0.5}]}\n',
        ],
    ),
    "masks": (masks, lambda: [case("instances_list_of_rle.json"), case("base/refer/refcoco/instances.json")]),
    "own lines": (
        from_file(lambda file: read_jsonl(file, "own", None, "val"), ".jsonl"), lambda: [case("padded_ids.jsonl")]
    ),
    "instances": (from_file(read_instances, ".json"), lambda: [case("base/refer/refcoco/instances.json")]),
    "refs": (
        from_file(read_refs, ".p"),
        lambda: [case("base/refer/refcoco/refs(unc).p"), *(pickle.dumps([{"a": [1, (2,)]}], p) for p in range(6))],
    ),
    "sets of referents": (from_file(read_refs, ".json"), lambda: [b'[{"ann_id": [-1], "split": "val", "ref_id": 1}]']),
    "review": (
        from_file(lambda file: label_errors(file, [Reviewed("a", "1", "a cup", (1.0, 2.0))]), ".json"),
        lambda: [
            b'{"annotation": [{"image_id": 1, "caption": "A cup.", "bbox": [1, 2, 3, 4], "caption_quality": 0}]}'
        ],
    ),
    "boxes of one picture": (own_picture, lambda: [b'[[1, 2, 30, 40], {"bbox": [1, 2, 3, 4]}]']),
    "pictures": (picture, pictures),
    "bank": (
        from_file(lambda file: load_bank(str(file)), ".yaml"), lambda: [b"name: x\nprompts:\n- a red cup\n- a dog\n"]
    ),
    "bank of lines": (from_file(lambda file: load_bank(str(file)), ".txt"), lambda: [b"a red cup\na dog\n"]),
    "results": (
        from_file(read_results, ".json"), lambda: [b'{"metrics": {"clip": {"rec": {"acc@0.5": 1.0}}}, "counts": {}}']
    ),
    "settings": (from_file(read_config, ".yaml"), lambda: [b"model: {scorers: [clip]}\ndata: {root: x}\n"]),
    "predictions": (from_file(read_predictions, ".jsonl"), lambda: [json.dumps(RECORD).encode() + b"\n"]),
}  # fmt: skip

TOKENS = [
    b"[" * 100_000, b"{\"a\":" * 50_000, b"- " * 50_000, b"NaN", b"1e999", b"-1e999", b"9" * 5000, b"null", b"[]",
    b"{}", b"true", b'""', b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\\ud800", b"*a", b"&a [*a]",
    b"!!int abc", b"<<: *a", b"(" * 50_000, b"r\xff\xff\xff\x0b", b"\x85" * 1000, b"q\x00h\x00\x86" * 200, b"-1",
    b"0", b"1.5", b"\x1b[2J", b"[red]", b"999999999999999999999", b"\n", b",", b":", b'"',
]  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The input with one to six places changed."""
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, 64])
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(length)) + data[at + length :]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at : at + length] * rng.choice([2, 3, 50]) + data[at + length :]
        elif kind == 3:
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.choice([0, length]) :]
        elif kind == 4:
            data = data[:at]
        elif kind == 5 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        else:
            other = rng.randrange(len(data) + 1)
            data = data[:at] + data[other : other + 64] + data[at:]
    return data


def check(read: Reader, data: bytes, folder: Path, label: str) -> None:
    """Read the input; raise an AssertionError that names a file with it unless all bounds are kept."""
    started = time.monotonic()
    tracemalloc.start()
    problem = None
    try:
        read(data, folder)
    except BSAPError as error:
        text = str(error)
        if not text or len(text) > 5000 or any(not c.isprintable() and c not in "\n\u200c\u200d" for c in text):
            problem = f"an error message that is not fit to print: {text[:200]!r}"
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    seconds = time.monotonic() - started
    if seconds > SECONDS:
        problem = f"{seconds:.0f} s"
    if peak > MEBIBYTES:
        problem = f"{peak:.0f} MiB"
    if problem is not None:
        file = folder / "failed"
        file.write_bytes(data)
        raise AssertionError(f"{label}: {problem}; the input is {file}")


def inputs(name: str, seed: int) -> Iterator[tuple[int, bytes]]:
    """Mutations of a reader's sound inputs, without end, each with its number."""
    sound = SEEDS[name][1]()
    number = 0
    while True:
        rng = random.Random(f"{name} {seed} {number}")
        yield number, mutated(rng.choice(sound), rng)
        number += 1


@pytest.mark.parametrize("name", list(SEEDS))
def test_damaged_input(name: str, tmp_path: Path) -> None:
    read, sound = SEEDS[name]
    for data in [*sound(), b"", *TOKENS]:
        check(read, data, tmp_path, name)
    for number, data in inputs(name, 0):
        if number == QUICK:
            break
        check(read, data, tmp_path, f"{name}, input {number}")


plain: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["image_id", "bbox", "box", "segmentation", "rle", "size", "counts", "proposals", "annotations", "images",
             "id", "dets", "score", "picture", "width", "height", "objects", "expressions", "text", "target", "prompts",
             "name"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(value=plain)
def test_any_json(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sound JSON of the right names and wrong structure, for all readers of JSON and YAML."""
    folder = tmp_path_factory.mktemp("fuzz")
    data = json.dumps(value).encode()
    for name, (read, _) in SEEDS.items():
        if name != "pictures":
            check(read, data, folder, name)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damaged_input_for_long(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    streams = {name: inputs(name, seed) for name in SEEDS}
    end = time.monotonic() + SLOW
    tried = 0
    while time.monotonic() < end:
        for name, stream in streams.items():
            number, data = next(stream)
            check(SEEDS[name][0], data, tmp_path, f"{name}, seed {seed}, input {number}")
            tried += 1
    print(f"{tried} inputs, seed {seed}")
