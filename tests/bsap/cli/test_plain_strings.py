"""Plain words where a list or a mapping with one useful field is needed, and `bsap list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bsap.cli import main
from bsap.cli.plain_lists import LISTS, plain_lists

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1).filter(lambda x: x[0] not in "-[{")


@given(st.sampled_from(LISTS), st.lists(WORDS.filter(lambda word: word != "null"), min_size=1))
def test_words_become_one_list_and_come_back(name: str, words: list[str]) -> None:
    flag, value = plain_lists([name, *words])
    assert flag == name
    assert json.loads(value) == words
    assert yaml.safe_load(value) == words
    assert plain_lists([flag, value]) == [flag, value], "a list stays as it is"


@given(st.lists(st.sampled_from(["--data.limit", "3", "-c", "x.yaml", "--run.name=y", "[a]"])))
def test_other_options_are_left_alone(argv: list[str]) -> None:
    assert plain_lists(argv) == argv


def write(planted: Any, tmp_path: Path, **model: Any) -> list[str]:
    config = planted.config(run={"root": str(tmp_path), "name": "run"})
    config["model"] = {key: value for key, value in config["model"].items() if key not in ("encoders", "views")} | model
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return ["test", "-c", str(tmp_path / "run.yaml")]


def labels(folder: Path) -> tuple[list[str], list[str]]:
    results = json.loads((folder / "run" / "results.json").read_text())
    return [model["label"] for model in results["models"]], sorted(results["metrics"]["rec"])


def test_plain_words_on_the_command_line(planted: Any, tmp_path: Path) -> None:
    model = f"local-dir:{planted.model}"
    argv = [*write(planted, tmp_path), "--model.encoders", model, "demo", "--model.views", "crop"]
    assert main([*argv, "--model.scorers", "clip", "subtraction", "--data.limit", "2"]) == 0
    assert labels(tmp_path) == ([planted.model.name, "demo"], ["clip", "subtraction"])
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]
    assert [encoder["name"] for encoder in saved["encoders"]] == [model, "demo"]
    assert saved["views"] == ["crop"]


def test_plain_words_in_yaml(planted: Any, tmp_path: Path) -> None:
    argv = write(planted, tmp_path, encoders="demo", views="crop", scorers="clip", tasks="rec")
    assert main(argv) == 0
    assert labels(tmp_path) == (["demo"], ["clip"])


def test_a_bank_may_be_a_list(planted: Any, tmp_path: Path) -> None:
    argv = write(planted, tmp_path, encoders="demo", views="crop", scorers="bsap", bank=["a red dog", "a blue cat"])
    assert main(argv) == 0
    protocol = json.loads((tmp_path / "run" / "results.json").read_text())["protocol"]
    assert protocol["bank"]["name"] == "list"
    assert main(["score", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.encoders", "dmeo"], "Unknown model 'dmeo'. Did you mean 'demo'"),
        (["--model.encoders", "ViT-B-32-quickgelu:opnai"], "Did you mean 'openai'"),
        (["--model.encoders", "ViT-B-23-quickgelu:openai"], "'ViT-B-32-quickgelu'"),
        (["--model.encoders", "{nmae: demo}"], "Did you mean 'name'"),
        (["--model.encoders", "demo", "--model.views", "corp"], "Did you mean 'crop'"),
        (["--model.encoders", "demo", "--model.views", "crop", "--model.scorers", "bsapp"], "Did you mean 'bsap'"),
        (["--model.encoders", "demo", "--model.bnak", "generic"], "Did you mean '--model.bank'"),
        (["--model.encoders", "5"], "A model must be a name"),
    ],
)
def test_a_wrong_word_is_one_sentence_with_the_nearest_name(
    planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    try:
        status: Any = main([*write(planted, tmp_path), *flags])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert not any(word in printed for word in ("Traceback", "Union", "Sequence[", "validate"))


# --- bsap list --------------------------------------------------------------------------------------------------------


def listed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["list", *argv, "--format", "json"]) == 0
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_list_can_be_filtered_and_read_by_programs(capsys: pytest.CaptureFixture[str]) -> None:
    everything = listed(capsys, "models")
    some = listed(capsys, "models", "QUICKGELU")
    assert 0 < len(some) < len(everything)
    assert all("quickgelu" in " ".join(row.values()).lower() for row in some)
    assert some == [row for row in everything if row in some]
    assert main(["list", "models", "no such model"]) == 2
    assert "contains 'no such model'" in capsys.readouterr().err


def test_models_of_transformers_are_listed_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from bsap.models.config import EncoderConfig
    from bsap.models.transformers_families import FAMILIES

    names = {row["model"] for row in listed(capsys, "models", "transformers")}
    assert {family.example for family in FAMILIES} <= names
    assert all(EncoderConfig.of(name).name == name for name in names)


@pytest.mark.parametrize("kind", ["banks", "views", "scorers", "models"])
def test_a_list_in_a_pipe_has_one_line_for_each_row(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, kind)
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t") for line in lines] == [list(row.values()) for row in rows]


def test_weights_of_open_clip_are_listed_as_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    import open_clip

    names = [row["model"] for row in listed(capsys, "models", "open_clip") if ":" in row["model"]]
    assert "ViT-B-32-quickgelu:openai" in names
    assert names[names.index("RN50:openai") :] == [f"{name}:{tag}" for name, tag in open_clip.list_pretrained()]
