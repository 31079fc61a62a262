"""`bsap compare` and the gains of `bsap table` on runs over the planted world, whose hits are known by hand."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsap.analysis.comparison import FIELDS, TASKS, read_records
from bsap.analysis.outcomes import task_outcomes, task_records
from bsap.cli import main
from bsap.runs.saved import read_run
from support.results import change_results


@pytest.fixture(scope="module")
def runs(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over the whole split, a part of it, and by the strict rule."""
    root = tmp_path_factory.mktemp("compared")
    configs = {
        "whole": planted.config(),
        "part": planted.config(data={"limit": 5}),
        "strict": planted.config(model={"strict": True}),
        "boxes": planted.config(model={"tasks": ["rec"], "scorers": ["bsap"]}),
        "one": planted.config(data={"limit": 2}),
        "masks": planted.config(model={"tasks": ["ris"]}),
        "sets": planted.config(model={"answer": {"rule": "threshold", "value": 0.5}}),
    }
    for name, config in configs.items():
        config["run"] = {"root": str(root), "name": name}
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["test", "-c", str(root / "config.yaml")]) == 0
    return root


def compared(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["compare", *map(str, argv), "--format", "json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["comparisons"]
    return found


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, argv)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["whole", "part", "strict", "boxes"])
def test_outcomes_sum_to_the_metrics_of_the_run(runs: Path, name: str) -> None:
    run = read_run(runs / name)
    records, results = read_records(run), run.finished()
    for task in TASKS:
        for scorer, saved in results["metrics"].get(task, {}).items():
            names = [metric for metric in saved if metric not in ("n", "missing")]
            found = task_outcomes(
                task_records(records, task), scorer, task, names, strict=run.settings["model"]["strict"]
            )
            assert found.metrics == tuple(f"{task}/{metric}" for metric in names)
            values = found.parts.sum(1) / found.wholes.sum(1)
            assert values == pytest.approx([saved[metric] for metric in names])


def test_two_scorers_of_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BSAP is right about one expression more, the one for which it leaves CLIP's white region."""
    found = {row["gain"]["metric"]: row["gain"] for row in compared(capsys, f"{runs}/whole:clip", f"{runs}/whole:bsap")}
    hits = found["rec/acc@0.5"]
    assert (hits["a"], hits["b"], hits["difference"]) == (0.625, 0.75, 0.125)
    assert (hits["wins"], hits["losses"], hits["mcnemar"], hits["pictures"]) == (1, 0, 1.0, 4)
    assert set(found) == {"rec/acc@0.5", "ris/oIoU", "ris/mIoU", *(f"ris/Pr@{x}" for x in (0.5, 0.6, 0.7, 0.8, 0.9))}
    assert found["ris/mIoU"]["mcnemar"] is None


