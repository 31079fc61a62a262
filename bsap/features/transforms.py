"""Feature transforms: what changes the features of regions and texts before they are compared.

A transform learns its statistics from the auxiliary prompts and from regions of other pictures, and then changes
regions and texts so that their inner product takes the cosine's place. x is the unit feature of a region, y that of a
text; x_g are the G regions of the region bank, a_k the K auxiliary prompts; D is the length of a feature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bsap.errors import ConfigError, check_number
from bsap.registry import Registry

Map = Callable[[Tensor], Tensor]
_LEAST = 1e-6  # of the largest singular value: directions below it are rounding


@dataclass(frozen=True, eq=False)
class Fitted:
    """A transform with the statistics of one model's features.

    Attributes:
        name: of the transform.
        dim: D of the features that it was fitted with.
        regions: from ``(..., D)`` regions to ``(..., D')``.
        texts: from ``(..., D)`` texts to ``(..., D')``.
        model: SHA-256 of the weights of the model whose features these were; "" where that is not known.
    """

    name: str
    dim: int
    regions: Map
    texts: Map
    model: str = ""

    def apply(self, regions: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Regions and texts whose inner products take the cosines' place.

        Args:
            regions: ``(..., R, D)`` unit vectors.
            texts: ``(..., K, D)`` unit vectors.

        Returns:
            ``(..., R, D')`` and ``(..., K, D')``.

        Raises:
            ConfigError: features of another length than those it was fitted with.
        """
        for what, rows in (("regions", regions), ("texts", texts)):
            if rows.shape[-1] != self.dim:
                raise ConfigError(
                    f"The transform {self.name!r} was fitted with features of length {self.dim}, but the {what} have "
                    f"{rows.shape[-1]}: statistics of another model mean nothing here. Fit it with this model's "
                    "features."
                )
        return self.regions(regions), self.texts(texts)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Base of all transforms. The fields of a subclass are its parameters; it overrides :meth:`maps`."""

    kind: ClassVar[str]
    source: ClassVar[str] = ""
    least_prompts: ClassVar[int] = 0
    least_regions: ClassVar[int] = 0
    named_by_class: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Unique for the transform and its parameters."""
        changed = [
            f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        ]
        return self.kind + (f"({', '.join(changed)})" if changed else "")

    @property
    def needs_bank(self) -> bool:
        """Whether it learns from the auxiliary prompts."""
        return self.least_prompts > 0

    @property
    def needs_region_bank(self) -> bool:
        """Whether it learns from regions of other pictures."""
        return self.least_regions > 0

    def fit(self, bank: Tensor | None, region_bank: Tensor | None, *, model: str = "") -> Fitted:
        """Learn the statistics.

        Args:
            bank: ``(K, D)`` unit features of the auxiliary prompts; None where the transform needs none.
            region_bank: ``(G, D)`` unit features of regions of other pictures; None where it needs none.
            model: SHA-256 of the weights of the model whose features these are.

        Raises:
            ConfigError: too few prompts or regions for the statistics.
        """
        rows = {
            "auxiliary prompts": (bank, self.least_prompts),
            "regions of other pictures": (region_bank, self.least_regions),
        }
        for what, (some, least) in rows.items():
            count = 0 if some is None else len(some)
            if count < least:
                raise ConfigError(f"The transform {self.name!r} needs at least {least} {what}, but got {count}.")
        known = [some for some, least in rows.values() if some is not None and least]
        regions, texts = self.maps(*(torch.empty(0) if some is None else some for some in (bank, region_bank)))
        return Fitted(self.name, known[0].shape[-1], regions, texts, model)

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """What is done to regions, and what to texts; empty where it needs none."""
        raise NotImplementedError


def _same(rows: Tensor) -> Tensor:
    return rows


def _moved(by: Tensor) -> Map:
    return lambda rows: F.normalize(rows + by.to(rows), dim=-1)


def _number(transform: Transform, name: str, **limits: Any) -> None:
    check_number(f"{name} of the transform {transform.kind}", getattr(transform, name), **limits)


@dataclass(frozen=True, kw_only=True)
class I0T(Transform):
    """Mean removal: norm(x - mean_g x_g) and norm(y - mean_k a_k) (I0T-post, arXiv 2412.14384).

    The authors take both means from the data under test; these come from the region bank and from the prompts.
    """

    kind: ClassVar[str] = "i0t"
    source: ClassVar[str] = "I0T, arXiv 2412.14384"
    least_prompts: ClassVar[int] = 2
    least_regions: ClassVar[int] = 2

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """Each moved by its own mean."""
        return _moved(-region_bank.double().mean(0)), _moved(-bank.double().mean(0))


@dataclass(frozen=True, kw_only=True)
class GapRemoval(Transform):
    """Gap removal: norm(x - lam gap) and norm(y + lam gap), gap = mean_g x_g - mean_k a_k (arXiv 2203.02053).

    Args:
        lam: share of the gap that each side moves: 0.5 makes the means meet, 0 changes nothing.
    """

    kind: ClassVar[str] = "gap_removal"
    source: ClassVar[str] = "Mind the Gap, arXiv 2203.02053"
    least_prompts: ClassVar[int] = 1
    least_regions: ClassVar[int] = 1

    lam: float = 0.5

    def __post_init__(self) -> None:
        _number(self, "lam")

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """Moved towards each other."""
        gap = region_bank.double().mean(0) - bank.double().mean(0)
        return _moved(-self.lam * gap), _moved(self.lam * gap)


@dataclass(frozen=True, kw_only=True)
class InvGC(Transform):
    """Inverse graph convolution: norm(x - lam mean_g (x x_g - m) x_g), m the mean of x_g x_h over the bank.

    Jian and Wang, Findings of EMNLP 2023. In the authors' code m is the mean over the data under test and the bank, and
    half of the result comes from a bank of texts in the place of x_g; here m does not depend on the data under test,
    and only regions are used. Texts stay.

    Args:
        lam: how far a region moves away from the regions that it is similar to.
    """

    kind: ClassVar[str] = "invgc"
    source: ClassVar[str] = "InvGC, Findings of EMNLP 2023, arXiv 2310.13276"
    least_regions: ClassVar[int] = 1

    lam: float = 1.0

    def __post_init__(self) -> None:
        _number(self, "lam")

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """Linear in x before the normalisation: mean_g (x x_g) x_g = x X'X / G."""
        rows = region_bank.double()
        mean = rows.mean(0)
        matrix = torch.eye(rows.shape[1]).to(rows) - self.lam * rows.T @ rows / len(rows)
        shift = self.lam * (mean @ mean) * mean
        return lambda x: F.normalize(x @ matrix.to(x) + shift.to(x), dim=-1), _same


@dataclass(frozen=True, kw_only=True)
class _Covariance(Transform):
    """What needs the inverse of the region bank's covariance; for ``shrink`` see :class:`GDA`."""

    least_regions: ClassVar[int] = 2

    shrink: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.shrink, bool):
            raise ConfigError(f"shrink of the transform {self.kind} must be true or false, but got {self.shrink!r}.")

    def precision(self, region_bank: Tensor) -> tuple[Tensor, Tensor]:
        """(D,) mean and (D, D) inverse covariance of the region bank, float64."""
        mean, covariance = ledoit_wolf(region_bank, shrink=self.shrink)
        values = torch.linalg.eigvalsh(covariance)
        if not float(values[0]) > _LEAST**2 * max(float(values[-1]), _LEAST**2):
            raise ConfigError(
                f"The transform {self.name!r} needs the inverse of a covariance, but the {len(region_bank)} regions of "
                f"the region bank do not span all {len(mean)} dimensions. Draw more regions"
                + ("." if self.shrink else ", or set `shrink: true`.")
            )
        return mean, torch.linalg.inv(covariance)


@dataclass(frozen=True, kw_only=True)
class WhiteningPrior(_Covariance):
    """Likelihood prior: s - alpha log p(x), log p = -|W (x - mean)|^2 / 2 (Whitened CLIP, arXiv 2505.06934).

    W whitens the region bank. The constant of log p is left out: it is the same for all regions. The paper measures how
    likely pictures and captions are and corrects no score with it; the subtraction, and ``alpha``, are ours. A scorer
    that compares texts region by region, such as BSAP, cancels the prior.

    Args:
        alpha: weight of the prior, in cosines for each unit of log p.
        shrink: see :class:`GDA`.
    """

    kind: ClassVar[str] = "whitening_prior"
    source: ClassVar[str] = "W-CLIP, arXiv 2505.06934"

    alpha: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "alpha")

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """One more coordinate: the prior of a region, 1 of a text."""
        mean, precision = self.precision(region_bank)

        def prior(x: Tensor) -> Tensor:
            off = x.double() - mean
            return torch.cat([x, 0.5 * self.alpha * ((off @ precision) * off).sum(-1, keepdim=True).to(x)], dim=-1)

        return prior, lambda y: torch.cat([y, torch.ones_like(y[..., :1])], dim=-1)


