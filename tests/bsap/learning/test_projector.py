from __future__ import annotations

import pytest
import torch

from bsap.learning.projector import gap_projector


@pytest.fixture(scope="module")
def texts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(30, 8, generator=generator, dtype=torch.float64), dim=1)


def test_no_other_map_does_better(texts: torch.Tensor) -> None:
    """The closed form is where autograd finds the objective flat, and steps away from it cost."""
    gap, mu, rho = torch.linspace(-1, 1, 8, dtype=torch.float64), 20.0, 0.5

    def objective(w: torch.Tensor) -> torch.Tensor:
        keep = ((texts @ w.T - texts) ** 2).sum() + rho * ((w - torch.eye(8)) ** 2).sum()
        return keep + mu * ((w @ gap) ** 2).sum()

    w = gap_projector(texts, gap, mu=mu, rho=rho).requires_grad_(True)
    (slope,) = torch.autograd.grad(objective(w), w)
    assert float(slope.abs().max()) < 1e-9
    step = 1e-3 * torch.randn(8, 8, dtype=torch.float64)
    assert objective(w + step) > objective(w)


def test_the_gap_is_forgotten_and_what_is_orthogonal_to_it_stays() -> None:
    texts = torch.eye(4)[:3].repeat(5, 1)
    gap = torch.tensor([0.0, 0.0, 0.0, 2.0])
    w = gap_projector(texts, gap, mu=1e6)
    assert float((w @ gap).norm()) < 1e-3
    torch.testing.assert_close(texts @ w.T, texts, atol=1e-4, rtol=0)
    assert w.dtype == torch.float32


def test_switched_off() -> None:
    texts = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(gap_projector(texts, torch.ones(3), mu=0.0), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(("mu", "rho"), [(-1.0, 1.0), (1.0, 0.0)])
def test_wrong_weights(mu: float, rho: float) -> None:
    with pytest.raises(ValueError, match=r"Expected arguments `mu` >= 0 and `rho` > 0"):
        gap_projector(torch.eye(2), torch.ones(2), mu=mu, rho=rho)
