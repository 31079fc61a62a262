"""`bsap table`: what stands in it, in four formats, beside published numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.cli import main
from bsap.datamodules import ProposalConfig
from bsap.datamodules.counts import PUBLISHED
from bsap.errors import visible
from bsap.reports.formats import escape_latex, escape_markdown
from bsap.reports.published import load_published
from bsap.reports.run_formats import FORMATS, to_csv
from bsap.reports.run_table import SETTINGS, make_table
from bsap.runs.saved import read_run
from support.planted import Planted
from support.results import change_results

SCORERS = ["clip", "bsap", "bsap_h"]


@pytest.fixture(scope="module")
def runs(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three runs: as planted; among annotated objects, with a computed bank; on a part of the split."""
    root = tmp_path_factory.mktemp("table")
    configs = {
        "plain": planted.config(),
        "objects|50%_x": planted.config(
            data={"proposals": {"source": "ground_truth"}},
            model={"bank": "scene", "strict": True, "tasks": ["rec"]},
        ),
        "part": planted.config(data={"limit": 3}, trainer={"precision": "bf16-mixed"}),
    }
    for name, config in configs.items():
        config["run"] = {"root": str(root), "name": name}
        (root / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["test", "-c", str(root / "config.yaml")]) == 0
    (root / "config.yaml").unlink()
    return root


@pytest.fixture
def plain(runs: Path, tmp_path: Path) -> Path:
    """A copy of one run to spoil."""
    return Path(shutil.copytree(runs / "plain", tmp_path / "plain"))


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    assert main(["table", *map(str, args)]) == 0
    return capsys.readouterr().out


def rows_of(capsys: pytest.CaptureFixture[str], *args: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(printed(capsys, *args, "--format", "json"))["rows"]
    return rows


def split_markdown(line: str) -> list[str]:
    """A row's cells as GitHub reads them: unescaped pipes divide, and a backslash takes punctuation as it is."""
    cells = re.findall(r"((?:\\.|[^\\|])*)\|", line.removeprefix("|"))
    return [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell.strip()) for cell in cells]


# --- rows, columns, marks ---------------------------------------------------------------------------------------------


def test_one_row_for_each_run_and_scorer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, runs / "plain", runs / "objects|50%_x", runs / "part")
    assert [row["run"] for row in rows] == [name for name in ("plain", "objects|50%_x", "part") for _ in SCORERS]
    assert [row["scorer"] for row in rows] == SCORERS * 3
    for row in rows:
        results = json.loads((runs / row["run"] / "results.json").read_text())
        saved = results["metrics"]
        assert row["metrics"]["REC acc@0.5"] == 100 * saved["rec"][row["scorer"]]["acc@0.5"]
        oiou = 100 * saved["ris"][row["scorer"]]["oIoU"] if "ris" in saved else None
        assert row["metrics"]["RIS oIoU"] == oiou
        assert row["n"] == results["counts"]["seen"]
    assert rows[0]["metrics"]["REC acc@0.5"] == 62.5


def test_a_column_for_each_setting_that_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, runs / "plain", runs / "objects|50%_x", runs / "part")
    columns = {name: [row["settings"][name] for row in rows[1::3]] for name in rows[0]["settings"]}
    assert columns == {
        "selection": ["all", "all", "limit 3"],
        "proposals": ["detections proposals.json", "ground truth", "detections proposals.json"],
        "bank": ["white", "scene", "white"],
        "hit": ["IoU >= 0.5", "IoU > 0.5", "IoU >= 0.5"],
        "precision": ["32-true", "32-true", "bf16-mixed"],
    }
    assert [row["settings"]["bank"] for row in rows[::3]] == [None] * 3, "CLIP's own score has no bank"
    assert rows_of(capsys, runs / "plain")[0]["settings"] == {}, "nothing differs within one run"


