"""Relations in runs: the command line, records, results, sweep, pictures and Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bsap
from bsap.cli import main
from bsap.datamodules.own_picture import PictureDataModule
from bsap.errors import ModelError
from bsap.prompts import sentences as room
from bsap.prompts.sentences import Sentence, Sentences
from bsap.relations.reading import RelationReader
from bsap.relations.settings import Relations
from bsap.runs.records import read_predictions
from bsap.runs.saved import read_run
from bsap.scoring import SCORERS as SCORERS_OF_THE_PACKAGE
from bsap.scoring import Similarities
from bsap.sweep.sweep import Sweep, scorer_grid
from support import plain_rules
from support.toy_parser import ToyPipeline

pytest.importorskip("spacy")
SCORERS = ["clip", "bsap", "bsap_h"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyPipeline:
    pipeline = ToyPipeline()
    monkeypatch.setattr(room, "load_parser", lambda model, use: pipeline)
    return pipeline


def test(drawn: dict[str, Any], folder: Path, name: str, **model: Any) -> Any:
    """Evaluate the drawn world and read its run."""
    settings = {**drawn, "model": {**drawn["model"], "store": str(folder / "features"), **model}}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["test", "-c", str(file), "--run.root", str(folder), "--run.name", name]) == 0
    return json.loads((folder / name / "results.json").read_text()), read_predictions(
        folder / name / "predictions.jsonl"
    )


test.__test__ = False  # type: ignore[attr-defined]


def test_a_run_with_relations(toy: ToyPipeline, drawn: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    before, plain = test(drawn, tmp_path, "before")
    results, records = test(drawn, tmp_path, "after", relations=True)
    used = [record for record in records if record["relations"]["status"] == "used"]
    assert len(records) == len(plain)
    assert 20 < len(used) < len(records) / 2

    # Counted once each, and by what the records say.
    counts = results["relations"]
    assert sum(counts["sentences"].values()) == len(records)
    assert counts["sentences"]["used"] == len(used)
    assert set(counts["found"]) <= {f"most {name}" for name in ("left", "right", "above", "bigger", "smaller")}
    assert results["protocol"]["parsers"]["relations"] | {"spacy": ""} == {
        "name": "en_toy", "language": "en", "version": "1.2.3", "spacy": ""
    }  # fmt: skip
    assert results["protocol"]["relations"]["parser"] == "en_core_web_sm"
    assert "parsers" not in before["protocol"]
    assert "relations" not in before

    # A sentence without a relation is scored as it is; one with, by what each scorer says of its parts.
    changed = 0
    for old, new in zip(plain, records, strict=True):
        if new["relations"]["status"] != "used":
            # Products with more rows beside them may differ in their last bits.
            scores = [[row.pop("score") for row in record["scorers"].values()] for record in (old, new)]  # type: ignore[misc]
            assert scores[1] == pytest.approx(scores[0], rel=1e-5)
            assert {**new, "relations": None} == {**old, "relations": None}
            continue
        assert new["relations"]["steps"][0] == "sentence"
        for name in SCORERS:
            assert new["scorers"][name]["steps"][0] == old["scorers"][name]["region"]
            assert new["scorers"][name]["steps"][-1] == new["scorers"][name]["region"]
            assert len(new["scorers"][name]["steps"]) == len(new["relations"]["steps"])
            changed += new["scorers"][name]["region"] != old["scorers"][name]["region"]
    assert changed > 10

    # The same from records, and from stored features, which know every scorer's answer to each part.
    assert main(["score", str(tmp_path / "after")]) == 0
    sweep = Sweep(read_run(tmp_path / "after"))
    for row in sweep.rows(scorer_grid(SCORERS), ["coco_categories"], ["before"]):
        for task, scorers in results["metrics"].items():
            assert {k: v for k, v in row.metrics.items() if k.startswith(task)} == {
                f"{task}/{key}": value for key, value in scorers[row.scorer].items()
            }

    # Parsed once: the second run, and the sweep, read what the first one kept.
    asked = toy.asked
    assert asked == len({record["text"] for record in records})
    again, _ = test(drawn, tmp_path, "again", relations=True)
    assert toy.asked == asked
    assert again["metrics"] == results["metrics"]

    # What show prints beside the picture, and the column of the table.
    from bsap.reports.draw import notes_of
    from bsap.reports.shown_run import ShownRun

    shown = ShownRun(tmp_path / "after")
    notes = notes_of(shown, used[0], [])
    assert "relations: sentence > " + " > ".join(used[0]["relations"]["steps"][1:]) in notes
    steps = " > ".join(map(str, used[0]["scorers"]["bsap"]["steps"]))
    assert f"region by bsap: {steps}" in notes
    other = next(record for record in records if record["relations"]["status"] == "plain")
    assert "relations: none used (plain)" in notes_of(shown, other, [])
    capsys.readouterr()
    assert main(["table", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    assert "relations" in capsys.readouterr().out


def test_another_pipeline_is_another_run(toy: ToyPipeline, drawn: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    settings = {**drawn, "data": {**drawn["data"], "limit": 10}}
    test(settings, tmp_path, "run", relations=True)
    toy.meta["version"] = "2.0"
    file = str(tmp_path / "run.json")
    assert main(["test", "-c", file, "--run.root", str(tmp_path), "--run.name", "run"]) != 0
    assert "parsers.relations.version: '1.2.3' -> '2.0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("unparsable left dog", "unparsed"),
        ("dog behind", "nothing_found"),
        ("a red dog", "plain"),
        (" ", "empty"),
    ],
)
def test_what_cannot_be_used(toy: ToyPipeline, text: str, status: str) -> None:
    reader = RelationReader(Relations())
    # One text that cannot be parsed takes no other with it.
    reader.sentences.prepare([text, "left dog"])
    assert reader.meaning(text).status == status
    assert reader.meaning("left dog").status == "used"


def test_a_pipeline_of_another_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "load_parser", lambda model, use: ToyPipeline("de"))
    with pytest.warns(UserWarning, match="'en_core_web_sm' is not of English"):
        reader = RelationReader(Relations())
    assert reader.meaning("left dog").status == "language"


def test_a_pipeline_that_is_not_there_or_does_not_parse(tmp_path: Path, capsys: Any) -> None:
    import spacy

    with pytest.raises(ModelError, match=r"Relations need spaCy's pipeline 'en_no_such', .* spacy download en_no_such"):
        RelationReader(Relations(parser="en_no_such"))
    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(ModelError, match=r"Relations need a spaCy pipeline with a parser, but .* has \[\]"):
        RelationReader(Relations(parser=str(tmp_path)))


def test_parses_are_kept_and_half_written_lines_are_not_believed(toy: ToyPipeline, tmp_path: Path) -> None:
    first = Sentences(folder=tmp_path)
    found = first("dog left of cat")
    assert first("unparsable") is None
    first.flush()
    (file,) = tmp_path.glob("parses-*.jsonl")
    file.write_text(file.read_text() + '["cut off", ["cut"', encoding="utf-8")
    asked = toy.asked
    again = Sentences(folder=tmp_path)
    assert again("dog left of cat") == found == Sentence.of(toy.parse("dog left of cat"))
    assert toy.asked == asked
    assert again("cut off") is not None
    assert toy.asked == asked + 1
    toy.meta["version"] = "2"
    assert Sentences(folder=tmp_path)("dog left of cat") == found
    assert toy.asked == asked + 2


def test_the_other_nouns_of_a_query(toy: ToyPipeline) -> None:
    from bsap.prompts.banks import load_bank

    bank = load_bank("other_nouns")
    assert bank.prompts_of("dog left of cat") == ("cat",)
    assert bank.prompts_of("dog between the cat and a bus") == ("cat", "bus")
    assert bank.prompts_of("dog") == bank.prompts_of("unparsable") == ()
    assert bank.sentences is not None
    assert bank.sentences.pipeline["name"] == "en_toy"


TEXTS = ["red dog left of cat", "blue bus between red dog and cat", "left bird", "a red dog"]


@pytest.mark.parametrize("scorer", ["clip", "bsap", "bsap_h_product"])
def test_grounder_by_the_published_rules(toy: ToyPipeline, scorer: str) -> None:
    """Every scorer is asked for one text at a time; the plain rules join what it says."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture, boxes = Image.fromarray(pixels), [[0, 0, 30, 30], [30, 5, 60, 50], [10, 20, 40, 60], [5, 5, 25, 25]]
    options: dict[str, Any] = {"views": "crop", "device": "cpu", "scorer": scorer, "bank": ["a cat", "a bus"]}
    alone = bsap.Grounder("demo", **options)
    grounder = bsap.Grounder("demo", relations={"published": True}, **options)

    def score(text: str) -> list[float]:
        return torch.tensor(alone(picture, boxes, text)[0].scores, dtype=torch.float64).softmax(0).tolist()

    found = grounder(picture, boxes, TEXTS)
    assert [answer.text for answer in found.answers] == TEXTS
    for answer in found.answers:
        expected, choice = plain_rules.published(toy.parse(answer.text), score, boxes)
        assert answer.region == choice
        if grounder.relations.meaning(answer.text).entity is not None:  # type: ignore[union-attr]
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)
    own = alone(picture, boxes, "a red dog")[0]
    assert found[3].region == own.region
    assert found[3].probabilities == pytest.approx(own.probabilities, abs=1e-5)
    ours = bsap.Grounder("demo", relations={"between": True}, **options)
    assert ours(picture, boxes, TEXTS)[1].probabilities != found[1].probabilities


