import torch

from bsap.views.placement import constant, place


def test_placement_by_hand():
    windows = torch.tensor([[0, 0, 20, 10], [0, 0, 10, 20], [5, 5, 15, 15], [0, 0, 100, 1]])
    longest = place(windows, (8, 8), "longest")
    assert longest.tolist() == [[8, 4, 0, 2], [4, 8, 2, 0], [8, 8, 0, 0], [8, 1, 0, 3]]
    shortest = place(windows, (8, 8), "shortest")
    assert shortest.tolist() == [[16, 8, -4, 0], [8, 16, 0, -4], [8, 8, 0, 0], [800, 8, -396, 0]]
    assert place(windows, (6, 8), "squash").tolist() == [[8, 6, 0, 0]] * 4


def test_constants_are_kept():
    first = constant((1.4, 250.6), torch.uint8, torch.device("cpu"))
    assert first.tolist() == [1, 251]
    assert constant((1.4, 250.6), torch.uint8, torch.device("cpu")) is first
