"""What bsap costs beside the encoder, and beside a loop that encodes every region for every sentence.

    python benchmarks/speed.py                                  # ViT-B-32 with random weights, drawn pictures
    python benchmarks/speed.py --encoder demo
    python benchmarks/speed.py --photographs FOLDER             # JPEGs instead of drawn pictures
    python benchmarks/speed.py --photographs FOLDER --all       # ViT-B-32 and the demo's model, on both
    python benchmarks/speed.py --parts share --device cuda --precision bf16-mixed --pictures 384 --proposals 12
        --batch-size 64 --encoder ViT-B-32-quickgelu ViT-L-14-336-quickgelu --tasks rec ris

Prints JSON. Nearly everything is a ratio of times measured in one process, side by side: seconds on their own say more
about the machine than about the code.

(a) ``encoder_share``: seconds of the encoder alone (the same views already in memory, the same texts), with images
    and texts each in packs of the size at which this encoder is fastest, over seconds of bsap's test loop, without run
    folder and store; 1 would be a loop that costs nothing. ``best_packs`` names the sizes; ``views_per_second`` and
    ``pictures_per_second`` are the loop's; ``first_batch_s`` is from its start to the end of its first batch, and
    ``command_to_first_batch_s`` the same from ``bsap test`` being typed, in a process of its own.
(b) ``against_loop``: seconds of a plain loop over seconds of bsap's test loop. The loop does what ReCLIP's code does
    (allenai/reclip): for each sentence, every region is cropped, blurred and preprocessed with PIL and encoded in one
    batch, then the text; ``cached`` keeps each picture's features over its sentences.
(c) ``rescoring``: seconds of the test loop, with a store, over seconds of scoring its stored features, with the same
    scorers and bank, for REC; ``rescoring.py`` measures the size of RefCOCO's val split, RIS too.
(d) ``peak_memory_mb``: of the device, or of the process without those that decode pictures, over 1 and over 4 times
    the pictures, and over pictures with 10 and with 500 regions, each in a process of its own.
(e) ``scaling``: seconds of the test loop at 1, 2 and 4 times the proposals, and expressions, over those at 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image, ImageFilter
from world import make_world

from bsap import BSAPModule, Encoder, EncoderConfig, ProposalConfig, RefCOCODataModule
from bsap.cli.progress import quiet
from bsap.datamodules.batch import SceneBatch
from bsap.datamodules.scene import Scene
from bsap.features.ensemble import Ensemble
from bsap.models.precision import autocast
from bsap.sweep.stored_split import StoredSplit
from bsap.views.packing import pack_size

VIEWS = ["crop", "blur"]
PARTS = ["share", "loop", "rescoring", "memory", "scaling"]


class Clock(Callback):
    """Seconds of the test loop: from its first batch being asked for to its last metric."""

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start."""
        sync()
        self.start = time.perf_counter()

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Note the end of the first batch."""
        if not hasattr(self, "first"):
            sync()
            self.first = time.perf_counter() - self.start

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop."""
        sync()
        self.seconds = time.perf_counter() - self.start


def sync() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    sync()
    start = time.perf_counter()
    work()
    sync()
    return time.perf_counter() - start


