"""`bsap score`: the metrics of saved predictions, against the run's own and against plain loops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.cli import main
from bsap.errors import DataError
from bsap.runs.buckets import BUCKETS, bucket
from bsap.runs.records import read_predictions
from bsap.runs.rescore import rescore
from support.planted import Planted

FIELDS = ["category", "words", "distractors"]
Edit = Callable[[list[Any]], Any]


@pytest.fixture(scope="module")
def run(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the planted world, broken down by everything."""
    root = tmp_path_factory.mktemp("score")
    config = planted.config(run={"root": str(root), "name": "run", "breakdown": FIELDS})
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(root / "config.yaml")]) == 0
    return root / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def lines_of(folder: Path) -> list[str]:
    return (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()


def rewrite(folder: Path, records: list[Any]) -> None:
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")


def scored(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["score", *map(str, args), "--format", "json"]) in (0, 1)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_same_bits_as_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((run / "results.json").read_text())
    report = scored(capsys, run)
    assert report["equal"] is True
    assert report["differences"] == []
    assert report["hit"] == "IoU >= 0.5"
    for key in ("metrics", "breakdown"):
        assert json.dumps(report[key]) == json.dumps(results[key])
    assert report["counts"] == {"seen": 8, "no_proposals": 1, "no_mask": 0}


@pytest.mark.filterwarnings("ignore::UserWarning")  # several about numbers that are NaN
def test_without_any_mask_a_breakdown_still_has_ris(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(planted.root, tmp_path / "data"))
    (instances,) = root.glob("*/instances.json")
    content = json.loads(instances.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    instances.write_text(json.dumps(content))
    config = planted.config(data={"root": str(root)}, model={"missing_mask": "skip"})
    config["run"] = {"root": str(tmp_path), "name": "run", "breakdown": ["words"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["test", "-c", str(tmp_path / "config.yaml")]) == 0
    report = scored(capsys, tmp_path / "run")
    assert report["differences"] == []
    assert {tuple(tasks) for tasks in report["breakdown"]["words"].values()} == {("rec", "ris")}


def test_the_table_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(run), "--breakdown", "words"]) == 0
    text = capsys.readouterr().out
    assert "Equal to results.json, bit for bit." in text
    assert (
        "8 expressions, 1 without proposals, 0 without mask; 8 selected, 0 skipped, 10834 published: incomplete" in text
    )
    assert "53.55" in text, "oIoU of clip, 2536 / 4736"
    assert "by words" in text
    assert "by category" not in text


def test_another_hit_rule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict = scored(capsys, run, "--strict")
    assert [strict["metrics"]["rec"][name]["acc@0.5"] for name in ("clip", "bsap")] == [4 / 8, 5 / 8]
    assert strict["equal"] is None
    assert "IoU >= 0.5" in strict["uncompared"]
    assert scored(capsys, run, "--no-strict")["equal"] is True


# --- breakdowns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("strict", [False, True])
def test_a_breakdown_is_what_a_plain_loop_gives(run: Path, field: str, strict: bool) -> None:
    tables = rescore(run, breakdown=[field], strict=strict).breakdown[field]
    records = [json.loads(line) for line in lines_of(run)]
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(bucket(field, record[field]), []).append(record)
    assert set(tables) == set(groups)
    for name, group in groups.items():
        for scorer in ("clip", "bsap", "bsap_h"):
            rows = [record["scorers"][scorer] for record in group]
            hits = sum(row["box_iou"] > 0.5 if strict else row["box_iou"] >= 0.5 for row in rows)
            assert tables[name]["rec"][scorer]["acc@0.5"] == hits / len(rows)
            overall = Fraction(sum(row["intersection"] for row in rows), sum(row["union"] for row in rows))
            mean = sum(Fraction(row["intersection"], row["union"]) for row in rows) / len(rows)
            assert tables[name]["ris"][scorer]["oIoU"] == float(overall)
            assert tables[name]["ris"][scorer]["mIoU"] == pytest.approx(float(mean), abs=1e-11)
            assert tables[name]["ris"][scorer]["n"] == len(rows)


def test_buckets_of_the_planted_world(run: Path) -> None:
    tables = rescore(run, breakdown=FIELDS).breakdown
    sizes = {field: {name: row["rec"]["clip"]["n"] for name, row in table.items()} for field, table in tables.items()}
    assert sizes == {
        "category": {"patch": 8},
        "words": {"1": 5, "2": 1, "3": 1, "5": 1},
        "distractors": {"0": 2, "1": 6},
    }
    assert [list(table) for table in sizes.values()] == [["patch"], ["1", "2", "3", "5"], ["0", "1"]]


@given(st.sampled_from(sorted(BUCKETS)), st.integers(0, 100))
def test_a_bucket_holds_what_its_name_says(field: str, value: int) -> None:
    value = max(value, BUCKETS[field][0])
    name = bucket(field, value)
    low, _, high = name.rstrip("+").partition("-")
    assert int(low) <= value
    assert name.endswith("+") or value <= int(high or low)


def test_an_unknown_field_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(run), "--breakdown", "word"]) == 2
    assert "Unknown field to break down by 'word'. Did you mean 'words'" in capsys.readouterr().err


