#!/bin/sh
# From nothing to quantized models in a few minutes: installs what is missing, builds the tool, quantizes the embedded
# model in several ways and prints one table: what each costs and what it loses. The files stay in build/quickstart.
#
#     sh examples/quickstart.sh

set -eu
cd "$(dirname "$0")/.."
. tests/packages.sh

# A line a row: format, recipe, settings. "none" only converts: the source itself. A later method is one line more.
rows="
gguf:bf16  none
gguf:q8_0  rtn
gguf:q4_1  rtn
gguf:q4_1  gptq
gguf:q4_0  rtn
gguf:q4_0  gptq
gguf:q4_0  awq,gptq
gptq       gptq                             --bits 4 --group-size 32
awq        awq                              --bits 4 --group-size 32
native     llm_int8
native     rtn                              --bits 8 --group-size 0 --act-bits 8
compressed-tensors:w8a8  smoothquant
compressed-tensors:fp8-dynamic  rtn
compressed-tensors:nvfp4a16  gptq
native     rtn                              --bits 8 --group-size 0 --kv atom:bits=4
native     rtn                              --bits 4 --group-size 32 --act-bits 4 --set act_group_size=32
native     atom                             --bits 4 --group-size 32 --set act_group_size=32 --set keep_columns=32
native     rptq                             --bits 4 --act-bits 4
native     olive                            --bits 4 --act-bits 4
native     os_plus                          --bits 4 --group-size 32 --act-bits 4 --set act_granularity=token
native     outlier_suppression              --bits 6 --act-bits 6
native     zeroquant                        --set format=fp4_e2m1 --set act_format=fp8_e4m3 --group-size 32
compressed-tensors  fptq                    --group-size 32
bnb        bnb4                             --set double_quant=true
native     easyquant                        --bits 4 --group-size 32
native     hqq                              --bits 4 --group-size 32
native     squeezellm                       --bits 4
native     owq                              --bits 4
native     spqr
native     rtn                              --bits 4 --group-size 32
native     gptq                             --bits 4 --group-size 32
native     gptq:qep=0.5                     --bits 4 --group-size 32
native     rotation,gptq                    --bits 4 --group-size 32
native     rtn                              --bits 3 --group-size 32
native     gptq                             --bits 3 --group-size 32
native     gptq,refine:refit_scales=true    --bits 3 --group-size 32
native     gptq,lorc:rank=8                 --bits 3 --group-size 32
native     gptq:qep=0.5                     --bits 3 --group-size 32
native     spqr:bits=3
native     owq                              --bits 3
"

quant=build/bin/quant
model=examples/data/model
out=build/quickstart
calibration="--calib examples/data/calibration.txt --samples 64 --seqlen 256"
evaluation="--text examples/data/evaluation.txt --protocol gptq --ctx 256 --chunks 48"

# number FILE KEY: the first "KEY": number of a JSON file with a key a line.
number() {
    sed -n "s/^ *\"$2\": *\([-+0-9.e]*\),\{0,1\}\$/\1/p" "$1" | head -n 1
}

# row METHOD FORMAT NAME: a line of the table from the reports of a run and of its evaluation.
row() {
    run=$3.run.json
    eval=$3.eval.json
    printf '%s|' "$1" "$2" "$(number "$run" bits_per_weight)" "$(number "$run" output_bytes)" \
        "$(number "$eval" perplexity)" "$(number "$eval" mean_kl)" "$(number "$eval" top1)" \
        "$(number "$run" seconds)" "$(number "$run" peak_bytes)" | awk -F'|' '{
        printf "%-32s %-31s %6.3f %8.2f %10.4f %9.5f %7.2f %6.1f %8.1f\n",
            $1, $2, $3 ? $3 : 16, $4 / 1048576, $5, $6 < 0 ? 0 : $6, 100 * $7, $8, $9 / 1048576 }'
}

need_packages "$build_needs"
mkdir -p $out
echo "building $quant"
{ cmake --preset release && cmake --build --preset release -j "$(nproc)" --target quant_tool; } >$out/build.log 2>&1 || {
    tail -n 20 $out/build.log >&2
    exit 1
}
echo "quantizing $model"
echo "    calibration  $calibration"
echo "    evaluation   $evaluation"
echo
printf '%-32s %-31s %6s %8s %10s %9s %7s %6s %8s\n' method format bits MiB perplexity KL "top-1 %" "time s" "peak MiB"
echo "$rows" | while read -r format recipe settings; do
    [ -n "$format" ] || continue
    name=$out/$(echo "$format $recipe $settings" | tr -cs 'a-z0-9_.\n' '-' | sed 's/-*$//')
    case $format in gguf:*) name=$name.gguf ;; esac
    label=$recipe data=$calibration
    case $recipe in none) label=source data= ;; rtn | llm_int8 | rotation | bnb4 | easyquant | hqq | zeroquant) data= ;; esac
    # shellcheck disable=SC2086
    $quant quantize $model -o "$name" --method "$recipe" --format "$format" $settings $data --no-verify --force \
        --progress none --report "$name.run.json" >/dev/null
    # shellcheck disable=SC2086
    $quant eval "$name" $evaluation --against $model --progress none --report "$name.eval.json" >/dev/null
    row "$label" "$(echo "$format $settings" | sed 's/ --bits \([0-9]*\)/ \1 bit/; s/--group-size /g/; s/--set //g; s/--act-bits /act_bits=/; s/--kv/kv/')" "$name"
done
echo
echo "KL and top-1: divergence from the source's predictions, and how often the first choice is the same."
echo "A GGUF for any engine that reads them: $out/gguf-q4_0-gptq.gguf"