@dataclass(frozen=True, kw_only=True)
class GDA(_Covariance):
    """Precision-weighted similarity: x' S^-1 y, S the covariance of the region bank (GDA, arXiv 2402.04087).

    S^-1 is divided by its mean eigenvalue, so that a temperature keeps its meaning. The paper's S is the covariance
    within classes of labelled pictures and its y the mean of a class, with a bias for each class; a region bank has no
    labels, so S is the total covariance, and there is no bias.

    Args:
        shrink: move the covariance towards a multiple of the identity by Ledoit and Wolf's estimate (2004), which goes
            to 0 as regions become many; without it there must be more regions than D.
    """

    kind: ClassVar[str] = "gda"
    source: ClassVar[str] = "GDA, ICLR 2024, arXiv 2402.04087"

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """Regions are multiplied, texts stay."""
        _, precision = self.precision(region_bank)
        scaled = precision * len(precision) / precision.trace()
        return lambda x: x @ scaled.to(x), _same


@dataclass(frozen=True, kw_only=True)
class Projection(Transform):
    """Projection off the span of the prompts: x - P x, P onto the span of the a_k (after SCE, arXiv 2412.18645).

    The paper subtracts what a linear map from the texts explains of their pictures and measures the diversity of what
    is left. Without pairs of pictures and texts the map becomes the projection. The result is not normalised again.
    With all directions removed the prompts' own similarities are 0, so that a bank corrects nothing more.

    Args:
        rank: how many directions are removed, those in which the prompts are largest first; null removes all.
    """

    kind: ClassVar[str] = "projection"
    source: ClassVar[str] = "after SCE, arXiv 2412.18645"
    least_prompts: ClassVar[int] = 1

    rank: int | None = None

    def __post_init__(self) -> None:
        if self.rank is not None:
            _number(self, "rank", least=1, whole=True)

    def maps(self, bank: Tensor, region_bank: Tensor) -> tuple[Map, Map]:
        """Regions are projected, texts stay."""
        _, sizes, directions = torch.linalg.svd(bank.double(), full_matrices=False)
        count = int((sizes > _LEAST * sizes[0]).sum())
        count = count if self.rank is None else min(self.rank, count)
        if count >= bank.shape[1]:
            raise ConfigError(
                f"The transform {self.name!r} would remove everything: the {len(bank)} prompts span all "
                f"{bank.shape[1]} dimensions. Set `rank` to fewer directions, or use fewer prompts."
            )
        span = directions[:count]
        return lambda x: x - (x @ span.T.to(x)) @ span.to(x), _same


