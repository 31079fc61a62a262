"""The benchmark of speed runs on a CPU with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_speed():
    options = "--encoder demo --tasks rec ris --pictures 3 --proposals 3 --expressions 2 --repeats 1 --workers 0"
    command = [sys.executable, str(SPEED), *options.split(), "--parts", "share"]
    reports = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [report["what"]["task"] for report in reports] == ["rec", "ris"]
    for report in reports:
        assert report["encoder_share"]["min"] > 0
        assert report["pack"] == 16
        assert report["command_to_first_batch_s"] > report["first_batch_s"] > 0
