from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from bsap.cli import main
from bsap.cli.recipe import compare, merged, plan_runs, read_recipe, shipped_recipes
from bsap.reports.published import load_published
from support.results import change_results


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs as processes of their own, a table with a verdict for each number, and nothing runs twice."""
    flags = ["reproduce", "demo", "--output", str(tmp_path), "--accelerator", "cpu"]
    assert main(flags) == 0
    first = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("|")]
    assert ["ground_truth all", "clip", "rec/acc@0.5", "72.50", "72.50", "0.00", "same"] in rows
    assert "-0.00" not in first
    cells = json.loads((tmp_path / "table.json").read_text())
    assert len(cells) == len(rows) - 2 == 10
    assert {cell["verdict"] for cell in cells} == {"same"}
    results = json.loads((tmp_path / "detections" / "results.json").read_text())
    assert results["counts"]["seen"] == 400
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a finished run was started again"))
    asked: list[list[str]] = []
    monkeypatch.setattr("bsap.cli.report.run", asked.append)
    assert main([*flags, "--report"]) == 0
    assert capsys.readouterr().out == first
    runs = [str(tmp_path / name) for name in ("ground_truth", "detections")]
    assert asked == [["report", *runs, "--output", str(tmp_path / "report.html")]]
    assert (tmp_path / "table.md").read_text() == first
    change_results(tmp_path / "detections", lambda r: r["metrics"]["rec"]["clip"].update({"acc@0.5": 0.5}))
    assert main(flags) == 1
    assert "-12.00" in capsys.readouterr().out
    verdicts = [cell["verdict"] for cell in json.loads((tmp_path / "table.json").read_text())]
    assert verdicts.count("differs") == 1


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(name)
    runs = plan_runs(recipe)
    assert len({run.name for run in runs}) == len(runs)
    for protocol in recipe.protocols:
        assert (files("bsap.configs") / "protocols" / protocol).is_file()
    for run in runs:
        for metrics in run.plan.published.values():
            for by_split in metrics.values():
                assert set(by_split) <= set(run.plan.splits or ("all",))
    if not recipe.drawn:
        assert main(["reproduce", name, "--root", str(tmp_path / "refer"), "--output", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert f"bsap data get refcoco --root {tmp_path / 'refer'} --splits val" in message
        brought = [need.how for need in recipe.needs if need.how is not None]
        assert all(how in message for how in brought)
        assert brought or f"bsap data get reclip --root {tmp_path / 'refer'}" in message
        assert main(["reproduce", name]) == 2
        assert "--root refer" in capsys.readouterr().err


def test_reclips_numbers_are_those_of_the_table_of_published_numbers() -> None:
    paper = {bool(method.ground_truth): method for method in load_published() if method.name.startswith("ReCLIP")}
    for plan in read_recipe("reclip").runs:
        known = paper[plan.name == "ground_truth"].results
        assert plan.published["clip"]["rec/acc@0.5"] == {split: row["acc@0.5"] for split, row in known.items()}


def recipe(tmp_path: Path, content: dict[str, Any]) -> str:
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps({"about": "x", "source": "y", **content}))
    return str(file)


def test_runs_of_splits_and_seeds(tmp_path: Path) -> None:
    plan = {
        "name": "a", "splits": ["d/s/val", "d/s/test"], "seeds": [3, 4], "settings": {"model": {"bank": "captions"}},
        "tolerance": 1, "published": {"clip": {"rec/acc@0.5": {"d/s/val": 50}}},
    }  # fmt: skip
    found = read_recipe(recipe(tmp_path, {"runs": [plan], "settings": {"model": {"bank": "x", "views": ["crop"]}}}))
    runs = plan_runs(found)
    assert [run.name for run in runs] == ["a-d-s-val-3", "a-d-s-val-4", "a-d-s-test-3", "a-d-s-test-4"]
    assert runs[1].settings == {
        "data": {"dataset": "d", "split_by": "s", "split": "val"},
        "model": {"bank": "captions", "views": ["crop"], "bank_seed": 4},
    }
    ours = {"a-d-s-val-3": 0.4, "a-d-s-val-4": 0.505, "a-d-s-test-3": 0.1, "a-d-s-test-4": 0.1}
    results: dict[str, Any] = {n: {"metrics": {"rec": {"clip": {"acc@0.5": value}}}} for n, value in ours.items()}
    (cell,) = compare(runs, results)
    assert (cell.run, cell.ours, cell.verdict) == ("a d/s/val", (40.0, 50.5), "same")
    assert cell.difference == pytest.approx(0.5)
    for row in results.values():
        row["metrics"]["rec"]["bsap"] = {"acc@0.5": 0.75}
    runs[0].plan.published["bsap"] = {"rec/acc@0.5 over clip": {"d/s/val": 30.0}}
    assert compare(runs, results)[1].ours == pytest.approx((35.0, 24.5))
    results["a-d-s-val-4"]["metrics"]["rec"]["clip"]["acc@0.5"] = 0.6
    assert compare(runs, results)[0].verdict == "differs"


def test_settings_are_joined_key_by_key() -> None:
    below = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(below, {"a": {"c": 3}, "d": [2], "e": {}}) == {"a": {"b": 1, "c": 3}, "d": [2], "e": {}}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"runs": [{"nme": "a"}]}, "Did you mean 'name'"),
        ({"runs": []}, "a recipe needs `runs`"),
        ({"runs": [{"splits": []}]}, "missing 1 required keyword-only argument: 'name'"),
        ({"run": []}, "Did you mean 'runs'"),
        ({"runs": [5]}, "expected the keys name, splits"),
    ],
)
def test_malformed_recipes(
    tmp_path: Path, content: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", recipe(tmp_path, content)]) == 2
    assert message in capsys.readouterr().err


def test_what_cannot_be_downloaded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs = [{"files": ["sam/masks"], "how": "make it with scripts/amg.py"}]
    name = recipe(tmp_path, {"runs": [{"name": "a"}], "needs": needs})
    assert main(["reproduce", name, "--root", str(tmp_path)]) == 2
    assert f"{tmp_path / 'sam/masks'}: make it with scripts/amg.py" in capsys.readouterr().err
    assert main(["reproduce", "reclipp"]) == 2
    assert "Did you mean 'reclip'" in capsys.readouterr().err
    assert main(["reproduce", "demo", "--only", "nothing"]) == 2
    assert "The recipe has 2: ground_truth, detections" in capsys.readouterr().err


def test_the_documented_recipe(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "reproduce.md"
    file = tmp_path / "mine.yaml"
    file.write_text(page.read_text().split("```yaml\n")[1].split("```")[0])
    (run,) = plan_runs(read_recipe(str(file)))
    assert run.name == "generic-refcoco-unc-val"
    metrics = {"rec": {"clip": {"acc@0.5": 0.47}, "bsap": {"acc@0.5": 0.5}}}
    assert [cell.verdict for cell in compare([run], {run.name: {"metrics": metrics}})] == ["same", "same"]
