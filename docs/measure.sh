#!/usr/bin/env bash
# Writes every figure of docs/results.md and README.md. Usage: docs/measure.sh MNIST.npz [OUT]
# Needs torch for the peers (pip install torch) and an idle machine; about two hours on two cores.
set -euo pipefail
images=$1
out=${2:-docs/results}
gbdnn bench challenge --images "$images" --rounds 5 --out "$out"
gbdnn challenge table --backend fused --images "$images" --out "$out/networks"
gbdnn bench sweep --preset mlp --backends dense,graphblas,fused,auto \
    --peers torch-csr,torch-dense,scipy --max-time 2 --out "$out/mlp"
gbdnn bench plot "$out/mlp"
gbdnn bench sweep --preset kepner --backends dense,graphblas,fused \
    --peers torch-csr --max-time 2 --out "$out/kepner"
gbdnn bench plot "$out/kepner"
gbdnn bench training --out "$out/training"
gbdnn bench accuracy --images "$images" --out "$out/accuracy"
