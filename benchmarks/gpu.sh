#!/usr/bin/env bash
# Checks and measures everything that runs on a GPU, in under 8 minutes: benchmarks/gpu.sh [OUTPUT.json]
# Needs the repository, torch >= 2.11, triton and torchvision. Exit code 1: a check failed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET
exec timeout 480 "${PYTHON:-python3}" benchmarks/gpu.py --output "${1:-benchmarks/results/gpu.json}"
