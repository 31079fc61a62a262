"""The run folder on one process: continue the same, refuse another, and say why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from bsap.cli import main
from bsap.errors import ConfigError, DataError
from bsap.runs.parts import FolderLock, PartFile, Parts, next_attempt, read_parts, write_atomic
from bsap.runs.records import read_predictions
from bsap.runs.schema import Record
from support.planted import Planted
from support.results import change_results

Run = Callable[..., int]


@pytest.fixture
def run(planted: Planted, tmp_path: Path) -> Run:
    """Runs `bsap test` on the planted world in ``tmp_path/run``; keyword arguments change the configuration."""

    def start(*flags: str, **changes: Any) -> int:
        sections = {"run": {"root": str(tmp_path), "name": "run"}, "trainer": {"default_root_dir": str(tmp_path)}}
        for section, values in changes.items():
            sections.setdefault(section, {}).update(values)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(planted.config(**sections)))
        return main(["test", "-c", str(tmp_path / "config.yaml"), *flags])

    return start


def record(id: str, *, words: int = 1) -> Record:
    """The record of an expression about a picture without proposals."""
    return {
        "id": id,
        "picture": "1.jpg",
        "image_id": "1",
        "text": "word",
        "n_regions": 0,
        "status": "no_proposals",
        "referent": {"id": "1", "ann_ids": ["1"], "boxes": [[0.0, 0.0, 1.0, 1.0]]},
        "category": None,
        "text_cut": False,
        "words": words,
        "distractors": None,
        "scorers": {"clip": {"region": None, "score": None, "box": None, "box_iou": 0.0}},
    }


def unfinish(folder: Path, count: int) -> None:
    """Make a finished run one that was killed after its first records."""
    records = read_predictions(folder / "predictions.jsonl")[:count]
    (folder / "parts").mkdir()
    part = PartFile(folder / "parts", 1, 0)
    part.write(records)
    part.close()
    for name in ("predictions.jsonl", "results.json"):
        (folder / name).unlink()


def test_another_configuration_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert run(model={"strict": True, "scorers": ["clip"]}) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'run'} holds a run with other settings:\n" in message
    assert "  model.scorers: ['clip', 'bsap', 'bsap_h'] -> ['clip']\n  model.strict: False -> True\n" in message
    assert "--run.overwrite true" in message
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_an_unknown_breakdown_is_found_first(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(run={"breakdown": ["categry"]}) == 2
    assert "Did you mean 'category'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_overwrite_starts_anew(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    (tmp_path / "run" / "pictures").mkdir()
    assert run("--run.overwrite", "true", model={"strict": True}) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metrics"]["rec"]["clip"]["acc@0.5"] == 4 / 8
    assert results["timing"]["resumed_expressions"] == 0


def test_speed_settings_do_not_make_another_run(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    first = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    assert run(data={"batch_size": 1}, model={"region_batch": 3}) == 0
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == first


def test_a_finished_run_is_only_read_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == 0
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    monkeypatch.setattr("bsap.module.BSAPModule.similarities", lambda *_: pytest.fail("encoded again"))
    assert run() == 0
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert again["timing"] == first["timing"], "what made the numbers is what made them then"
    for key in ("metrics", "counts", "protocol", "models"):
        assert again[key] == first[key]


def test_other_files_under_the_same_settings_are_refused(
    run: Run, planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "proposals.json"
    copy.write_bytes(planted.proposals.read_bytes())
    assert run(data={"proposals": {"source": "detections", "path": str(copy)}}) == 0
    unfinish(tmp_path / "run", 3)  # the first scene, whole
    copy.write_text(json.dumps(json.loads(copy.read_text())[:-1]))
    assert run(data={"proposals": {"source": "detections", "path": str(copy)}}) == 2
    message = capsys.readouterr().err
    assert "holds a run of other data or weights under the same settings" in message
    assert "data.proposals.sha256: " in message


def test_a_folder_of_something_else_is_left_alone(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert run("--run.overwrite", "true") == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_start_that_came_no_further_is_no_stranger(run: Run, tmp_path: Path) -> None:
    """As on a disk that was full before the configuration was written."""
    (tmp_path / "run" / "parts").mkdir(parents=True)
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".config.yaml.17").write_text("seed_ev")
    assert run() == 0


@pytest.mark.parametrize("text", ["", "- 1\n", "data: [\n"])
def test_a_damaged_configuration_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert run() == 0
    (tmp_path / "run" / "config.yaml").write_text(text)
    assert run() == 2
    assert f"{tmp_path / 'run' / 'config.yaml'} is damaged" in capsys.readouterr().err
    assert run("--run.overwrite", "true") == 0


def test_a_damaged_origin_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    (tmp_path / "run" / "origin.json").write_text('{"data": ')
    assert run() == 2
    assert "origin.json is damaged" in capsys.readouterr().err


def test_a_requeued_job_continues_what_it_started_anew(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job that outlasts its time limit would start anew for ever."""
    assert run("--run.overwrite", "true") == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("bsap.module.BSAPModule.similarities", lambda *_: pytest.fail("encoded again"))
    assert run("--run.overwrite", "true") == 0


