import math

import pytest
import torch

from bsap.views.kernels import aligned, constant, place, weights

WINDOWS = torch.tensor([[0, 0, 30, 20], [4, 5, 6, 19], [29, 19, 30, 20], [3, 0, 27, 1]])


def cubic(x):
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def triangle(x):
    return max(0.0, 1 - abs(x))


def row(i, length, out, kernel, support):
    """The weights of one pixel of the result, as PIL's source computes them, in float64."""
    scale = length / out
    wide = max(scale, 1.0)
    centre = (i + 0.5) * scale
    first = max(0, int(centre - support * wide + 0.5))
    last = min(length, int(centre + support * wide + 0.5))
    values = {p: kernel((p - centre + 0.5) / wide) for p in range(first, last)}
    total = math.fsum(values.values())
    return {p: v / total for p, v in values.items()}


@pytest.mark.parametrize(("interpolation", "kernel", "support"), [("bicubic", cubic, 2), ("bilinear", triangle, 1)])
@pytest.mark.parametrize("size", [(8, 8), (5, 13), (64, 40)])
@pytest.mark.parametrize("resize", ["squash", "longest", "shortest"])
def test_weights_are_pils(interpolation, kernel, support, size, resize):
    placement = place(WINDOWS, size, resize)
    matrices = weights(WINDOWS, (20, 30), size, placement, interpolation, torch.float32)
    for n, window in enumerate(WINDOWS.tolist()):
        for axis in (0, 1):
            start, length, canvas = window[axis], window[2 + axis] - window[axis], size[1 - axis]
            out = canvas if placement is None else int(placement.extent[n, axis])
            offset = 0 if placement is None else int(placement.offset[n, axis])
            expected = torch.zeros(canvas, (30, 20)[axis], dtype=torch.float64)
            for i in range(max(0, offset), min(canvas, offset + out)):
                for p, value in row(i - offset, length, out, kernel, support).items():
                    expected[i, start + p] = value
            torch.testing.assert_close(matrices[axis][n].double(), expected, atol=1e-5, rtol=0)  # 0.003 grey levels


def test_placement_by_hand():
    windows = torch.tensor([[0, 0, 20, 10], [0, 0, 10, 20], [5, 5, 15, 15], [0, 0, 100, 1]])
    longest = place(windows, (8, 8), "longest")
    assert longest.extent.tolist() == [[8, 4], [4, 8], [8, 8], [8, 1]]
    assert longest.offset.tolist() == [[0, 2], [2, 0], [0, 0], [0, 3]]
    shortest = place(windows, (8, 8), "shortest")
    assert shortest.extent.tolist() == [[16, 8], [8, 16], [8, 8], [800, 8]]
    assert shortest.offset.tolist() == [[-4, 0], [0, -4], [0, 0], [-396, 0]]
    assert place(windows, (8, 8), "squash") is None


def test_constants_are_kept():
    first = constant((1.4, 250.6), torch.uint8, torch.device("cpu"))
    assert first.tolist() == [1, 251]
    assert constant((1.4, 250.6), torch.uint8, torch.device("cpu")) is first


def test_aligned():
    assert [aligned(n) for n in (1, 8, 9, 640)] == [8, 8, 16, 640]
