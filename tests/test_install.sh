#!/bin/sh
# The library as its users get it: installed into a folder of its own, the examples built from there in C (pkg-config)
# and C++ (CMake).
#
#     sh tests/test_install.sh BUILD
#
# BUILD is a built folder, static or shared. One line a check, `N passed, N failed` at the end.

build=$1
source=$(cd "$(dirname "$0")/.." && pwd) || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
prefix=$work/prefix
. "$source/tests/steps.sh"

check "install" cmake --install "$build" --prefix "$prefix"
library=$(find "$prefix" -name 'libquant.*' | sort | head -n 1)
folder=$(dirname "$library")
PKG_CONFIG_PATH=$folder/pkgconfig
LD_LIBRARY_PATH=$folder
export PKG_CONFIG_PATH LD_LIBRARY_PATH

# with_package COMPILER SOURCE OUTPUT
with_package() {
    # shellcheck disable=SC2046
    "$1" -Wall -Wextra -Wpedantic -Werror -o "$3" "$2" $(pkg-config --cflags --libs quant)
}

check "pkg-config knows the package" pkg-config --exists 'quant >= 0.1'
check "C: quantize_layer builds" with_package cc "$source/examples/quantize_layer.c" "$work/layer"
check "C: quantize_layer runs" "$work/layer"
if [ -f "$prefix/include/quant/model.h" ]; then
    check "C: quantize_model builds" with_package cc "$source/examples/quantize_model.c" "$work/model"
    data=$source/examples/data
    check "C: quantize_model runs" "$work/model" "$data/model" "$data/calibration.txt" "$data/evaluation.txt" "$work/out.gguf"
    check "the installed tool runs" env -u LD_LIBRARY_PATH "$prefix/bin/quant" inspect "$work/out.gguf"
fi
if command -v c++ >/dev/null 2>&1; then
    check "C++: find_package finds it" cmake -S "$source/examples/cpp" -B "$work/cpp" -DCMAKE_PREFIX_PATH="$prefix"
    check "C++: the example builds" cmake --build "$work/cpp"
    check "C++: the example runs" "$work/cpp/quant_cpp_example"
else
    echo "skipped: C++ (no compiler)"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