def test_marks_and_legend(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [runs / "objects|50%_x", runs / "part"]
    rows = rows_of(capsys, *both)
    assert [row["marks"] for row in rows[:2]] == [
        ["incomplete", "ground_truth"],
        ["incomplete", "transductive", "ground_truth"],
    ], "CLIP's own score has no bank that could hold the split's texts"
    assert [row["marks"] for row in rows[3:]] == [["partial"]] * 3
    text = printed(capsys, *both)
    assert "| bsap ‡§¶ |" in text
    assert "| bsap † |" in text
    for symbol, start in (("†", "partial"), ("‡", "incomplete"), ("§", "transductive"), ("¶", "ground truth")):
        assert f"- {symbol} {start}: " in text
    assert "†" not in printed(capsys, runs / "objects|50%_x"), "a legend explains what occurs and nothing else"


def test_a_complete_run_has_no_mark(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_results(plain, lambda results: results.update(complete=True))
    assert rows_of(capsys, plain)[0]["marks"] == []


@pytest.mark.parametrize(
    ("change", "column", "text"),
    [
        (lambda r: r["models"][0].update(weights_sha256="f" * 64), "model", "model (ffffffff)"),
        (
            lambda r: r["protocol"]["proposals"].update(sha256="0" * 64),
            "proposals",
            "detections proposals.json (00000000)",
        ),
        (lambda r: r["protocol"]["bank"].update(prompts_digest="abcdef012345"), "bank", "white (abcdef01)"),
        (lambda r: r["protocol"]["proposals"].update(top_k=5), "proposals", "detections proposals.json, top_k 5"),
        (
            lambda r: r["protocol"]["proposals"].update(masked_only=True),
            "proposals",
            "detections proposals.json, masked_only True",
        ),
        (lambda r: r["protocol"]["phrases"].update(weight=0.5), "phrases", "weight 0.5, parser none, rejoin False"),
        (lambda r: r["protocol"].update(split="testA"), "split", "refcoco unc testA"),
        (lambda r: r["settings"]["data"].update(text="raw", lowercase=True), "wording", "raw, lower case"),
        (
            lambda r: r["protocol"].update(views=["crop", {"class_path": "a.Blur", "init_args": {"std": 5}}]),
            "views",
            "crop + Blur(std=5)",
        ),
        (lambda r: r["protocol"]["templates"].update(query="a {}"), "templates", "query a {}, bank {}"),
    ],
)  # fmt: skip
def test_what_looks_alike_is_told_apart(
    runs: Path, plain: Path, change: Any, column: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_results(plain, change)
    rows = rows_of(capsys, runs / "plain", plain)
    assert list(rows[0]["settings"]) == [column]
    assert rows[4]["settings"][column] == text
    assert rows[1]["settings"][column] not in (text, None)
    assert [rows[0]["run"].removesuffix(" and 1 more"), rows[3]["run"]] == [str(runs / "plain"), str(plain)], (
        "folders of one name go by their paths"
    )


def test_a_run_named_twice_stands_once(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(rows_of(capsys, runs / "plain", f"{runs}/../{runs.name}/plain")) == 3


def test_no_filter_of_proposals_is_hidden(plain: Path) -> None:
    """Whatever settings proposals have: by default none is shown, and each one shows when it is set."""
    usual = dataclasses.asdict(ProposalConfig("detections", path="proposals.json"))
    given = {
        "min_score": 0.5,
        "top_k": 7,
        "min_area": 2.5,
        "min_area_share": 0.05,
        "masked_only": True,
        "empty": "skip",
    }
    assert {"source", "path", *given} == set(usual), "a new setting belongs into this list"
    for changes in ({}, *({name: value} for name, value in given.items())):
        change_results(plain, lambda r: r["protocol"]["proposals"].update({**usual, **changes}))  # noqa: B023
        fact = SETTINGS["proposals"](read_run(plain).finished())
        assert fact is not None
        shown = [f"{name} {value}" for name, value in changes.items()]
        assert fact.text == ", ".join(["detections proposals.json", *shown])


def test_tasks_that_counted_other_expressions(runs: Path, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in rows_of(capsys, plain):
        assert (row["n"], row["without_proposals"]) == (8, 1)
    change_results(plain, lambda r: r["metrics"]["ris"]["clip"].update(n=5, missing=0))
    row = rows_of(capsys, plain)[0]
    assert row["n"] == {"REC": 8, "RIS": 5}
    assert row["without_proposals"] == {"REC": 1, "RIS": 0}
    lines = printed(capsys, plain).splitlines()
    assert split_markdown(lines[0])[-2:] == ["n", "without proposals"]
    assert [split_markdown(line)[-2:] for line in lines[2:4]] == [["8 / 5", "1 / 0"], ["8", "1"]]
    assert "- Counts a / b are those of REC / RIS." in lines
    cells = next(csv.DictReader(io.StringIO(printed(capsys, plain, "--format", "csv"))))
    assert (cells["n"], cells["without proposals"]) == ("8 / 5", "1 / 0")
    assert r" & 8 / 5 & 1 / 0 \\" in printed(capsys, plain, "--format", "latex")
    assert "without proposals" not in printed(capsys, runs / "part")


def test_every_setting_is_read_from_real_results(runs: Path) -> None:
    results = read_run(runs / "plain").finished()
    assert all(make(results) is not None for make in SETTINGS.values())


# --- formats ----------------------------------------------------------------------------------------------------------


def test_markdown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, runs / "plain", runs / "objects|50%_x").splitlines()
    table = [split_markdown(line) for line in lines if line.startswith("|")]
    assert {len(row) for row in table} == {len(table[0])}
    assert table[0][:2] == ["run", "scorer"]
    assert table[2][:2] == ["plain", "clip ‡"]
    assert table[2][table[0].index("REC acc@0.5")] == "62.50"
    assert table[2][table[0].index("RIS oIoU")] == "53.55"
    assert table[5][0] == "objects|50%_x"
    assert table[5][table[0].index("RIS oIoU")] == ""
    assert "- Metrics in per cent." in lines


def test_csv(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, runs / "plain", runs / "objects|50%_x", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["run"] for row in rows] == ["plain"] * 3 + ["objects|50%_x"] * 3
    assert float(rows[0]["RIS oIoU (%)"]) == 100 * (2536 / 4736)
    assert rows[3]["RIS oIoU (%)"] == ""
    assert rows[4]["marks"] == "incomplete, transductive, ground_truth"
    assert "source" not in rows[0]


def test_latex(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, runs / "plain", runs / "objects|50%_x", "--published", "--format", "latex").splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[1])
    assert columns is not None
    body = [line for line in lines if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns[1]) - 1}
    assert any(line.startswith(r"objects\textbar{}50\%\_x & bsap\_h \ddag{}\S{}\P{} & ") for line in body)
    assert lines.count(r"\midrule") == 2, "below the head, and above the published rows"
    for opened, closed in (("{", "}"), (r"\begin", r"\end")):
        assert "\n".join(lines).count(opened) == "\n".join(lines).count(closed)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_markdown_reads_back(text: str) -> None:
    assert split_markdown(f"| {escape_markdown(text)} | x |") == [re.sub(r"\s+", " ", text).strip(), "x"]


LATEX = {
    "textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"', "textasciigrave": "`", "dag": "†", "ddag": "‡", "S": "§", "P": "¶",
    "textbardbl": "‖",
}  # fmt: skip


def read_latex(text: str) -> str:
    """What LaTeX sets: commands by name, escaped signs, and groups without their braces."""
    assert not re.search(r"--|''|,,", text), "a ligature"
    assert not re.match(r"[\[*]", text), "an argument of the line break before it"
    token = re.compile(r"\\([A-Za-z]+)\{\}|\\([^A-Za-z])|([^\\])", re.DOTALL)
    assert "".join(match[0] for match in token.finditer(text)) == text
    out = ""
    for name, sign, plain_sign in token.findall(text):
        assert plain_sign not in set('$&#%_^~<>|"`'), f"{plain_sign} is not escaped"
        out += LATEX[name] if name else sign if sign else "" if plain_sign in "{}" else plain_sign
    return out


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\\{}$&#%_^~<>|\"'`[]*-,†"), max_size=40))
def test_latex_reads_back(text: str) -> None:
    assert read_latex(escape_latex(text)) == re.sub(r"\s+", " ", text)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40))
