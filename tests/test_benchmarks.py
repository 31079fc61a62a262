"""The benchmark of speed runs on a CPU with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed.py"


@pytest.mark.slow
def test_speed():
    options = "--encoder demo --tasks rec ris --pictures 3 --proposals 3 --expressions 2 --repeats 1 --workers 0"
    parts = "--parts share memory --regions-for-memory 2 4"
    command = [sys.executable, str(SPEED), *options.split(), *parts.split()]
    reports = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [report["what"]["task"] for report in reports] == ["rec", "ris"]
    for report in reports:
        assert report["encoder_share"]["min"] > 0
        assert report["pack"] == 16
        assert report["command_to_first_batch_s"] > report["first_batch_s"] > 0
        assert list(report["peak_memory_mb"]) == [
            "3 pictures", "12 pictures", "2 regions a picture", "4 regions a picture"
        ]  # fmt: skip
