"""Benchmarks run on a CPU with a tiny model, or with random features."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_speed():
    options = "--encoder demo --tasks rec ris --pictures 3 --proposals 3 --expressions 2 --repeats 1 --workers 0"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), *options.split(), "--parts", "share"]
    reports = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [report["what"]["task"] for report in reports] == ["rec", "ris"]
    for report in reports:
        assert report["encoder_share"]["min"] > 0
        assert report["pack"] == 16
        assert report["command_to_first_batch_s"] > report["first_batch_s"] > 0


@pytest.mark.slow
def test_rescoring():
    command = [sys.executable, str(BENCHMARKS / "rescoring.py"), "--repeats", "1"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for task in ("rec", "ris"):
        assert report["seconds"][task]["settings_swept"] == 240
        assert report["seconds"][task]["score_three"]["first"] > 0