class Bench:
    """One dataset, one model."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root, self.options = root, options
        self.device = torch.device(options.device)
        # Made once: what is measured is the loop, not the loading of weights.
        self.module = self.new_module()
        self.module.configure_model()
        self.module.to(self.device)

    def new_module(self, store: str | None = None) -> BSAPModule:
        """A module that keeps no files, or features only."""
        random = self.options.encoder != "demo"
        config = EncoderConfig(self.options.encoder, random_init=random, compile=self.options.compile)
        pack, tasks = self.options.region_batch, [self.options.task]
        return BSAPModule(encoders=[config], views=VIEWS, tasks=tasks, region_batch=pack, run=None, store=store)

    def data(self) -> RefCOCODataModule:
        """The data module, as a user makes it."""
        return RefCOCODataModule(
            str(self.root),
            ProposalConfig("masks" if self.options.task == "ris" else "detections", path="proposals.json"),
            batch_size=self.options.batch_size,
            num_workers=self.options.workers,
        )

    def test_loop(self, module: BSAPModule | None = None) -> float:
        """Seconds of ``trainer.test`` between its start and its end, with each distinct text encoded."""
        timer = Clock()
        module = module or self.module
        trainer = Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.options.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[timer],
        )
        trainer.test(module, self.data(), verbose=False)
        self.module.to(self.device)
        self.first_batch = timer.first
        return timer.seconds

    def rescoring(self, folder: Path) -> float:
        """Seconds of a test run into an empty store, over those of scoring what it stored."""
        module = self.new_module(store=str(folder))
        module.encoders = self.module.encoders
        full = self.test_loop(module)
        data = self.data()
        data.setup("test")
        encoder = self.encoder

        def score() -> None:
            ensemble = Ensemble([encoder], module.views, precision=self.options.precision, store=folder)
            split = StoredSplit(data.scenes, ensemble, ["rec"])
            split.evaluate(module.scorers, module.bank)

        return full / clock(score)

    def prepare_encoder_only(self) -> None:
        """Draw all views once and keep them on the device."""
        data = self.data()
        data.setup("test")
        encoder = self.encoder
        rendered, self.batch_texts = [], []
        for batch in data.test_dataloader():
            assert isinstance(batch, SceneBatch)
            moved = batch.to(self.device)
            pixels = []
            for view in self.module.views:
                for picture, boxes in zip(moved.pictures, moved.boxes.split(moved.counts), strict=True):
                    pixels.append(view.render(picture, boxes, encoder.size, fill=encoder.fill))
            rendered.append(torch.cat(pixels))
            self.batch_texts.append([f"a photo of {e.text}" for scene in batch.scenes for e in scene.expressions])
        self.rendered = rendered

    def best_packs(self) -> dict[str, int]:
        """The numbers of images and of texts at once with which the encoder alone is fastest."""
        encoder = self.encoder
        candidates = [4, 8, 16, 32, 64] if self.device.type == "cpu" else [128, 256, 512, 1024, 2048]
        # As many as the benchmark has, repeated where a pack is larger.
        pixels, texts = torch.cat(self.rendered), self.texts()
        most = max(candidates)
        pixels = pixels.repeat(-(-most // len(pixels)), 1, 1, 1)[:most]
        texts = (texts * (-(-most // len(texts))))[:most]
        found: dict[str, int] = {}
        with torch.inference_mode(), autocast(self.options.precision, self.device):
            for kind, encode in (
                ("images", lambda pack: [encoder.encode_image(part) for part in pixels.split(pack)]),
                ("texts", lambda pack: encoder.encode_text(texts, chunk=pack)),
            ):
                seconds = {}
                for pack in candidates:
                    encode(pack)  # the first run of a size chooses kernels, or compiles
                    seconds[pack] = clock(lambda encode=encode, pack=pack: encode(pack))  # type: ignore[misc]
                found[kind] = min(seconds, key=seconds.__getitem__)
        return found

    def texts(self) -> list[str]:
        """The distinct texts of the bank and of all sentences."""
        texts = [f"a photo of {prompt}" for prompt in self.prompts()]
        return list(dict.fromkeys([*texts, *itertools.chain.from_iterable(self.batch_texts)]))

    def encoder_only(self, packs: dict[str, int]) -> float:
        """Seconds to encode the same views and the same distinct texts, at the given packs."""
        pixels, texts = torch.cat(self.rendered), self.texts()

        def work() -> None:
            with torch.inference_mode(), autocast(self.options.precision, self.device):
                self.encoder.encode_text(texts, chunk=packs["texts"])
                for pack in pixels.split(packs["images"]):
                    self.encoder.encode_image(pack)

        return clock(work)

    @property
    def encoder(self) -> Encoder:
        """The one model."""
        return self.module.models[0]

    @staticmethod
    def prompts() -> tuple[str, ...]:
        """The default bank."""
        from bsap.prompts.banks import load_bank

        return load_bank("coco_categories").prompts

    def plain_loop(self, *, cached: bool) -> float:
        """Seconds of a loop over sentences that draws and encodes every region, as published code does."""
        data = self.data()
        data.setup("test")
        encoder = self.encoder

        def features(scene: Scene) -> torch.Tensor:
            with Image.open(scene.path) as opened:
                picture = opened.convert("RGB")
            views = []
            for box in scene.proposals.boxes.tolist():
                views.append(preprocess(picture.crop(box), encoder))
            for box in scene.proposals.boxes.tolist():
                blurred = picture.filter(ImageFilter.GaussianBlur(100))
                blurred.paste(picture.crop(box), tuple(round(x) for x in box[:2]))
                views.append(preprocess(blurred, encoder))
            found: torch.Tensor = encoder.model.encode_image(torch.stack(views).to(self.device), normalize=True)
            return found

        def work() -> None:
            with torch.inference_mode(), autocast(self.options.precision, self.device):
                for scene in data.scenes:
                    kept = features(scene) if cached else None
                    for expression in scene.expressions:
                        image = features(scene) if kept is None else kept
                        tokens = encoder.tokenizer([f"a photo of {expression.text}"]).to(self.device)
                        text = encoder.model.encode_text(tokens, normalize=True)
                        logits = encoder.tau * (image.float() @ text.float().T)
                        int(logits.view(len(VIEWS), -1).sum(0).softmax(0).argmax())

        return clock(work)


def preprocess(picture: Image.Image, encoder: Encoder) -> torch.Tensor:
    """PIL's squash and the model's own statistics."""
    from torchvision.transforms.functional import normalize, to_tensor

    squashed = picture.resize((encoder.size[1], encoder.size[0]), Image.Resampling.BICUBIC)
    return normalize(to_tensor(squashed), encoder.mean, encoder.std)


def peak_memory_mb(root: Path, options: argparse.Namespace) -> int:
    """Peak memory of a test run over a dataset: of the device where it has its own, else of this process."""
    quiet()
    warnings.filterwarnings("ignore")
    bench = Bench(root, options)
    bench.test_loop()
    if bench.device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    # Not getrusage, whose figure includes that of the parent at the time of forking.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


_FIRST_BATCH = """
import os, time
from bsap.cli import main
from bsap.module import BSAPModule
step = BSAPModule.test_step
def first(self, batch, number):
    step(self, batch, number)
    print("first batch", time.time(), flush=True)
    os._exit(0)
