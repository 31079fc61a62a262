"""What holds for the states of both classes, whatever they count."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torchmetrics import MetricCollection

from bsap.metrics import RECAccuracy, RISScores

TASKS = {"rec": lambda: RECAccuracy((0.5, 0.7)), "ris": RISScores}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def metric(task, batches):
    metric = TASKS[task]()
    for batch in batches(task, [30, 0, 11]):
        metric.update(*batch)
    return metric


def assert_same(values, expected):
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "change",
    [
        lambda metric: metric.to(torch.bfloat16),
        lambda metric: metric.half(),
        lambda metric: metric.set_dtype(torch.bfloat16),
        lambda metric: pickle.loads(pickle.dumps(metric)),
        lambda metric: metric.clone(),
        copy.deepcopy,
    ],
    ids=["bfloat16", "half", "set_dtype", "pickle", "clone", "deepcopy"],
)
def test_survives(change, task, metric, batches):
    more = batches(task, [200])[0]
    expected = metric.clone()
    expected.update(*more)
    changed = change(metric)
    changed.update(*more)
    assert_same(changed.compute(), expected.compute())
    states = {name: value.dtype for name, value in changed.metric_state.items()}
    assert set(states.values()) == {torch.int64}, states


def test_reset_starts_anew_and_leaves_clones_alone(task, metric, batches):
    kept = metric.clone()
    before = kept.compute()
    metric.reset()
    batch = batches(task, [5])[0]
    metric.update(*batch)
    fresh = TASKS[task]()
    fresh.update(*batch)
    assert_same(metric.compute(), fresh.compute())
    assert_same(kept.compute(), before)


def test_forward_returns_the_batch_and_counts_it(task, metric, batches):
    batch = batches(task, [8])[0]
    alone, expected = TASKS[task](), metric.clone()
    alone.update(*batch)
    expected.update(*batch)
    assert_same(metric(*batch), alone.compute())
    assert_same(metric.compute(), expected.compute())


def test_merging_states_adds_them_and_refuses_other_settings(task, metric, batches):
    other = TASKS[task]()
    other.update(*batches(task, [50])[0])
    expected = metric.clone()
    expected.update(*batches(task, [50])[0])
    metric.merge_state(other)
    assert_same(metric.compute(), expected.compute())
    with pytest.raises(ValueError, match="Expected metrics with the same `thresholds` and `strict`"):
        metric.merge_state(type(metric)([0.1 * step for step in range(len(metric.thresholds))]))


def test_counts_inside_and_outside_of_inference_mode(task, metric, batches):
    batch = batches(task, [8])[0]
    with torch.inference_mode():
        metric.reset()
        metric.update(*batch)
    metric.update(*batch)
    assert metric.compute()["n"] == 16


def test_empty_is_nan_with_a_warning(task, batches):
    metric = TASKS[task]()
    metric.update(
        *(torch.zeros(0, dtype=torch.float64 if task == "rec" else torch.int64) for _ in range(1 + (task == "ris")))
    )
    with pytest.warns(UserWarning, match="has seen no sample: its scores are NaN, not 0"):
        values = metric.compute()
    assert (values.pop("n"), values.pop("missing")) == (0, 0)
    assert all(value.isnan() and value.dtype == torch.float64 for value in values.values())


def test_thresholds_as_close_as_floats_can_be_stay_apart_in_a_collection():
    """MetricCollection lets metrics share counters that are close after the first update; here all would be."""
    above_half = 0.5 + 2**-53 * 2
    collection = MetricCollection(
        {
            "least": RECAccuracy((0.5,)),
            "above": RECAccuracy((above_half,)),
            "strict": RECAccuracy((0.5,), strict=True),
            "again": RECAccuracy((0.5,)),
        }
    )
    for iou in (1.0, 0.5):
        collection.update(torch.tensor([iou], dtype=torch.float64))
    values = collection.compute()
    assert values["least_acc@0.5"] == values["again_acc@0.5"] == 1.0
    assert values[f"above_acc@{above_half}"] == values["strict_acc@0.5"] == 0.5
    groups = sorted(sorted(group) for group in collection.compute_groups.values())
    assert groups == [["above"], ["again", "least"], ["strict"]]


def test_mask_scores_with_other_thresholds_stay_apart_in_a_collection():
    collection = MetricCollection({"least": RISScores((0.5,)), "most": RISScores((0.9,))})
    for intersection in (10, 5):
        collection.update(torch.tensor([intersection]), torch.tensor([10]))
    values = collection.compute()
    assert values["least_Pr@0.5"] == 1.0
    assert values["most_Pr@0.9"] == 0.5
    assert values["most_oIoU"] == values["least_mIoU"] == 0.75


def test_plot_draws_scores_between_0_and_1_only(metric, monkeypatch):
    monkeypatch.setattr(metric, "_plot", lambda values, ax: (values, ax))
    values, ax = metric.plot(ax="axes")
    assert ax == "axes"
    assert not {"n", "missing"} & values.keys()
    assert all(metric.plot_lower_bound <= value <= metric.plot_upper_bound for value in values.values())
    given = {"acc@0.5": torch.tensor(0.25), "n": torch.tensor(4)}
    assert metric.plot(given)[0] == {"acc@0.5": torch.tensor(0.25)}


def test_says_what_it_is(metric):
    assert metric.full_state_update is False
    assert metric.higher_is_better is True
    assert metric.is_differentiable is False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_states_on_a_gpu_give_the_bits_of_the_host(where, task, metric, batches):
    expected = metric.clone()
    metric.to("cuda")
    for batch in batches(task, [1000]):
        metric.update(*(part.to(where) for part in batch))
        expected.update(*batch)
    assert metric.hits.is_cuda
    assert_same(metric.compute(), expected.compute())
