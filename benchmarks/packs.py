"""How many regions to encode at once: seconds of the same regions in packs of several sizes, over those of the fastest.

    python benchmarks/packs.py
    python benchmarks/packs.py --encoder RN50x16 --regions 64
    python benchmarks/packs.py --device cuda --precision bf16-mixed --regions 1024 --packs 32 64 128 256 512

Prints JSON. The sizes take turns, so that noise of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import torch

from bsap import Encoder, EncoderConfig
from bsap.models.precision import PRECISIONS, autocast


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="ViT-B-32-quickgelu", help="an open_clip architecture")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="32-true")
    parser.add_argument("--regions", type=int, default=128)
    parser.add_argument("--packs", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    device = torch.device(options.device)
    encoder = Encoder(EncoderConfig(options.encoder, random_init=True)).to(device)
    pixels = torch.randint(0, 256, (options.regions, 3, *encoder.size), dtype=torch.uint8, device=device)

    def seconds(pack: int) -> float:
        started = time.perf_counter()
        for part in pixels.split(pack):
            encoder.encode_image(part)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with torch.inference_mode(), autocast(options.precision, device):
        for pack in options.packs:
            seconds(pack)  # warm-up
        rounds = [{pack: seconds(pack) for pack in options.packs} for _ in range(options.repeats)]
    medians = {pack: statistics.median(times[pack] for times in rounds) for pack in options.packs}
    fastest = min(medians.values())
    report = {
        "what": {key: value for key, value in vars(options).items() if key != "packs"},
        "threads": torch.get_num_threads(),
        "over_the_fastest": {pack: round(value / fastest, 3) for pack, value in medians.items()},
        "seconds": {pack: round(value, 3) for pack, value in medians.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
