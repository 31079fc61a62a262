"""The shipped job scripts differ only in what makes each of them another one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import bsap.configs

SCRIPTS = Path(bsap.configs.__file__).parent / "slurm"


def test_scripts_share_one_body() -> None:
    """Everything from the trap on, apart from what the array adds."""
    bodies = {}
    for path in sorted(SCRIPTS.glob("*.sh")):
        text = path.read_text()
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert "#SBATCH --requeue\n#SBATCH --signal=USR1@120\n" in text
        body = text[text.index("\ntrap ") :]
        bodies[path.name] = body.replace(
            '\\\n  --data.dataset "$dataset" --data.split_by "$split_by" --data.split "$split" ', ""
        ).replace(
            'bsap reproduce "$recipe" --index "$task" --devices "$tasks"',
            'bsap test -c "$config" --trainer.devices "$tasks" --trainer.num_nodes "$SLURM_JOB_NUM_NODES"',
        )
    assert set(bodies) == {"array.sh", "multinode.sh", "node.sh", "recipe.sh", "single.sh"}
    assert len(set(bodies.values())) == 1
