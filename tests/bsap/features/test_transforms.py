"""Feature transforms against plain float64 loops, and what an ensemble makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from bsap import BSAPModule, balance
from bsap.cli import main
from bsap.datamodules import ProposalConfig, RefCOCODataModule
from bsap.datamodules.batch import collate
from bsap.datamodules.picture_files import scene_picture
from bsap.demo.dataset import make_demo_root
from bsap.errors import ConfigError
from bsap.features.ensemble import Ensemble
from bsap.features.region_bank import RegionBankConfig, draw_region_bank
from bsap.features.transforms import (
    GDA,
    I0T,
    TRANSFORMS,
    GapRemoval,
    InvGC,
    Projection,
    WhiteningPrior,
    ledoit_wolf,
    make_transform,
)
from bsap.models.encoder import Encoder
from bsap.prompts.banks import load_bank
from bsap.runs.saved import read_run
from bsap.sweep.sweep import Sweep, scorer_grid
from bsap.views import make_view

D = 6


def units(count: int, dim: int = D, *, seed: int = 0, offset: float = 0.7) -> Tensor:
    """Unit vectors in a cone, as CLIP's are."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[:, 0] += 3 * offset
    return F.normalize(rows, dim=-1)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def mean(rows: list[np.ndarray]) -> np.ndarray:
    return sum(rows) / len(rows)  # type: ignore[return-value]


