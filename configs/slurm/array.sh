#!/usr/bin/env bash
# Every dataset and split that papers report, a job with one GPU for each.
#
#   sbatch --account=LAB --partition=GPU --array=0-7 array.sh CONFIG.yaml [--data.split testA ...]
#
# Activate the Python environment first: the job inherits it. docs/cluster.md tells the rest.
#SBATCH --job-name=bsap
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --time=02:00:00
#SBATCH --array=0-7
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120

set -u
config=${1:?a configuration for bsap test}
shift

splits=(
  "refcoco unc val" "refcoco unc testA" "refcoco unc testB"
  "refcoco+ unc val" "refcoco+ unc testA" "refcoco+ unc testB"
  "refcocog umd val" "refcocog umd test"
)
read -r dataset split_by split <<<"${splits[$SLURM_ARRAY_TASK_ID]}"

trap : TERM # this script goes on to the requeue below; srun passes signals on to the tasks itself

tasks=${SLURM_GPUS_ON_NODE:-1}
status=0
# No cpu-bind: the processes that decode pictures share all granted cores. A task that dies ends the others within a
# minute, not at once: when all are asked to stop, one ends a moment before the rest.
srun --label --ntasks-per-node="$tasks" --cpu-bind=none --kill-on-bad-exit=0 --wait=60 \
  bsap test -c "$config" --trainer.devices "$tasks" --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
  --data.dataset "$dataset" --data.split_by "$split_by" --data.split "$split" "$@" || status=$?

# 75: asked to stop before all was done. The requeued job continues the same run folder.
if [ "$status" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 50 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
