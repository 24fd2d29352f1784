#!/bin/sh
# Everything that is tested, from a bare Debian 12 on.
#
#     sh tests/run.sh         release and address+undefined sanitizers, installed packages: minutes
#     sh tests/run.sh full    also thread sanitizer, clang, the layer level alone, fuzzing, golden data and real models
#                             where ../shared has them; FUZZ_SECONDS=600 fuzzes each parser for ten minutes in place
#                             of one
#
# It installs what is missing with apt-get (through sudo where the user is not root) and needs no other network. The
# last line is `N passed, N failed`: tests of ctest and the steps in between; exit status 0 if none failed.

set -u
cd "$(dirname "$0")/.." || exit 2
. tests/packages.sh
full=false
case ${1-} in
"") ;;
full) full=true ;;
*)
    echo "usage: sh tests/run.sh [full]" >&2
    exit 2
    ;;
esac
shared=$(cd .. && pwd)/shared
python=/usr/bin/python3     # Debian's, which has Debian's numpy
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
. tests/steps.sh

# --- steps ---

say() {
    printf '\n== %s\n' "$*"
}

# tests FOLDER [OPTION...]: its tests, each counted.
tests() {
    folder=$1
    shift
    ctest --test-dir "$folder" -j2 --timeout 900 --output-on-failure --no-tests=error "$@" 2>&1 | tee "$work/ctest"
    total=$(sed -n 's/.* tests failed out of \([0-9]*\)$/\1/p' "$work/ctest")
    bad=$(sed -n 's/.* \([0-9]*\) tests failed out of .*/\1/p' "$work/ctest")
    if [ -z "$total" ]; then
        failed=$((failed + 1))
    else
        passed=$((passed + total - bad))
        failed=$((failed + bad))
    fi
}

# build FOLDER OPTION...: configured and built.
build() {
    folder=$1
    shift
    check "configure $folder" cmake -S . -B "$folder" "$@" && check "build $folder" cmake --build "$folder" -j "$(nproc)"
}

# scripted NAME SCRIPT ARGUMENT...: a script that prints a line a check and `N passed, N failed` at the end.
scripted() {
    name=$1
    shift
    "$@" >"$work/log" 2>&1
    counts=$(sed -n 's/^\(.*: \)\{0,1\}\([0-9]*\) passed, \([0-9]*\) failed$/\2 \3/p' "$work/log" | tail -n 1)
    grep '^FAIL' "$work/log"
    echo "     $name: $(tail -n 1 "$work/log")"
    if [ -n "$counts" ]; then
        passed=$((passed + ${counts% *}))
        failed=$((failed + ${counts#* }))
    else
        failed=$((failed + 1))
    fi
}

# --- what everyone runs ---

needs=$build_needs"
tool c++ build-essential
"
$full && needs=$needs"
tool clang clang
file /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux libclang-rt-14-dev
"
$full && [ -d "$shared" ] && needs=$needs"
file /usr/lib/python3/dist-packages/numpy python3-numpy
"
need_packages "$needs" || exit 1

say "release"
check "configure build" cmake --preset release && check "build build" cmake --build --preset release -j "$(nproc)" || exit 1
tests build

say "address and undefined behaviour sanitizers"
check "configure build-asan" cmake --preset asan && check "build build-asan" cmake --build --preset asan -j "$(nproc)" && tests build-asan

say "shared library, installed"
if build build-shared -DBUILD_SHARED_LIBS=ON -DQUANT_TESTS=OFF -DQUANT_BENCH=OFF; then
    scripted "tests/test_install.sh" sh tests/test_install.sh build-shared
    scripted "tests/test_house.sh" sh tests/test_house.sh build-shared
fi

# --- full ---

# perplexity MODEL TEXT PROTOCOL EXPECTED: of a real model, against the reference's float32 forward pass.
perplexity() {
    build/bin/quant eval "$shared/models/$1" --text "$shared/models/text/$2.txt" --ctx 256 --protocol "$3" \
        --progress none --report "$work/eval.json" &&
        awk -F'[:,]' -v want="$4" '$1 ~ /"perplexity"/ { got = $2 } END { print got; exit !(got > want - 3e-4 && got < want + 3e-4) }' "$work/eval.json"
}

full() {
    say "thread sanitizer"
    # OpenBLAS is not built for it and runs one thread in each of ours.
    TSAN_OPTIONS=ignore_noninstrumented_modules=1
    export TSAN_OPTIONS
    if check "configure build-tsan" cmake --preset tsan && check "build build-tsan" cmake --build --preset tsan -j "$(nproc)"; then
        # without those that are long there and show no other threads
        tests build-tsan --exclude-regex 'test_tool|test_calib_tool|test_conformance|test_model_memory|test_model_damaged|replay'
        check "the tool with 4 threads" build-tsan/bin/quant quantize examples/data/model -o "$work/threads.gguf" \
            --format gguf:q4_0 --calib examples/data/calibration.txt --samples 4 --seqlen 64 --threads 4
    fi

    say "clang, warnings are errors"
    build build-clang -DCMAKE_C_COMPILER=clang -DCMAKE_C_FLAGS=-Werror && tests build-clang

    say "the layer level alone"
    build build-layer -DQUANT_MODEL=OFF -DCMAKE_C_FLAGS=-Werror && tests build-layer

    say "fuzzing, ${FUZZ_SECONDS:-60} seconds for each target"
    if build build-fuzz -DCMAKE_C_COMPILER=clang -DQUANT_FUZZ=ON -DQUANT_SANITIZE=address,undefined -DQUANT_TESTS=ON \
        -DCMAKE_BUILD_TYPE=RelWithDebInfo; then
        for target in build-fuzz/bin/fuzz_*; do
            name=$(basename "$target")
            mkdir -p "$work/$name"
            corpus=tests/fuzz/corpus/${name#fuzz_}
            [ -d "$corpus" ] || corpus=
            check "$name" "$target" "$work/$name" $corpus -max_total_time="${FUZZ_SECONDS:-60}" -timeout=20 -artifact_prefix="build-fuzz/$name-"
        done
    fi

    say "golden data"
    if [ -d "$shared/golden" ]; then
        methods=$(build/bin/quant methods --json | sed -n 's/^    "name": "\(.*\)",$/\1/p' | tr '\n' ',')
        types=$(build/bin/quant formats --json | sed -n 's/^ *"name": "gguf:\(.*\)",$/\1/p' | grep -v '^b*f[13]' | tr '\n' ',')
        scripted "methods" $python "$shared/golden/score_golden.py" build/bin/quant --only "$methods"
        scripted "blocks" $python "$shared/golden/score_blocks.py" build/bin/quant --types "$types"
        scripted "field cases" $python "$shared/field/check_cases.py" build/bin/quant
    else
        echo "skipped: golden data and field cases (no ../shared)"
    fi

    say "real models"
    if [ -d "$shared/models" ]; then
        while read -r model text protocol expected; do
            check "$model, $text, $protocol: perplexity $expected" perplexity "$model" "$text" "$protocol" "$expected"
        done <<EOF
stories260K stories-eval gptq 4.6287
stories260K stories-eval llamacpp 4.4181
stories260K grimm-eval bos 25.4269
babyllama-105 stories-eval llamacpp 2.2638
babyllama-105 grimm-eval gptq 5.4340
tinystories-k256 stories-eval bos 10.6700
tinystories-k256 grimm-eval llamacpp 33.2461
EOF
    else
        echo "skipped: real models (no ../shared)"
    fi
}
$full && full

printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
