"""Damaged files of a run: nothing of them is believed, and whatever can be computed again is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsap.cli import main
from bsap.errors import BSAPError, DataError
from bsap.runs.parts import PartFile, read_parts, seal, unseal
from bsap.runs.records import read_predictions
from bsap.runs.rescore import rescore
from bsap.runs.saved import read_results
from support.planted import Planted
from support.results import change_results

QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def config(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("damage")
    run = {"root": str(root), "name": "run", "breakdown": ["category", "words"]}
    return planted.config(run=run, trainer={"default_root_dir": str(root)})


def start(config: dict[str, Any], folder: Path) -> int:
    """Run or continue a test in a folder."""
    file = folder.parent / "config.yaml"
    run = config["run"] | {"root": str(folder.parent), "name": folder.name}
    file.write_text(yaml.safe_dump(config | {"run": run}))
    return main(["test", "-c", str(file)])


@pytest.fixture(scope="module")
def finished(config: dict[str, Any]) -> Path:
    folder = Path(config["run"]["root"]) / "run"
    assert start(config, folder) == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def unfinish(folder: Path) -> Path:
    """Make a finished run one that was killed at the very end; returns the file with its records."""
    records = read_predictions(folder / "predictions.jsonl")
    (folder / "parts").mkdir()
    part = PartFile(folder / "parts", 1, 0)
    part.write(records)
    part.close()
    for name in ("predictions.jsonl", "results.json"):
        (folder / name).unlink()
    return part.path


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.text(), st.data())
def test_a_sealed_line_is_read_as_it_was_or_not_at_all(text: str, data: st.DataObject) -> None:
    text = text.replace("\n", "")
    line = seal(text).encode()[:-1]
    assert unseal(line) == text.encode()
    at, bit = data.draw(st.integers(0, len(line) - 1)), data.draw(st.integers(0, 7))
    assert unseal(line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :]) is None
    assert unseal(line[:at]) is None


@pytest.mark.parametrize("bit", range(0, 100, 17))
def test_a_flipped_bit_before_a_resume_changes_nothing(
    config: dict[str, Any], finished: Path, copy: Path, bit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    part = unfinish(copy)
    content = bytearray(part.read_bytes())
    content[len(content) * bit // 100] ^= 1 << bit % 8
    part.write_bytes(content)
    assert 1 <= read_parts(copy).damaged <= 2, "a line break may have become another byte"
    assert start(config, copy) == 0
    assert f"damaged lines in {copy / 'parts'}" in capsys.readouterr().err
    assert (copy / "predictions.jsonl").read_bytes() == (finished / "predictions.jsonl").read_bytes()
    results, expected = (read_results(folder / "results.json") for folder in (copy, finished))
    assert results["metrics"] == expected["metrics"]
    assert results["timing"]["resumed_expressions"] < 8


def test_a_better_number_written_by_hand_is_computed_again(config: dict[str, Any], finished: Path, copy: Path) -> None:
    part = unfinish(copy)
    text = part.read_text()
    assert '"box_iou": 0.0' in text
    part.write_text(text.replace('"box_iou": 0.0', '"box_iou": 1.0'))
    assert start(config, copy) == 0
    assert (copy / "predictions.jsonl").read_bytes() == (finished / "predictions.jsonl").read_bytes()


def test_parts_of_version_0_1_0_have_no_checksums(config: dict[str, Any], finished: Path, copy: Path) -> None:
    part = unfinish(copy)
    part.write_bytes((finished / "predictions.jsonl").read_bytes())
    assert start(config, copy) == 0
    results = read_results(copy / "results.json")
    assert results["timing"]["resumed_expressions"] == 0
    assert results["metrics"] == read_results(finished / "results.json")["metrics"]


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_without_its_origin_a_run_is_not_continued(
    config: dict[str, Any], copy: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing would say which weights made its records."""
    if state == "unfinished":
        unfinish(copy)
    (copy / "origin.json").unlink()
    assert start(config, copy) == 2
    assert f"{copy / 'origin.json'} is missing" in capsys.readouterr().err
    assert main(["test", "-c", str(copy.parent / "config.yaml"), "--run.overwrite", "true"]) == 0


# --- finished runs ----------------------------------------------------------------------------------------------------