def test_processes_that_know_nothing_of_each_other_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun with `--trainer.devices 1`: each would do the whole work in one folder."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run() == 2
    assert "torchrun started 4 processes, but the Trainer is set to 1" in capsys.readouterr().err


def test_speed_leaves_no_trace_in_the_protocol(run: Run, tmp_path: Path) -> None:
    protocols = []
    for store in (None, str(tmp_path / "features")):
        assert run("--run.overwrite", "true", model={"store": store, "region_batch": 2}) == 0
        protocols.append(json.loads((tmp_path / "run" / "results.json").read_text())["protocol"])
    assert protocols[0] == protocols[1]


def test_a_wish_to_stop_before_the_run_is_followed_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading annotations takes seconds; a job script requeues for status 75 only."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("bsap.datamodules.RefCOCODataModule.load", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 75
    assert "bsap: stopped by SIGTERM before the first picture" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_record_of_nonsense_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    path = tmp_path / "run" / "predictions.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    assert run() == 2
    assert f"{path} was changed after the run" in capsys.readouterr().err
    change_results(tmp_path / "run")
    assert run() == 2
    assert f"{path}, line 1: not readable as JSON" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_at_the_end(run: Run, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The records fit once, but not twice: merging fails, nothing is lost, and room is all it takes to go on."""
    assert run(run={"root": str(small_disk)}) == 2
    assert f"Cannot write {small_disk / 'run'}" in capsys.readouterr().err
    assert not (small_disk / "run" / "results.json").exists()
    assert len(read_parts(small_disk / "run").records) == 8
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert run(run={"root": str(small_disk)}) == 0
    results = json.loads((small_disk / "run" / "results.json").read_text())
    assert results["timing"]["resumed_expressions"] == 8


def test_a_read_only_disk(run: Run, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run(run={"root": str(small_disk)}) == 2
    message = capsys.readouterr().err
    assert f"Cannot write the run folder {small_disk / 'run'}" in message
    assert "Read-only file system" in message
    assert "--run.root" in message


def test_a_stray_checkpoint_is_refused_under_slurm(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert run() == 2
    assert "hpc_ckpt_3.ckpt would be loaded into the model" in capsys.readouterr().err
    monkeypatch.delenv("SLURM_JOB_ID")
    assert run() == 0


def test_lightning_does_not_requeue(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way would save a checkpoint, which the requeued job would load."""
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bsap"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    asked = []
    register = "lightning.pytorch.trainer.connectors.signal_connector._SignalConnector.register_signal_handlers"
    monkeypatch.setattr(
        register, lambda self: asked.append(self.trainer._accelerator_connector.cluster_environment.auto_requeue)
    )
    assert run() == 0
    assert asked == [False]


def test_plain_python_leaves_the_same_folder(planted: Planted, run: Run, tmp_path: Path) -> None:
    from bsap.datamodules import RefCOCODataModule
    from bsap.models.encoder import EncoderConfig
    from bsap.module import BSAPModule
    from bsap.prompts.templates import Templates
    from bsap.runs.settings import RunConfig

    assert run() == 0
    config = planted.config()
    data = RefCOCODataModule(**config["data"])
    model = config["model"] | {
        "encoders": [EncoderConfig(**config["model"]["encoders"][0])],
        "templates": Templates(**config["model"]["templates"]),
        "run": RunConfig(root=str(tmp_path), name="python"),
    }
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(BSAPModule(**model), datamodule=data, verbose=False)
    here, there = tmp_path / "python", tmp_path / "run"
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
    assert (here / "predictions.jsonl").read_bytes() == (there / "predictions.jsonl").read_bytes()


def test_a_count_that_differs_from_the_predictions_is_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if a batch had been counted twice."""
    from bsap import BSAPModule

    finish = BSAPModule.finish

    def twice(self: BSAPModule) -> Any:
        records = finish(self)
        self.metrics.update(records)
        return records

    monkeypatch.setattr(BSAPModule, "finish", twice)
    assert run() == 2
    assert "an expression was counted twice or lost" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()
    assert (tmp_path / "run" / "parts").exists()


def test_scores_of_all_regions_on_request(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    assert run() == 0
    plain = read_predictions(folder / "predictions.jsonl")
    assert not any("scores" in choice for r in plain for choice in r["scorers"].values())
    assert run(run={"all_scores": True}) == 0
    assert json.loads((folder / "results.json").read_text())["timing"]["resumed_expressions"] == 0, "none had them all"
    full = read_predictions(folder / "predictions.jsonl")
    for before, after in zip(plain, full, strict=True):
        for name, choice in after["scorers"].items():
            scores = choice.pop("scores")
            assert choice == before["scorers"][name]
            assert len(scores) == after["n_regions"]
            if scores and choice["region"] is not None:
                assert scores[choice["region"]] == choice["score"] == max(scores)
            if scores and name in ("clip", "bsap_h"):
                assert sum(scores) == pytest.approx(1, abs=1e-5), "a distribution over the regions"
    monkeypatch.setattr("bsap.module.BSAPModule.similarities", lambda *_: pytest.fail("encoded again"))
    assert run(run={"all_scores": True}) == 0


@pytest.mark.parametrize("variables", [{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, {"SLURM_NTASKS": "2"}])
def test_slurm_and_the_trainer_must_agree(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    place = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "bsap"}
    for name, value in {"SLURM_JOB_ID": "17", **place, **variables}.items():
        monkeypatch.setenv(name, value)
    assert run(trainer={"devices": 2}) == 2
    error = capsys.readouterr().err
    assert "ntasks-per-node" in error
    assert error.count("\n") == 1


def test_part_files_and_lock(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    assert next_attempt(tmp_path) == 1
    first, second = PartFile(tmp_path / "parts", 9, 3), PartFile(tmp_path / "parts", 10, 0)
    assert next_attempt(tmp_path) == 11
    first.write([record("a", words=9), record("b", words=9)])
    second.write([record("b", words=10), record("c", words=10)])
    second.path.write_bytes(second.path.read_bytes()[:-5])
    first.close()
    first.close()
    found = read_parts(tmp_path)
    words = {key: found.records[key]["words"] for key in found.records}
    assert words == {"a": 9, "b": 10}, "the newest attempt's record stands"
    assert found.damaged == 0, "the end of a file that was being written"
    with pytest.raises(ConfigError, match="Cannot write"):
        PartFile(tmp_path / "absent", 1, 0)
    FolderLock(tmp_path).release()
    FolderLock(tmp_path).release()


def test_a_file_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="Cannot write"):
        write_atomic(path, "text")
    assert list(tmp_path.iterdir()) == [path]


def test_a_test_that_lightning_passes_over_is_an_error(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(trainer={"limit_test_batches": 0}) == 2
    assert "The test did not run" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


def test_missing_expressions_are_an_error(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when another node's file is not seen."""

    def one_less(folder: Path) -> Parts:
        found = read_parts(folder)
        return replace(found, records={key: found.records[key] for key in list(found.records)[1:]})

    monkeypatch.setenv("BSAP_TRACEBACK", "1")
    monkeypatch.setattr("bsap.runs.folder.read_parts", one_less)
    with pytest.raises(DataError, match=r"1 of 8 expressions were not seen, among them refcoco/unc/val/0"):
        run()
