"""The classes for answers that are sets; on processes see `test_processes.py`."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection

from bsap.metrics import RECSetScores, RISSetScores, rec_set_scores, ris_set_scores

FUNCTIONS = {"rec_sets": (RECSetScores, rec_set_scores), "ris_sets": (RISSetScores, ris_set_scores)}


@pytest.mark.parametrize("task", FUNCTIONS)
def test_batches_add_up_to_the_function_over_all(task, batches):
    build, function = FUNCTIONS[task]
    parts = batches(task, [30, 0, 11, 200])
    metric = build()
    for part in parts:
        metric.update(*part)
    metric.to(torch.bfloat16)
    expected = function(*(torch.cat(column) for column in zip(*parts, strict=True)))
    values = metric.compute()
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name
    assert {state.dtype for state in metric.metric_state.values()} == {torch.int64}


@pytest.mark.parametrize("task", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:.*-acc is NaN")
def test_empty_is_nan_with_a_warning(task, batches):
    metric = FUNCTIONS[task][0]()
    metric.update(*batches(task, [0])[0])
    with pytest.warns(UserWarning, match="has seen no sample: its scores are NaN, not 0"):
        values = metric.compute()
    assert (values.pop("n"), values.pop("missing")) == (0, 0)
    assert all(value.isnan() for value in values.values())


def test_variants_stay_apart(batches):
    collection = MetricCollection({"paper": RISSetScores(), "code": RISSetScores(variant="rela_code")})
    batch = batches("ris_sets", [50])[0]
    collection.update(*batch)
    values = collection.compute()
    tp, fn = (((batch[3] == 0) & condition).sum() for condition in (batch[2] == 0, batch[2] > 0))
    assert values["paper_N-acc"] == tp / (tp + fn).double()
    assert values["code_N-acc"] == tp / (tp + fn + 1).double()
    with pytest.raises(ValueError, match="Expected metrics with the same"):
        RISSetScores().merge_state(RISSetScores(variant="rela_code"))