def test_predict_says_what_was_understood(toy: ToyPipeline, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    out = tmp_path / "out.json"
    flags = ["--data.picture", str(tmp_path / "a.png"), "--data.boxes", "[[0, 0, 30, 30], [30, 5, 60, 50]]"]
    flags += ["--data.expressions", "red dog left of cat", "--model.encoders", "demo", "--model.views", "crop"]
    assert main(["predict", *flags, "--model.relations", "true", "--output", str(out)]) == 0
    (expression,) = json.loads(out.read_text())["pictures"][0]["expressions"]
    assert expression["relations"] == {
        "status": "used",
        "entities": ["red dog", "cat"],
        "found": ["left"],
        "steps": ["sentence", "red dog", "left: cat"],
    }
    assert len(expression["scorers"]["bsap"]["steps"]) == 3


def test_a_part_of_a_sentence_is_no_expression(toy: ToyPipeline, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    data = PictureDataModule(str(tmp_path / "a.png"), [[0, 0, 30, 30]], TEXTS[:1])
    data.setup("predict")
    reader = RelationReader(Relations())
    (asked,) = reader.asked(data.scenes)
    assert [(part.text, part.phrase, part.part_of) for part in asked.expressions] == [
        (TEXTS[0], None, None),
        ("red dog", "red dog", TEXTS[0]),
        ("cat", "cat", TEXTS[0]),
    ]
    assert asked.texts == data.scenes[0].texts


@pytest.mark.parametrize("name", list(SCORERS_OF_THE_PACKAGE))
def test_no_scorer_lets_an_entity_change_the_sentences(name: str) -> None:
    """A row of the query is scored by itself: the rows of entities beside it change nothing."""
    generator = torch.Generator().manual_seed(0)
    query, bank, inside, others, pairs = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) * 0.4
        for shape in ((2, 5, 6), (2, 3, 6), (2, 5, 4), (2, 3, 4), (2, 4, 6))
    )
    tau = torch.tensor([20.0, 30.0])

    def ranks(rows: int) -> Any:
        region_bank = Similarities(query=inside[:, :rows], bank=others, tau=tau)
        both = {"region_bank": region_bank, "region_pairs": pairs}
        return SCORERS_OF_THE_PACKAGE[name](Similarities(query=query[:, :rows], bank=bank, tau=tau, **both)).rank

    torch.testing.assert_close(ranks(5)[:2], ranks(2))


def test_two_processes_find_the_same(pipeline: str, drawn: dict[str, Any], ranks: Any, tmp_path: Path) -> None:
    """Shards of different sizes: five scenes, one at a time."""
    settings = {**drawn, "data": {**drawn["data"], "batch_size": 1, "limit": 70}}
    relations = {"parser": pipeline}
    results, records = test(settings, tmp_path, "alone", relations=relations)
    model = {**settings["model"], "store": str(tmp_path / "features"), "relations": relations}
    run = {"root": str(tmp_path), "name": "two"}
    ranks.start({**settings, "model": model, "run": run}, tmp_path / "log", world=2).check()
    found = json.loads((tmp_path / "two" / "results.json").read_text())
    assert found["timing"]["processes"] == 2
    assert found["metrics"] == results["metrics"]
    assert found["relations"] == results["relations"]
    assert found["relations"]["sentences"]["used"] > 5

    def choices(record: Any) -> Any:
        return record["relations"], {n: (row["region"], row.get("steps")) for n, row in record["scorers"].items()}

    two = read_predictions(tmp_path / "two" / "predictions.jsonl")
    assert [choices(record) for record in two] == [choices(record) for record in records]