# --- what differs -----------------------------------------------------------------------------------------------------


def test_predictions_that_give_other_numbers(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [json.loads(line) for line in lines_of(copy)]
    records[5]["scorers"]["clip"]["intersection"] -= 1
    rewrite(copy, records)
    assert main(["score", str(copy)]) == 1
    text = capsys.readouterr().out
    assert "do NOT give the numbers of results.json" in text
    assert f"metrics.ris.clip.oIoU: results.json says {2536 / 4736!r}, the predictions say {2535 / 4736!r}" in text
    assert "metrics.rec" not in text
    assert "metrics.ris.bsap" not in text


def test_results_that_were_edited_in_the_last_bit(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((copy / "results.json").read_text())
    results["breakdown"]["words"]["1"]["ris"]["bsap"]["oIoU"] += 2**-53
    results["counts"]["no_mask"] = 1
    (copy / "results.json").write_text(json.dumps(results))
    differences = scored(capsys, copy)["differences"]
    assert [line.partition(":")[0] for line in differences] == [
        "results.json",
        "counts.no_mask",
        "breakdown.words.1.ris.bsap.oIoU",
    ]


def test_without_results_there_is_nothing_to_compare(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((copy / "results.json").read_text())["metrics"]
    (copy / "results.json").unlink()
    report = scored(capsys, copy)
    assert report["equal"] is None
    assert report["uncompared"] == "there is no results.json"
    assert report["metrics"] == before


def test_a_referent_without_mask_leaves_ris_only(copy: Path) -> None:
    records = [json.loads(line) for line in lines_of(copy)]
    records[5]["status"] = "no_mask"
    for row in records[5]["scorers"].values():
        del row["intersection"], row["union"]
    rewrite(copy, records)
    metrics = rescore(copy).metrics
    assert (metrics["rec"]["clip"]["n"], metrics["ris"]["clip"]["n"]) == (8, 7)
    assert metrics["ris"]["clip"]["oIoU"] == (2536 - 768) / (4736 - 1024)


# --- what cannot be read ----------------------------------------------------------------------------------------------


def set_row(number: int, **values: Any) -> Edit:
    return lambda records: records[number]["scorers"]["bsap"].update(values)


def set_record(number: int, **values: Any) -> Edit:
    return lambda records: records[number].update(values)


SPOILED: dict[str, tuple[Edit, int, str]] = {
    "not JSON": (lambda records: records.__setitem__(2, "{nonsense}"), 3, "not readable as JSON"),
    "blank line": (lambda records: records.insert(2, ""), 3, "not readable as JSON"),
    "a list": (lambda records: records.__setitem__(0, [1]), 1, "it is [1]"),
    "no id": (lambda records: records[1].pop("id"), 2, "it lacks id"),
    "no words": (lambda records: records[1].pop("words"), 2, "it lacks words"),
    "words of another type": (set_record(7, words="two"), 8, 'its words is "two"'),
    "a flag for a number": (set_record(7, n_regions=True), 8, "its n_regions is true"),
    "status": (set_record(3, status="fine"), 4, 'its status is "fine"'),
    "twice": (lambda records: records.__setitem__(4, records[1]), 5, "'refcoco/unc/val/1' is in line 2 already"),
    "no scorer": (set_record(0, scorers={}), 1, "it has no scorer"),
    "fewer scorers": (lambda records: records[6]["scorers"].pop("bsap"), 7, "its scorers are clip, bsap_h"),
    "region too large": (set_row(0, region=3), 1, "the region 3 of 3"),
    "region below": (set_row(0, region=-1), 1, "its scorers.bsap.region is -1"),
    "region of nothing": (set_row(4, region=0), 5, "the region 0 of 0"),
    "no region": (set_row(0, region=None), 1, "the region None of 3"),
    "no IoU": (lambda records: records[0]["scorers"]["bsap"].pop("box_iou"), 1, "it lacks scorers.bsap.box_iou"),
    "IoU not a number": (set_row(0, box_iou=float("nan")), 1, "its scorers.bsap.box_iou is NaN"),
    "IoU above one": (set_row(0, box_iou=1.5), 1, "its scorers.bsap.box_iou is 1.5"),
    "intersection above union": (set_row(0, intersection=401), 1, "intersection 401 and union 400"),
    "empty union": (set_row(0, intersection=0, union=0), 1, "intersection 0 and union 0"),
    "half pixels": (set_row(0, intersection=1.5), 1, "its scorers.bsap.intersection is 1.5"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_line_is_named(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    edit, line, message = SPOILED[name]
    records = [json.loads(text) for text in lines_of(copy)]
    edit(records)
    rewrite(copy, records)
    assert main(["score", str(copy)]) == 2
    error = capsys.readouterr().err
    assert f"{copy / 'predictions.jsonl'}, line {line}: " in error
    assert message in error


def test_a_half_written_line_is_not_forgiven(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert main(["score", str(copy)]) == 2
    assert f"{path}, line 8: the line is cut off in the middle" in capsys.readouterr().err


def test_a_lost_line_is_counted(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "predictions.jsonl").write_text("\n".join(lines_of(copy)[:-1]) + "\n")
    assert main(["score", str(copy)]) == 2
    assert "holds 7 records, but results.json counted 8 expressions" in capsys.readouterr().err


def test_no_records_at_all(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "predictions.jsonl").write_text("")
    assert main(["score", str(copy)]) == 2
    assert "holds no record" in capsys.readouterr().err


@given(st.data())
def test_only_our_own_error_comes_out_of_spoiled_bytes(
    run: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((run / "predictions.jsonl").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "spoiled.jsonl"
    path.write_bytes(content)
    message = None
    try:
        assert read_predictions(path, ["rec", "ris"])
    except DataError as error:
        message = str(error)
    assert message is None or str(path) in message


def test_what_is_no_run_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in (
        (tmp_path / "nothing", "it does not exist"),
        (tmp_path, "it has neither results.json nor config.yaml"),
        (run / "results.json", f"it is a file. Name the folder, for example {run}"),
    ):
        assert main(["score", str(path)]) == 2
        assert f"bsap: {path} is no run folder: {message}" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "inner")
    assert main(["score", str(tmp_path)]) == 2
    assert f"it holds 1 of them. Name the run itself, for example {tmp_path / 'inner'}" in capsys.readouterr().err


def test_a_run_under_way(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "parts").mkdir()
    (copy / "predictions.jsonl").rename(copy / "parts" / "0-0.jsonl")
    (copy / "results.json").unlink()
    for command in ("score", "table"):
        assert main([command, str(copy)]) == 2
        error = capsys.readouterr().err
        assert "the run is not finished" in error
        assert f"bsap test -c {copy / 'config.yaml'}" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", '{"metrics": {', "not readable as JSON"),
        ("results.json", "[1]", "it is [1]"),
        ("results.json", '{"metrics": {}}', "it lacks counts"),
        ("config.yaml", "model: [", "not readable as YAML"),
        ("config.yaml", "model: 3", "its model is 3"),
        ("config.yaml", "model: {strict: true, tasks: 5}", "do not say `model.strict`"),
        ("config.yaml", "model: {strict: true, tasks: [[]]}", "do not say `model.strict`"),
        ("config.yaml", "data: 3", "it lacks model"),
        ("config.yaml", "model: {strict: 1}", "do not say `model.strict`"),
    ],
)
def test_unreadable_files_are_named(
    copy: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "results.json").unlink()
    (copy / name).write_text(content)
    assert main(["score", str(copy)]) == 2
    error = capsys.readouterr().err
    assert str(copy) in error
    assert message in error


SECTIONS = ("metrics", "counts", "protocol", "settings", "models", "breakdown", "complete")
EMPTY_BUT_SOUND = (("models", []), ("breakdown", {}))
DAMAGES = [(key, value) for key in SECTIONS for value in (None, [], {}, 5) if (key, value) not in EMPTY_BUT_SOUND]


@pytest.mark.parametrize(("key", "value"), DAMAGES)
def test_damaged_results_are_named_by_every_reader(
    copy: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    for command in ("score", "table"):
        assert main([command, str(copy)]) == 2
        assert f"{path}: not the results of a run, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("metrics", "rec", {}, "its metrics.rec is {}"),
        ("counts", "published", "all", 'its counts.published is "all"'),
        ("counts", "seen", None, "its counts.seen is null"),
        ("protocol", "proposals", [5], "its protocol.proposals is [5]"),
        ("protocol", "encoders", [5], "its protocol.encoders[0] is 5"),
        ("settings", "model", [], "its settings.model is []"),
    ],
)
def test_damaged_sections_of_results_are_named(
    copy: Path, section: str, key: str, value: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "results.json"
    results = json.loads(path.read_text())
    results[section][key] = value
    path.write_text(json.dumps(results))
    for args in (["score"], ["table", "--published"]):
        assert main([*args, str(copy)]) == 2
        error = capsys.readouterr().err
        assert f"{path}: not the results of a run, " in error
        assert message in error
