#!/bin/bash
# A search on several nodes of a Slurm cluster. Each node runs one Ray process; the search itself
# runs on the first node. The project and the search's directory are on a file system that all nodes
# see, so that checkpoints are written there by whoever trains.
#
#   sbatch slurm.sh                 # from the folder of space.py
#   retiarii status runs/mine       # from anywhere that sees the file system
#
# Submit it again when its time is up: the search goes on from its checkpoints.
#SBATCH --job-name=retiarii
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=12:00:00
# As Ctrl-C once: the epoch is finished, and kept.
#SBATCH --signal=B:INT@300
#SBATCH --output=retiarii-%j.log
set -euo pipefail

source .venv/bin/activate # the environment with retiarii[ray], on the shared file system

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes[0]}
# Jobs that share a node must not meet at one port.
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS="$first:$port"
# Other users reach the nodes' ports, too: only who has this token is let in.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

resources=(--num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" \
  ray start --head --block --port="$port" --include-dashboard=false \
  --disable-usage-stats "${resources[@]}" &
for _ in $(seq 60); do
  (exec 3<>"/dev/tcp/$first/$port") 2>/dev/null && break
  sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$first" \
    ray start --block --address="$RAY_ADDRESS" --disable-usage-stats "${resources[@]}" &
fi

set -m # without it, what runs in the background is deaf to INT
retiarii run space.py --executor ray --out runs/mine --trials 512 &
search=$!
trap 'kill -INT "$search"' INT
code=0
# A signal ends the first wait, not the search.
wait "$search" || code=$?
if kill -0 "$search" 2>/dev/null; then
  code=0
  wait "$search" || code=$?
fi
exit "$code"
