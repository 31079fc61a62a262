"""A script like ``python -m bsap`` whose batches are slow: it also notes its process id in ``$NOTES``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hooks

from bsap.cli import main

folder = Path(os.environ["NOTES"])
(folder / f"pid{os.environ.get('LOCAL_RANK', '0')}").write_text(str(os.getpid()))
hooks.slow(0, pauses=[0.3], log=str(folder / "encoded"))
sys.exit(main())
