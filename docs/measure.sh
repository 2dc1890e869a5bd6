#!/usr/bin/env bash
# Writes every figure of docs/results.md and README.md. Usage: docs/measure.sh MNIST.npz [OUT [OLD]]
# Needs torch for the peers (pip install torch) and an idle machine; about two hours on two cores.
# OLD is a checkout of the version to compare with (git worktree add OLD 17ce66e).
set -euo pipefail
images=$1
out=${2:-docs/results}
test -z "${3:-}" || python benchmarks/compare.py "$3" . --rounds 5 --out "$out"
gbdnn bench pruned --images "$images" --out "$out/pruned"
gbdnn bench challenge --images "$images" --rounds 5 --out "$out"
gbdnn challenge table --images "$images" --out "$out/networks"
for again in "" --disturbed; do # what was disturbed is measured once more
    gbdnn bench sweep --preset mlp --bias zero --backends dense,graphblas,fused,auto \
        --peers torch-csr,torch-dense,scipy --max-time 2 --out "$out/mlp" $again
    gbdnn bench sweep --preset mlp --batches 64,256 --ops predict,no-skip --backends fused \
        --peers torch-csr --max-time 2 --out "$out/biases" $again
    gbdnn bench sweep --sizes 64,256,1024 --densities 0.5,0.1,0.02 --batches 1,64 --layers 2 \
        --ops predict --bias zero --backends fused,dense --peers torch-dense --max-time 2 \
        --out "$out/small" $again
    gbdnn bench sweep --preset kepner --backends dense,graphblas,fused \
        --peers torch-csr --max-time 2 --out "$out/kepner" $again
done
gbdnn bench plot "$out/mlp"
gbdnn bench plot "$out/kepner"
gbdnn bench training --out "$out/training"
gbdnn bench training --engines torch-gbdnn,torch-dense,torch-csr,torch-csr-sampled \
    --out "$out/sparse-linear"
gbdnn bench torch-model --out "$out/torch-model"
gbdnn bench quantized --threads 1 --out "$out/quantized"
gbdnn bench kernels --threads 1 --out "$out/kernels" # needs g++
gbdnn bench lstm --out "$out/lstm"
gbdnn bench recogniser --threads 1 --out "$out/recogniser"
gbdnn bench low-precision --out "$out/low-precision"
gbdnn bench low-precision --images "$images" --densities 1,0.1 --epochs 24 --samples 20000 \
    --threads 1 --out "$out/low-precision-mnist"
gbdnn bench transducer --out "$out/transducer"
gbdnn bench accuracy --images "$images" --out "$out/accuracy"
gbdnn bench estimators --images "$images" --out "$out/estimators"