BSAPModule.test_step = first
main(["test", "-c", {config!r}])
"""


def command_to_first_batch(root: Path, run: Path, options: argparse.Namespace) -> float:
    """Seconds from the start of a process that runs ``bsap test`` to the end of its first batch."""
    source = "masks" if options.task == "ris" else "detections"
    proposals = {"source": source, "path": "proposals.json"}
    encoder = {"name": options.encoder, "random_init": options.encoder != "demo"}
    device = {"accelerator": "gpu" if options.device == "cuda" else "cpu", "devices": 1, "precision": options.precision}
    settings = {
        "trainer": device,
        "data": {"root": str(root), "proposals": proposals, "batch_size": options.batch_size},
        "model": {"encoders": [encoder], "views": VIEWS, "tasks": [options.task], "store": None},
        "run": {"root": str(run)},
    }
    config = root / "first_batch.json"
    config.write_text(json.dumps(settings))
    started = time.time()
    command = [sys.executable, "-W", "ignore", "-c", _FIRST_BATCH.format(config=str(config))]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split("first batch")[1].split()[0]) - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=["ViT-B-32-quickgelu"], help="open_clip architectures, or demo")
    parser.add_argument("--tasks", nargs="+", default=["rec"], choices=["rec", "ris"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--proposals", type=int, default=10)
    parser.add_argument("--expressions", type=int, default=7)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--region-batch", type=int, help="by default bsap's own")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", nargs="?", const=True, default=False, metavar="MODE", help="see EncoderConfig")
    parser.add_argument("--regions-for-memory", type=int, nargs=2, default=[10, 500], metavar="N")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--all", action="store_true", help="both models, on drawn pictures and on --photographs")
    options = parser.parse_args()
    quiet()
    warnings.filterwarnings("ignore")
    encoders = dict.fromkeys([*options.encoder, "demo"] if options.all else options.encoder)
    sources = dict.fromkeys([None, options.photographs] if options.all else [options.photographs])
    reports = []
    for encoder, photographs, task in itertools.product(encoders, sources, options.tasks):
        changes = {"encoder": encoder, "photographs": photographs, "task": task}
        chosen = argparse.Namespace(**vars(options) | changes)
        with tempfile.TemporaryDirectory() as folder:
            reports.append(measure(Path(folder), chosen))
    print(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All the parts that were asked for."""
    shape = {"pictures": options.pictures, "proposals": options.proposals, "expressions": options.expressions}
    report: dict[str, Any] = {
        "what": {
            **shape,
            "encoder": options.encoder,
            "task": options.task,
            "views": VIEWS,
            "precision": options.precision,
            "pictures_are": "drawn" if options.photographs is None else "photographs",
        },
        "machine": {
            "device": torch.cuda.get_device_name() if options.device == "cuda" else processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }

    def world(name: str, **changed: int) -> Path:
        return make_world(folder / name, **{**shape, **changed}, photographs=options.photographs)

    bench = Bench(world("a"), options)
    bench.test_loop()  # warm-up
    if "share" in options.parts:
        bench.prepare_encoder_only()
        packs = report["best_packs"] = bench.best_packs()
        bench.encoder_only(packs)
        pairs = [(bench.encoder_only(packs), bench.test_loop()) for _ in range(options.repeats)]
        loop = statistics.median(seconds for _, seconds in pairs)
        report["encoder_share"] = summary([alone / seconds for alone, seconds in pairs])
        report["seconds"] = {"encoder": [a for a, _ in pairs], "test_loop": [b for _, b in pairs]}
        report["views_per_second"] = round(sum(map(len, bench.rendered)) / loop, 1)
        report["pictures_per_second"] = round(options.pictures / loop, 2)
        report["pack"] = pack_size(bench.encoder, options.region_batch)
        report["first_batch_s"] = round(bench.first_batch, 3)
        report["command_to_first_batch_s"] = round(command_to_first_batch(bench.root, folder / "run", options), 2)
    if "loop" in options.parts:
        report["against_loop"] = {
            name: summary([bench.plain_loop(cached=cached) / bench.test_loop() for _ in range(options.repeats)])
            for name, cached in (("cached", True), ("uncached", False))
        }
    if "rescoring" in options.parts:
        report["rescoring"] = summary([bench.rescoring(folder / f"store{n}") for n in range(options.repeats)])
    if "memory" in options.parts:
        report["peak_memory_mb"] = {}
        few, many = options.regions_for_memory
        worlds: dict[str, dict[str, int]] = {
            f"{factor * options.pictures} pictures": {"pictures": factor * options.pictures} for factor in (1, 4)
        }
        worlds |= {f"{count} regions a picture": {"proposals": count} for count in (few, many)}
        for number, (name, changed) in enumerate(worlds.items()):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                peak = alone.submit(peak_memory_mb, world(f"memory{number}", **changed), options).result()
            report["peak_memory_mb"][name] = peak
    if "scaling" in options.parts:
        report["scaling"] = {}
        base = statistics.median(bench.test_loop() for _ in range(options.repeats))
        for what in ("proposals", "expressions"):
            for factor in (2, 4):
                bench.root = world(f"{what}{factor}", **{what: factor * shape[what]})
                times = [bench.test_loop() for _ in range(options.repeats)]
                report["scaling"][f"{what} x{factor}"] = round(statistics.median(times) / base, 2)
    return report


def processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
