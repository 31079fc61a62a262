"""``python -m bsap``."""

import sys

from bsap.cli import main

sys.exit(main())
