#!/bin/sh
# The library as its users get it: installed into a folder of its own, examples built from there in C (pkg-config) and
# C++ (CMake), each public header alone, and no name in the library but those that the headers declare.
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
passed=0
failed=0

# check NAME COMMAND...: it succeeds.
check() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok   $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        tail -n 20 "$work/log"
    fi
}

check "install" cmake --install "$build" --prefix "$prefix"
library=$(find "$prefix" -name 'libquant.*' | sort | head -n 1)
folder=$(dirname "$library")
PKG_CONFIG_PATH=$folder/pkgconfig
LD_LIBRARY_PATH=$folder
export PKG_CONFIG_PATH LD_LIBRARY_PATH

# --- programs ---

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
    check "the installed tool runs" "$prefix/bin/quant" inspect "$work/out.gguf"
fi
if command -v c++ >/dev/null 2>&1; then
    check "C++: find_package finds it" cmake -S "$source/examples/cpp" -B "$work/cpp" -DCMAKE_PREFIX_PATH="$prefix"
    check "C++: the example builds" cmake --build "$work/cpp"
    check "C++: the example runs" "$work/cpp/quant_cpp_example"
else
    echo "skipped: C++ (no compiler)"
fi

# --- headers ---

# alone HEADER COMMAND...: the header compiles without anything before it.
alone() {
    header=$1
    shift
    echo "#include <quant/$header>" | "$@" -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only -
}

for path in "$prefix"/include/quant/*.h; do
    header=$(basename "$path")
    check "$header alone, C11" alone "$header" cc -std=c11 -xc
    if command -v c++ >/dev/null 2>&1; then
        check "$header alone, C++11" alone "$header" c++ -std=c++11 -xc++
    fi
done

# --- names ---

# The functions that the installed headers declare.
cat "$prefix"/include/quant/*.h | tr '\n' ' ' | grep -o 'QNT_API [^;{(]*(' | sed 's/.*[ *]\(qnt_[a-z0-9_]*\)($/\1/' |
    sort -u >"$work/declared"
# defined OPTION FILE: global names that it defines.
defined() {
    nm "$1" --defined-only "$2" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u
}
# The sanitizers and coverage put in names of their own, with two underscores.
case $library in
*.so*)
    defined -D "$library" | grep -v '^__' >"$work/exported"
    check "the shared library exports what the headers declare, no more" diff "$work/declared" "$work/exported"
    ;;
*)
    defined -g "$library" | grep -v '^__' >"$work/global"
    check "the static library defines what the headers declare" test -z "$(comm -23 "$work/declared" "$work/global")"
    grep -vE '^qnti?_' "$work/global" >"$work/foreign"
    check "every global name begins with qnt_ or qnti_" diff /dev/null "$work/foreign"
    ;;
esac

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