def test_csv_reads_back(runs: Path, text: str) -> None:
    table = make_table([read_run(runs / "plain")])
    row = vars(table.rows[0]) | {"run": text}
    again = type(table)((type(table.rows[0])(**row),), table.settings, table.metrics)
    cells = list(csv.reader(io.StringIO(to_csv(again), newline="")))[1]
    shown = visible(re.sub(r"\s+", " ", text))
    assert cells[0] == (f"'{shown}" if shown[:1] in tuple("=+-@") else shown)


def test_nan_is_no_number_in_any_format(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_results(plain, lambda results: results["metrics"]["rec"]["clip"].update({"acc@0.5": float("nan")}))
    assert rows_of(capsys, plain)[0]["metrics"]["REC acc@0.5"] is None
    assert "| plain | clip ‡ | - | 53.55 |" in printed(capsys, plain)
    assert printed(capsys, plain, "--format", "csv").splitlines()[1].startswith("plain,clip,,53.5")


def test_the_output_file(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FORMATS:
        path = tmp_path / f"table.{name}"
        text = printed(capsys, runs / "plain", "--format", name)
        assert printed(capsys, runs / "plain", "--format", name, "--output", path) == ""
        assert path.read_text(encoding="utf-8") == text
    assert main(["table", str(runs / "plain"), "--output", str(tmp_path / "no" / "table")]) == 2
    assert "Choose another `--output`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.pop("protocol"), "it lacks protocol"),
        (lambda results: results["protocol"].pop("hit"), "it lacks protocol.hit"),
        (lambda results: results.update(metrics=[1]), "not the results of a run"),
        (lambda results: results["metrics"]["rec"]["clip"].pop("n"), "its metrics.rec.clip is {"),
    ],
)  # fmt: skip
def test_results_of_another_make(plain: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    change_results(plain, change)
    for flags in ([], ["--published"]):
        assert main(["table", str(plain), *flags]) == 2
        error = capsys.readouterr().err
        assert f"{plain / 'results.json'}: " in error
        assert message in error


def test_other_folders_beside_the_runs_are_left_out(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in ``runs/*``: the feature store, pictures, and runs that are still going on."""
    (tmp_path / "sheet.png").write_bytes(b"a picture")
    for name in ("features", "going on"):
        (tmp_path / name).mkdir()
    (tmp_path / "going on" / "config.yaml").write_text("model: {}")
    alone = printed(capsys, runs / "plain")
    folders = [tmp_path / "features", runs / "plain", tmp_path / "going on", tmp_path / "sheet.png"]
    assert main(["table", *map(str, folders)]) == 0
    found = capsys.readouterr()
    assert found.out == alone
    assert found.err == f"bsap: skipped, because they hold no results.json: {folders[0]}, {folders[2]}, {folders[3]}\n"

    assert main(["table", str(runs / "plain"), str(tmp_path / "a typo")]) == 2
    assert "a typo is no run folder: it does not exist" in capsys.readouterr().err
    for args, message in (
        ([tmp_path / "going on"], "the run is not finished"),
        ([runs / "plain", tmp_path / "typo"], "it does not exist"),
    ):
        assert main(["table", *map(str, args)]) == 2
        assert message in capsys.readouterr().err


# --- published numbers ------------------------------------------------------------------------------------------------

# As the papers print them: REC on RefCOCO val, testA, testB, RefCOCO+ val, testA, testB, RefCOCOg val, test.
REC = {
    "CPT": [32.2, 36.1, 30.3, 31.9, 35.2, 28.8, 36.7, 36.5],
    "ReCLIP": [45.8, 46.1, 47.1, 47.9, 50.1, 45.1, 59.3, 59.0],
    "ReCLIP, ground-truth boxes": [50.5, 47.1, 54.9, 52.1, 51.7, 52.0, 67.9, 67.1],
    "Red Circle": [49.8, 58.6, 39.9, 55.3, 63.9, 45.4, 59.4, 58.9],
    "Alpha-CLIP": [55.7, 61.1, 50.3, 55.6, 62.7, 46.4, 61.2, 62.0],
    "FGVP": [59.6, None, None, 60.0, None, None, 63.3, None],
}
# The other rows of FGVP's README: val of RefCOCO, RefCOCO+, RefCOCOg.
for name, values in {
    "CPT's shade, by FGVP's authors": (41.3, 41.3, 51.3),
    "Red Circle with relations, by FGVP's authors": (43.9, 45.3, 57.3),
    "FGVP with relations": (52.0, 53.3, 62.1),
    "Red Circle, by FGVP's authors": (51.4, 56.3, 58.3),
    "FGVP with subtraction": (52.9, 57.4, 58.1),
    "Red Circle with crop, by FGVP's authors": (51.6, 58.1, 60.0),
    "FGVP with crop and subtraction": (53.9, 59.3, 61.0),
    "Red Circle with crop and relations, by FGVP's authors": (56.8, 58.6, 62.2),
}.items():
    REC[name] = [values[0], None, None, values[1], None, None, values[2], None]
SPLITS = [(d, "unc", s) for d in ("refcoco", "refcoco+") for s in ("val", "testA", "testB")]
SPLITS += [("refcocog", "umd", "val"), ("refcocog", "umd", "test")]


@pytest.mark.parametrize("split", SPLITS)
def test_published_rows(plain: Path, split: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    change_results(plain, lambda r: r["protocol"].update(zip(("dataset", "split_by", "split"), split, strict=True)))
    rows = [row for row in rows_of(capsys, plain, "--published") if row["published"]]
    rec = {row["run"]: value for row in rows if (value := row["metrics"]["REC acc@0.5"]) is not None}
    number = SPLITS.index(split)
    assert rec == {name: values[number] for name, values in REC.items() if values[number] is not None}
    assert all(row["source"] and row["differs"] for row in rows)
    assert [row["run"] for row in rows if row["marks"]] == ["ReCLIP, ground-truth boxes"]


def test_published_ris(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["run"]: row["metrics"] for row in rows_of(capsys, runs / "plain", "--published")}
    assert (rows["Global-Local CLIP"]["RIS oIoU"], rows["Global-Local CLIP"]["RIS mIoU"]) == (24.9, 26.2)
    assert (rows["Ref-Diff"]["RIS oIoU"], rows["Ref-Diff"]["RIS mIoU"]) == (None, 37.2)
    rows = {row["run"]: row["metrics"] for row in rows_of(capsys, runs / "objects|50%_x", "--published")}
    assert "Ref-Diff" not in rows, "a run without RIS has no use for it"


def test_what_published_rows_did_differently(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["run"]: row for row in rows_of(capsys, runs / "plain", "--published")}
    reclip = rows["ReCLIP"]["differs"]
    assert reclip[0].startswith("adds heuristics for spatial relations")
    assert reclip[1:] == [
        "chooses among MAttNet detections",
        "a hit is IoU > 0.5",
        "model RN50x16 + ViT-B-32",
        "views crop + blur",
    ]
    assert "hit rule not stated" in rows["Red Circle"]["differs"]
    assert rows["plain"]["settings"]["hit"] == "IoU >= 0.5", "two rules in one table are a column"
    assert rows["ReCLIP"]["settings"]["hit"] == "IoU > 0.5"
    text = printed(capsys, runs / "plain", "--published")
    assert "| ReCLIP |  | MAttNet detections |" in text
    assert "| 45.8 |" in text, "a published number keeps its digits"
    assert "- ReCLIP (published): adds heuristics for spatial relations" in text
    assert "Subramanian et al., ACL 2022" in text


def test_what_is_the_same_is_not_named(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def as_reclip(results: dict[str, Any]) -> None:
        results["protocol"].update(
            hit="IoU > 0.5",
            views=["crop", "blur"],
            encoders=[{"name": "ViT-B-32-quickgelu"}, {"name": "RN50x16-quickgelu"}],
            proposals={"source": "ground_truth", "path": None, "sha256": None},
        )

    change_results(plain, as_reclip)
    rows = {row["run"]: row for row in rows_of(capsys, plain, "--published")}
    assert len(rows["ReCLIP, ground-truth boxes"]["differs"]) == 1
    assert rows["ReCLIP"]["differs"][1:] == ["chooses among MAttNet detections"]
    assert "hit" not in rows["ReCLIP"]["settings"]


def test_a_split_without_published_numbers(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_results(plain, lambda results: results["protocol"].update(dataset="drawn"))
    assert main(["table", str(plain), "--published"]) == 0
    captured = capsys.readouterr()
    assert "no published numbers are known" in captured.err
    assert "published" not in captured.out.replace("the split's published number", "")


def test_the_shipped_numbers_are_well_formed() -> None:
    methods = load_published()
    assert len({(method.name, method.task) for method in methods}) == len(methods)
    for method in methods:
        assert re.search(r"arXiv \d{4}\.\d{5}", method.source), method.name
        assert method.hit in (None, "IoU > 0.5", "IoU >= 0.5")
        for split, values in method.results.items():
            assert tuple(split.split("/")) in PUBLISHED
            assert set(values) <= ({"acc@0.5"} if method.task == "rec" else {"oIoU", "mIoU"})
            assert all(0 < value < 100 for value in values.values())
