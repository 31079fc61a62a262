import torch

from bsap.views.placement import constant, place


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