def plain_covariance(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ledoit and Wolf, 2004, as written."""
    count, dim, middle = len(rows), len(rows[0]), mean(rows)
    rows = [row - middle for row in rows]
    s = mean([np.outer(row, row) for row in rows])
    mu = sum(s[i, i] for i in range(dim)) / dim
    d2 = sum((s[i, j] - mu * (i == j)) ** 2 for i in range(dim) for j in range(dim))
    b2 = sum(((np.outer(row, row) - s) ** 2).sum() for row in rows) / count**2
    rho = min(b2, d2) / d2
    return middle, rho * mu * np.eye(dim) + (1 - rho) * s


def plain(name: str, x: np.ndarray, y: np.ndarray, bank: list[np.ndarray], others: list[np.ndarray]) -> float:
    """One region, one text."""
    if name == "i0t":
        return float(unit(x - mean(others)) @ unit(y - mean(bank)))
    if name == "gap_removal":
        gap = mean(others) - mean(bank)
        return float(unit(x - 0.5 * gap) @ unit(y + 0.5 * gap))
    if name == "invgc":
        m = np.mean([[a @ b for b in others] for a in others])
        return float(unit(x - mean([(x @ other - m) * other for other in others])) @ y)
    if name == "projection":
        basis: list[np.ndarray] = []  # Gram and Schmidt
        for prompt in bank:
            rest = prompt - sum(((prompt @ b) * b for b in basis), np.zeros(len(x)))
            if rest @ rest > 1e-12:
                basis.append(unit(rest))
        return float((x - sum((x @ b) * b for b in basis)) @ y)
    middle, covariance = plain_covariance(others)
    inverse = np.linalg.inv(covariance)
    if name == "gda":
        return float(x @ inverse @ y / (np.trace(inverse) / len(x)))
    values, vectors = np.linalg.eigh(covariance)
    w = (vectors / np.sqrt(values)).T
    return float(x @ y) + 0.001 * 0.5 * float(((w @ (x - middle)) ** 2).sum())


@pytest.mark.parametrize("others", [3, 40], ids=["fewer regions than D", "more"])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_equals_the_plain_loop(name: str, others: int) -> None:
    bank, far = units(4, seed=1), units(others, seed=2, offset=0.3)
    x, y = units(5, seed=3, offset=0.3), units(2, seed=4)
    regions, texts = TRANSFORMS[name].fit(bank, far).apply(x, y)
    found = texts @ regions.T
    rows = [[row.numpy() for row in some] for some in (bank, far)]
    expected = [[plain(name, r.numpy(), t.numpy(), *rows) for r in x] for t in y]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    half = TRANSFORMS[name].fit(bank.float(), far.float()).apply(x.float(), y.float())
    assert half[0].dtype == torch.float32
    torch.testing.assert_close((half[1] @ half[0].T).double(), found, atol=1e-4, rtol=1e-3)


def test_parameters_change_what_they_should() -> None:
    bank, far, x, y = units(4, seed=1), units(20, seed=2), units(5, seed=3), units(2, seed=4)

    def scores(transform: Any) -> Tensor:
        regions, texts = transform.fit(bank, far).apply(x, y)
        return texts @ regions.T

    plain_cosines = y @ x.T
    for nothing in (GapRemoval(lam=0.0), InvGC(lam=0.0), WhiteningPrior(alpha=0.0)):
        torch.testing.assert_close(scores(nothing), plain_cosines)
    # The means meet.
    gap = GapRemoval().fit(bank, far)
    middle = (far.mean(0) - bank.mean(0)) / 2
    torch.testing.assert_close(gap.regions(far), F.normalize(far - middle, dim=-1))
    torch.testing.assert_close(gap.texts(bank), F.normalize(bank + middle, dim=-1))
    assert torch.allclose(Projection().fit(bank, None).regions(x) @ bank.T, torch.zeros(5, 4, dtype=torch.float64))
    one = Projection(rank=1).fit(bank, None).regions(x)
    direction = torch.linalg.eigh(bank.T @ bank)[1][:, -1]
    torch.testing.assert_close(one, x - (x @ direction)[:, None] * direction)
    # The prior favours the unlikely, in proportion.
    torch.testing.assert_close(
        scores(WhiteningPrior(alpha=0.02)) - plain_cosines, 2 * (scores(WhiteningPrior(alpha=0.01)) - plain_cosines)
    )


def test_shrinkage_vanishes_with_many_rows() -> None:
    _, few = ledoit_wolf(units(8, seed=1))
    _, raw = ledoit_wolf(units(8, seed=1), shrink=False)
    torch.testing.assert_close(raw, torch.from_numpy(np.cov(units(8, seed=1).numpy().T, bias=True)))
    assert not torch.allclose(few, raw, rtol=0.05)
    many = units(20000, seed=1)
    torch.testing.assert_close(ledoit_wolf(many)[1], ledoit_wolf(many, shrink=False)[1], atol=1e-4, rtol=0.01)


def with_transform(**given: Any) -> Callable[[], object]:
    return lambda: make_transform(given["spec"]).fit(given.get("bank"), given.get("far"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (with_transform(spec="i0t", bank=units(1), far=units(5)), "'i0t' needs at least 2 auxiliary prompts, but got"),
        (with_transform(spec="i0t", bank=units(4), far=units(1)), "at least 2 regions of other pictures, but got 1"),
        (with_transform(spec="gap_removal", bank=units(4)), "at least 1 regions of other pictures, but got 0"),
        (with_transform(spec="invgc", far=units(0)), "needs at least 1 regions of other pictures, but got 0"),
        (with_transform(spec="gda", far=units(1)), "at least 2 regions of other pictures, but got 1"),
        (with_transform(spec="gda", far=units(1).repeat(9, 1)), r"the 9 regions .* do not span all 6 dimensions"),
        (with_transform(spec=GDA(shrink=False), far=units(6)), "the 6 regions .*, or set `shrink: true`"),
        (with_transform(spec="projection", bank=units(6)), "would remove everything: the 6 prompts span all 6"),
        (with_transform(spec="projection", far=units(6)), "needs at least 1 auxiliary prompts, but got 0"),
        (with_transform(spec="itot"), "Unknown transform 'itot'"),
        (with_transform(spec={"class_path": "InvGC", "init_args": {"lam": -1}}), "lam of the transform invgc"),
        (with_transform(spec={"class_path": "GDA", "init_args": {"shrink": 2}}), "shrink of the transform gda"),
        (with_transform(spec={"class_path": "Projection", "init_args": {"rank": 0}}), "rank of the transform"),
        (with_transform(spec={"class_path": "InvGC", "init_args": {"mu": 1}}), "argument of transform InvGC 'mu'"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_one_prompt_is_enough_where_no_mean_is_removed() -> None:
    for name in ("gap_removal", "projection"):
        regions, texts = TRANSFORMS[name].fit(units(1), units(1, seed=1)).apply(units(3), units(2))
        assert (texts @ regions.T).isfinite().all()


def test_statistics_of_another_model_are_refused() -> None:
    fitted = I0T().fit(units(4), units(5))
    with pytest.raises(ConfigError, match="was fitted with features of length 6, but the regions have 8"):
        fitted.apply(units(3, 8), units(2, 8))
    encoder = Encoder("demo")
    (member,) = Ensemble([encoder], [make_view("crop")], transform=I0T()).members
    assert member.label == "demo/crop/i0t"
    with pytest.raises(ConfigError, match=r"'i0t' has no statistics: call `Ensemble.fit` first"):
        member.cosines(units(2, 128), units(3, 128))
    with pytest.raises(
        ConfigError, match="'i0t' was fitted with another model's features, not with those of 'demo/crop"
    ):
        replace(member, fitted=I0T().fit(units(4, 128), units(5, 128), model="0" * 64))


# --- ensembles and runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_root(tmp_path_factory.mktemp("world"), sizes={"train": 2, "test": 2})


def test_an_ensemble_compares_transformed_features(world: Path) -> None:
    data = RefCOCODataModule(str(world), ProposalConfig("ground_truth"), dataset="demo", split_by="drawn", split="test")
    data.setup("test")
    encoder, bank = Encoder("demo"), load_bank(["a dog", "a cat", "a car"])
    region_bank = draw_region_bank(data.load_split("train", unfiltered=True), RegionBankConfig(size=5))
    batch = collate([(scene, scene_picture(scene)) for scene in data.scenes])
    raw = Ensemble([encoder], [make_view("crop")])
    raw.fit(bank, region_bank)
    assert raw.region_bank is not None
    (regions,), (others,) = raw.regions(batch), raw.region_bank.rows
    texts = encoder.encode_text(["a photo of a dog", "a photo of a cat", "a photo of a car"])
    for transform in TRANSFORMS.values():
        ensemble = Ensemble([encoder], [make_view("crop")], transform=transform)
        ensemble.fit(bank, replace(region_bank, compared=False))
        s = ensemble.similarities(batch, bank)
        assert s.region_bank is None
        fitted = transform.fit(texts, others)
        for b, scene in enumerate(batch.scenes):
            own = regions.split(batch.counts)[b]
            asked = encoder.encode_text([f"a photo of {e.text}" for e in scene.expressions])
            for found, rows in ((s.query, asked), (s.bank, texts)):
                x, y = fitted.apply(own, rows)
                torch.testing.assert_close(found[b, 0, : len(rows), : len(own)], y @ x.T, atol=2e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="prompts that are the same for all pictures, but those of the bank 'scene'"):
        Ensemble([encoder], [make_view("crop")], transform=I0T()).fit(load_bank("scene"), region_bank)


@pytest.mark.parametrize("transform", ["i0t", "projection"])
def test_runs_and_sweeps_with_a_transform(world: Path, tmp_path: Path, transform: str) -> None:
    settings = {
        "data": {"root": str(world), "dataset": "demo", "split_by": "drawn", "split": "test", "num_workers": 0,
                 "proposals": {"source": "ground_truth"}},
        "model": {"encoders": ["demo"], "views": ["crop"], "scorers": ["clip", "bsap"], "transform": transform,
                  "bank": "colours", "region_bank": {"size": 9}},
        "run": {"root": str(tmp_path), "name": "run"},
        "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["protocol"]["transform"] == transform
    assert results["protocol"]["bank"]["used_by"] == ["clip", "bsap"]  # a transform that learns from it serves all
    saved = read_run(tmp_path / "run")
    rows = list(Sweep(saved).rows(scorer_grid(["clip", "bsap"]), ["colours", "generic"], ["before"]))
    # With a transform that learns from the bank, CLIP's scores depend on it too.
    assert [(row.scorer, row.bank) for row in rows] == [
        ("clip", "colours"), ("bsap", "colours"), ("clip", "generic"), ("bsap", "generic")
    ]  # fmt: skip
    for row in rows[:2]:
        assert row.metrics == {f"rec/{key}": value for key, value in results["metrics"]["rec"][row.scorer].items()}


def test_a_transform_that_needs_regions_is_refused_without_them(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.root", str(world), "--data.dataset", "demo", "--data.split_by", "drawn", "--data.split", "test"]
    model = ["--model.encoders", "demo", "--model.views", "crop", "--model.transform", "gda"]
    where = ["--run.root", str(tmp_path)]
    assert main(["test", *data, "--data.proposals.source", "ground_truth", *model, *where]) == 2
    assert "Regions of other pictures are needed for gda." in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"Unknown transform 'whitening'\. Did you mean 'whitening_prior'"):
        BSAPModule(transform="whitening")


# --- balance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_balance_transforms_embeddings(name: str) -> None:
    query, bank, regions, far = units(2), units(4, seed=1), units(3, seed=2), units(9, seed=3)
    found = balance(query, bank, regions=3 * regions, tau=10.0, region_bank=2 * far, transform=name)
    x, y = TRANSFORMS[name].fit(bank, far).apply(regions, torch.cat([query, bank]))
    logits = 10 * y @ x.T
    torch.testing.assert_close(found.scores, logits[:2] - logits[2:].logsumexp(0))
    again = balance(query, bank, regions=regions, tau=10.0, transform=TRANSFORMS[name].fit(bank, far))
    torch.testing.assert_close(again.scores, found.scores)


def test_balance_with_a_region_bank() -> None:
    query, bank, regions, far = units(2), units(4, seed=1), units(3, seed=2), units(9, seed=3)
    found = balance(query, bank, regions=regions, tau=10.0, region_bank=far, scorer="dual_is")
    s, b, g = (10 * rows @ regions.T for rows in (query, bank, far))
    torch.testing.assert_close(found.scores, 2 * s - b.logsumexp(0) - g.logsumexp(0))
    together = balance(
        query.numpy(), bank.numpy(), regions=regions.numpy(), tau=10.0, region_bank=far.numpy(), scorer="dbsn"
    )
    assert isinstance(together.scores, np.ndarray)


def test_balance_refuses_what_similarities_cannot_give() -> None:
    cosines, bank = torch.zeros(2, 3), torch.zeros(4, 3)
    with pytest.raises(
        ConfigError, match="`transform` works on features, but similarities were given: pass embeddings"
    ):
        balance(cosines, bank, tau=100.0, transform="i0t")
    with pytest.raises(ConfigError, match="`region_bank` works on features, but similarities were given"):
        balance(cosines, bank, tau=100.0, region_bank=units(3))
    with pytest.raises(
        ValueError, match=r"`region_bank` to be of shape \(G, 6\) with at least one region, but got \(0, 6\)"
    ):
        balance(units(2), units(4), regions=units(3), tau=1.0, region_bank=units(0))
    with pytest.raises(ValueError, match="to hold a region bank for DBSN, but got none"):
        balance(cosines, bank, tau=100.0, scorer="dbsn")