def test_changed_predictions_are_noticed_by_every_reader(
    config: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the change moves no metric: a text."""
    path = copy / "predictions.jsonl"
    path.write_text(path.read_text().replace('"text": "', '"text": "very ', 1))
    assert main(["score", str(copy)]) == 1
    assert "predictions.jsonl: its SHA-256 is " in capsys.readouterr().out
    for command in (["table", str(copy)], ["show", str(copy), "--output", str(copy / "pictures")]):
        assert main(command) == 2
        assert f"{path} was changed after the run: its SHA-256 is " in capsys.readouterr().err
    assert start(config, copy) == 2
    assert f"{path} was changed after the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results["metrics"]["rec"]["clip"].update({"acc@0.5": 1.0}),
        lambda results: results.update(complete=True),
        lambda results: results["counts"].update(no_proposals=2),
        lambda results: results["breakdown"]["words"]["1"]["rec"]["clip"].update({"acc@0.5": 0.125}),
    ],
)
def test_changed_results_are_noticed_by_every_reader(
    config: dict[str, Any], copy: Path, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(dict(sorted(results.items()))))
    assert main(["table", str(copy)]) == 0, "another spelling is no change"
    change(results)
    path.write_text(json.dumps(results))
    assert main(["score", str(copy)]) == 1
    assert "results.json: the SHA-256 of its numbers is " in capsys.readouterr().out
    for command in (["table", str(copy)], ["show", str(copy), "--output", str(copy / "pictures")]):
        assert main(command) == 2
        assert f"{path} was changed after the run: the SHA-256 of its numbers is " in capsys.readouterr().err
    assert start(config, copy) == 2
    del results["numbers_sha256"]  # as in runs of version 0.1.0
    path.write_text(json.dumps(results))
    capsys.readouterr()
    assert main(["table", str(copy)]) == 0
    assert "‖ unchecked: results.json has no checksum" in capsys.readouterr().out


def test_an_expression_that_stands_twice_is_noticed_by_the_table(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the checksums are right."""
    path = copy / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines[:-1]]))
    change_results(copy)
    assert main(["table", str(copy)]) == 2
    assert f"{path} was changed after the run: 1 of its expressions occurs more than once" in capsys.readouterr().err


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


STRANGE = st.sampled_from(
    [
        None,
        True,
        -1,
        10**30,
        10**400,
        1.5,
        float("nan"),
        1e400,
        "",
        "\x1b[31m",
        "x" * 10**5,
        [],
        [[]],
        {},
        {"": None},
        "absent",
    ]
)


def spoil(value: Any, path: tuple[Any, ...], strange: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    if strange == "absent":
        del value[path[-1]]
    else:
        value[path[-1]] = strange


@QUICK
@given(st.data(), STRANGE)
def test_spoiled_results_give_a_clear_error_or_a_table(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, strange: Any
) -> None:
    results = json.loads((finished / "results.json").read_text())
    spoil(results, data.draw(st.sampled_from(list(places(results)))), strange)
    folder = tmp_path_factory.getbasetemp() / "spoiled"
    folder.mkdir(exist_ok=True)
    shutil.copy(finished / "predictions.jsonl", folder)
    (folder / "results.json").write_text(json.dumps(results))
    assert main(["table", str(folder)]) in (0, 2)
    assert main(["score", str(folder)]) in (0, 1, 2)


@QUICK
@given(st.data(), STRANGE)
def test_spoiled_records_are_named_or_sound(
    finished: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, strange: Any
) -> None:
    lines = (finished / "predictions.jsonl").read_text().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    record = json.loads(lines[number])
    spoil(record, data.draw(st.sampled_from(list(places(record)))), strange)
    folder = tmp_path_factory.getbasetemp() / "records"
    folder.mkdir(exist_ok=True)
    shutil.copy(finished / "results.json", folder)
    lines[number] = json.dumps(record)
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    message = None
    try:
        rescore(folder)
    except BSAPError as error:
        message = str(error)
    assert message is None or (str(folder / "predictions.jsonl") in message and len(message) < 2000)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"id": ' + "[" * 100_000 + "]" * 100_000 + "}", "9" * 5000]
)
@pytest.mark.parametrize("name", ["results.json", "predictions.jsonl", "origin.json", "config.yaml"])
def test_deep_nesting_and_long_numbers(
    config: dict[str, Any], copy: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / name).write_text(text)
    capsys.readouterr()
    assert start(config, copy) == 2
    error = capsys.readouterr().err
    assert str(copy / name) in error
    assert len(error) < 2000


def test_parts_survive_anything(copy: Path) -> None:
    part = unfinish(copy)
    hostile = ["[" * 100_000, '{"id": 5}', "null", "\x00", json.dumps({"id": "a", "scorers": {}})]
    part.write_text("".join(seal(text) for text in hostile) + "no seal\n\n\t\n" + part.read_text())
    found = read_parts(copy)
    assert len(found.records) == 8
    assert found.damaged == len(hostile) + 3


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", "/tmp/elsewhere", "a/../../b", "../x", "a\x00b"])
def test_a_run_stays_inside_of_its_root(
    config: dict[str, Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config | {"run": {"root": str(tmp_path / "root"), "name": name}}))
    assert main(["test", "-c", str(file)]) == 2
    assert "Expected `run.name` to be the name of a folder inside `run.root`" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "root"]
    assert not list((tmp_path / "root").iterdir())


def test_a_root_in_the_home_folder(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    model = config["model"] | {"store": "auto"}
    file.write_text(yaml.safe_dump(config | {"model": model, "run": {"root": "~/runs", "name": "run"}}))
    assert main(["test", "-c", str(file)]) == 0
    assert (tmp_path / "runs" / "run" / "results.json").exists()
    assert (tmp_path / "runs" / "features").exists()
    assert not (tmp_path / "~").exists()


def test_the_checks_name_what_is_wrong(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    results["timing"]["attempts"][0]["processes"] = "one"
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=r'its timing.attempts\[0\].processes is "one"'):
        read_results(tmp_path / "results.json")
