#!/usr/bin/env bash
# All GPUs of one node.
#
#   sbatch --account=LAB --partition=GPU --gpus-per-node=8 --time=01:00:00 node.sh CONFIG.yaml [--data.split testA ...]
#
# Activate the Python environment first: the job inherits it. See `bsap docs cluster`.
#SBATCH --job-name=bsap
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-gpu=8
#SBATCH --time=02:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120

set -u
: "${SLURM_JOB_ID:?submit this script with sbatch}"
config=${1:?a configuration for bsap test}
shift

# SLURM sends SIGTERM to a job that is cancelled, preempted or out of time, and decides itself whether to requeue it.
terminated=
trap 'terminated=1' TERM

tasks=${SLURM_GPUS_ON_NODE:-1}
status=0
# No cpu-bind: the processes that decode pictures share all granted cores. A task that fails ends the others within a
# minute, not at once: when all are asked to stop, one ends shortly before the others.
srun --label --ntasks-per-node="$tasks" --cpu-bind=none --kill-on-bad-exit=0 --wait=60 \
  bsap test -c "$config" --trainer.devices "$tasks" --trainer.num_nodes "$SLURM_JOB_NUM_NODES" "$@" || status=$?

# 75: the run was asked to stop, two minutes before the time limit. The requeued job continues the same run folder.
# In an array, a number without a task means the whole array.
if [ "$status" -eq 75 ] && [ -z "$terminated" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 50 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
fi
exit "$status"
