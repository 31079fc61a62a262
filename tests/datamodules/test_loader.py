"""Decoding workers."""

from __future__ import annotations

import subprocess
import sys

LEFT = """
import numpy as np, tempfile
from pathlib import Path
from PIL import Image
from torch.utils.data import SequentialSampler
from bsap.datamodules.loader import scene_loader
from bsap.datamodules.scene import Proposals, Scene

folder = Path(tempfile.mkdtemp())
Image.new("RGB", (8, 8)).save(folder / "a.png")
scene = Scene("1", folder / "a.png", 8, 8, Proposals(np.zeros((1, 4), np.float32)), ())
scenes = [scene] * 64
batches = iter(scene_loader(scenes, SequentialSampler(scenes), batch_size=1, num_workers=6))
next(batches)
raise SystemExit(7)
"""


def test_a_loop_left_before_its_end_does_not_keep_the_process() -> None:
    """Workers leave SIGTERM to the main process, so the interpreter's own way to end them would wait for ever."""
    command = [sys.executable, "-W", "ignore", "-c", LEFT]
    finished = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (7, "")