def test_answers_that_are_sets(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The difference is that of the metrics of the run; nothing can be said of expressions without a target."""
    saved = read_run(runs / "sets").finished()["metrics"]
    rows = compared(capsys, f"{runs}/sets:clip", f"{runs}/sets:bsap")
    assert [row["gain"]["metric"] for row in rows] == ["rec/Pr@F1", "rec/T-acc", "ris/gIoU", "ris/cIoU", "ris/T-acc"]
    for gain in (row["gain"] for row in rows):
        task, name = gain["metric"].split("/")
        assert gain["difference"] == pytest.approx(saved[task]["bsap"][name] - saved[task]["clip"][name])


def test_holm_counts_all_comparisons(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = compared(capsys, f"{runs}/whole:clip", f"{runs}/whole:bsap", "--metrics", "rec/acc@0.5")
    both = compared(
        capsys, f"{runs}/whole:clip", f"{runs}/whole:bsap", f"{runs}/whole:bsap_h", "--metrics", "rec/acc@0.5"
    )
    assert one[0]["gain"]["p_holm"] == one[0]["gain"]["p"]
    assert both[0]["gain"]["p_holm"] == min(1, 2 * both[0]["gain"]["p"])


def test_groups(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["words", "category", "distractors", "size"]
    rows = compared(capsys, f"{runs}/whole:clip", f"{runs}/whole:bsap", "--metrics", "rec/acc@0.5", "--by", *fields)
    groups = {row["group"]: row["gain"]["expressions"] for row in rows}
    assert [name for name in groups if name.startswith("words")] == ["words 1", "words 2", "words 3", "words 5"]
    assert groups["all"] == 8
    for field in fields:
        assert sum(n for name, n in groups.items() if name.startswith(f"{field} ")) == 8
    five = next(row["gain"] for row in rows if row["group"] == "words 5")
    assert (five["difference"], five["pictures"], five["low"]) == (1.0, 1, None)


@pytest.mark.parametrize(
    ("box", "size"),
    [((32, 31.9), "small"), ((32, 32), "medium"), ((96, 95.9), "medium"), ((96, 96), "large"), (None, "unknown")],
)
def test_sizes_are_those_of_coco(box: tuple[float, float] | None, size: str) -> None:
    record: Any = {"referent": {"boxes": [] if box is None else [[1, 2, 1 + box[0], 2 + box[1]], [0, 0, 1, 1]]}}
    assert FIELDS["size"](record) == size


def test_runs_over_different_expressions(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [f"{runs}/whole:clip", f"{runs}/part:clip"]
    assert "they share 5, and 3 are in one of them only. Use `--common`" in refused(capsys, *pair)
    rows = compared(capsys, *pair, "--common")
    assert {row["gain"]["expressions"] for row in rows} == {5}
    assert main(["compare", *pair, "--common"]) == 0
    assert "3 expressions are in one run only and are left out" in capsys.readouterr().out


def test_runs_without_scorers_are_compared_scorer_by_scorer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = compared(capsys, runs / "whole", runs / "part", "--common", "--metrics", "rec/acc@0.5")
    assert [row["a"].rsplit(":", 1)[1] for row in rows] == ["clip", "bsap", "bsap_h"]
    rows = compared(capsys, f"{runs}/whole:clip", runs / "boxes:bsap", "--metrics", "rec/acc@0.5")
    assert rows[0]["gain"]["difference"] == 0.125
    assert {row["gain"]["metric"] for row in compared(capsys, f"{runs}/whole:bsap", runs / "boxes")} == {"rec/acc@0.5"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{runs}/whole", "{runs}/whole"], "are the same. Name two scorers of the run, for example"),
        (["{runs}/whole:clp", "{runs}/whole:bsap"], "Unknown scorer 'clp'. Did you mean 'clip'"),
        (["{runs}/whole:clip", "{runs}/strict:clip"], "count a hit by different rules"),
        (["{runs}/whole:clip", "{runs}/whole:bsap", "--by", "colour"], "Unknown field to compare by 'colour'"),
        (["{runs}/whole:clip", "{runs}/whole:bsap", "--metrics", "rec/acc"], "Unknown metric 'rec/acc'"),
        (["{runs}/boxes:bsap", "{runs}/masks:bsap"], "have no metric in common: rec/acc@0.5; ris/oIoU, "),
        (["{runs}/whole:clip", "{runs}/sets:clip"], "with answers of one kind (`model.answer`)"),
        (["{runs}/whole:clip", "{runs}/nothing:bsap"], "nothing is no run folder"),
    ],
)
def test_mistakes(runs: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *(item.format(runs=runs) for item in argv))


def test_a_folder_with_a_colon_in_its_name(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "whole", tmp_path / "run:clip")
    rows = compared(capsys, f"{tmp_path}/run:clip:clip", f"{tmp_path}/run:clip:bsap", "--metrics", "rec/acc@0.5")
    assert rows[0]["gain"]["difference"] == 0.125
    assert "are the same" in refused(capsys, f"{tmp_path}/run:clip", f"{tmp_path}/run:clip")


def test_formats(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [f"{runs}/whole:clip", f"{runs}/whole:bsap", "--metrics", "rec/acc@0.5"]
    assert main(["compare", *pair]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| metric | A | B | B - A | 95 % interval | wins | losses |")
    assert lines[2].startswith("| rec/acc@0.5 | 62.50 | 75.00 | +12.50 | ")
    assert any("10000 resamples, seed 0" in line for line in lines)
    assert main(["compare", *pair, "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["run B"], float(row["difference"]), row["wins"]) == (pair[1], 0.125, "1")
    assert main(["compare", *pair, "--format", "latex", "--output", str(tmp_path / "t.tex")]) == 0
    assert r"rec/acc@0.5 & 62.50 & 75.00 & +12.50" in (tmp_path / "t.tex").read_text()


def test_a_run_of_one_picture_has_no_interval(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [f"{runs}/one:clip", f"{runs}/one:bsap"]
    assert {row["gain"]["low"] for row in compared(capsys, *pair)} == {None}
    assert main(["compare", *pair]) == 0
    printed = capsys.readouterr().out
    assert "Where all expressions are of one picture, there is no interval" in printed
    assert "resamples" not in printed
    notes = table(capsys, runs / "one", "--gain-over", "clip")["notes"]
    assert "Where all expressions are of one picture, there is no interval and no p-value." in notes


def table(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["table", *map(str, argv), "--format", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_gains_of_a_table_are_those_of_compare(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(capsys, runs / "whole", "--gain-over", "clip")["rows"]
    assert rows[0]["gains"]["REC acc@0.5"]["difference"] is None, "CLIP gains nothing over itself"
    for row, scorer in zip(rows[1:], ("bsap", "bsap_h"), strict=True):
        for column, name in (("REC acc@0.5", "rec/acc@0.5"), ("RIS oIoU", "ris/oIoU"), ("RIS mIoU", "ris/mIoU")):
            (found,) = compared(capsys, f"{runs}/whole:clip", f"{runs}/whole:{scorer}", "--metrics", name)
            for key in ("difference", "low", "high"):
                assert row["gains"][column][key] == pytest.approx(100 * found["gain"][key])
            assert row["gains"][column]["p"] == found["gain"]["p"]


def test_gains_over_a_scorer_of_another_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = table(capsys, runs / "boxes", runs / "part", "--gain-over", f"{runs}/whole:clip")
    assert document["rows"][0]["gains"]["REC acc@0.5"]["difference"] == pytest.approx(12.5)
    assert document["rows"][1]["gains"]["REC acc@0.5"]["difference"] is None
    assert any("No gain where the expressions are not those of the baseline: part" in n for n in document["notes"])
    assert main(["table", str(runs / "boxes"), "--gain-over", "clip"]) == 2
    assert "Unknown scorer 'clip'" in capsys.readouterr().err


def test_metrics_can_be_chosen(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(capsys, runs / "whole", "--metrics", "ris/mIoU", "rec/acc@0.5")["rows"]
    assert list(rows[0]["metrics"]) == ["RIS mIoU", "REC acc@0.5"]
    assert main(["table", str(runs / "whole"), "--metrics", "ris/miou"]) == 2
    assert "Unknown metric 'ris/miou'. Did you mean 'ris/mIoU'" in capsys.readouterr().err


def test_runs_without_the_chosen_metrics_are_left_out(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And Holm's correction counts what the table shows."""
    document = table(capsys, runs / "whole", runs / "masks", "--metrics", "rec/acc@0.5", "--gain-over", "clip")
    assert {row["run"] for row in document["rows"]} == {"whole"}
    assert any("with Holm's correction for 2 tests" in note for note in document["notes"])
    document = table(capsys, runs / "boxes", runs / "masks", "--gain-over", f"{runs}/masks:clip")
    assert any("with Holm's correction for 4 tests" in note for note in document["notes"]), (
        "oIoU and mIoU of two scorers"
    )


def test_the_best_of_rivals_is_bold(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(runs / "whole"), "--metrics", "rec/acc@0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell in line for line, cell in zip(lines[2:5], ("| 62.50 |", "| **75.00** |", "| "), strict=True)] == [
        True
    ] * 3
    assert main(["table", str(runs / "whole"), "--metrics", "rec/acc@0.5", "--format", "latex"]) == 0
    assert r"\textbf{75.00}" in capsys.readouterr().out


def test_a_scorer_that_the_bank_does_not_touch_stands_once(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As CLIP's own score beside every bank; what says something else stays."""
    other = Path(shutil.copytree(runs / "whole", tmp_path / "other"))
    change_results(other, lambda results: results["protocol"]["bank"].update(name="another", prompts_digest="0" * 12))
    rows = table(capsys, runs / "whole", other)["rows"]
    assert [(row["run"], row["scorer"]) for row in rows] == [
        ("whole and 1 more", "clip"), ("whole", "bsap"), ("whole", "bsap_h"), ("other", "bsap"), ("other", "bsap_h"),
    ]  # fmt: skip
    change_results(other, lambda results: results["metrics"]["rec"]["clip"].update({"acc@0.5": 0.5}))
    assert len(table(capsys, runs / "whole", other)["rows"]) == 6
