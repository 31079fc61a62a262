"""What the views cost: milliseconds per region for each view and method, as JSON on standard output.

    python benchmarks/views.py --picture 640x480 --regions 20 --size 224

`native` is timed on the CPU, and `fused` on a CUDA device where there is one. The picture and the boxes are drawn
from a seed. Times are medians; on a device they are taken after it has finished.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch
from pycocotools import mask as coco

from bsap.views import VIEWS, View


def scene(height: int, width: int, regions: int) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, object]]]:
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1)
    sides = rng.uniform(0.15, 0.6, (regions, 2)) * (width, height)
    corner = rng.uniform(0, 1, (regions, 2)) * ((width, height) - sides)
    boxes = np.concatenate([corner, corner + sides], axis=1)
    masks = np.zeros((height, width, regions), np.uint8, order="F")
    for index, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        y, x = np.mgrid[0:height, 0:width]
        masks[..., index] = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
    return picture, torch.from_numpy(boxes.astype(np.float32)), coco.encode(masks)


def milliseconds(
    view: View,
    picture: torch.Tensor,
    boxes: torch.Tensor,
    masks: list[dict[str, object]],
    size: int,
    method: str,
    repeats: int,
) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        view.render(picture, boxes, (size, size), masks=masks, method=method)  # type: ignore[arg-type]
        if picture.is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / len(boxes) * 1e3)
    return round(statistics.median(times[1:]), 4)  # the first call builds what is kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", default="640x480", help="width x height in pixels")
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--size", type=int, default=224, help="side of the encoder's input")
    parser.add_argument("--views", nargs="*", default=sorted(name for name, view in VIEWS.items() if view.draws))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    width, height = map(int, options.picture.split("x"))
    picture, boxes, masks = scene(height, width, options.regions)
    places = [("cpu", "native")] + [("cuda", "fused")] * torch.cuda.is_available()
    result = {}
    for name in options.views:
        result[name] = {
            f"{device} {method}": milliseconds(
                VIEWS[name], picture.to(device), boxes.to(device), masks, options.size, method, options.repeats
            )
            for device, method in places
        }
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }
    print(json.dumps({"options": vars(options), "machine": machine, "ms_per_region": result}, indent=2))


if __name__ == "__main__":
    main()