def ledoit_wolf(rows: Tensor, *, shrink: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and covariance, shrunk towards a multiple of the identity.

    (1 - rho) S + rho (tr S / D) I, with the rho of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices" (2004): rho = min(d^2, b^2) / d^2, d^2 = |S - (tr S / D) I|^2, and
    b^2 = mean_n |x_n x_n' - S|^2 / N.

    Args:
        rows: ``(N, D)``.
        shrink: False gives S, which divides by N.

    Returns:
        ``(D,)`` and ``(D, D)`` float64.

    Example:
        >>> mean, covariance = ledoit_wolf(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> mean.tolist(), covariance.tolist()
        ([0.0, 0.0], [[1.0, 0.0], [0.0, 0.0]])
    """
    x = rows.double()
    mean = x.mean(0)
    x = x - mean
    count, dim = x.shape
    covariance = x.T @ x / count
    if not shrink:
        return mean, covariance
    target = torch.eye(dim).to(x) * covariance.trace() / dim
    distance = float((covariance - target).square().sum())
    spread = float(x.square().sum(1).square().mean() - covariance.square().sum()) / count
    rho = min(spread, distance) / distance if distance > 0 else 0.0
    return mean, (1 - max(rho, 0.0)) * covariance + max(rho, 0.0) * target


TRANSFORMS: dict[str, Transform] = {
    transform.kind: transform for transform in (I0T(), GapRemoval(), InvGC(), WhiteningPrior(), GDA(), Projection())
}
"""Ready-made transforms by name."""

_REGISTRY = Registry("transform", Transform, TRANSFORMS, classes=map(type, TRANSFORMS.values()), needs="maps")


def make_transform(spec: str | Mapping[str, Any] | Transform) -> Transform:
    """The transform that a configuration means.

    Args:
        spec: a ready-made name; the import path of a subclass of :class:`Transform`; ``class_path`` with
            ``init_args``; or a transform, which is returned as it is.

    Raises:
        ConfigError: unknown name, class or argument, or an argument's value out of range.

    Example:
        >>> make_transform({"class_path": "InvGC", "init_args": {"lam": 0.5}}).name
        'invgc(lam=0.5)'
    """
    return _REGISTRY.make(spec)
