#!/bin/sh
# A table of the README measured: every row of a list quantized, judged and printed in Markdown.
#
#     sh bench/tables.sh LIST QUANT MODEL TEXTS OUT [WORDS]
#
# LIST is a file of bench/tables, MODEL the folder of the model that it is about, TEXTS the folder of the texts that it
# names. OUT keeps the reports, so that rows which are there are printed and not measured again, and each model until it
# is judged. With WORDS only rows whose line has them. A list has a line each for
#
#     calib FILE OPTION...          calibration text, of rows that take one
#     text FILE OPTION...           what is judged on, one or more
#     row LABEL | RECIPE OPTION...  a row in native format, calibrated
#     free LABEL | RECIPE OPTION... the same without calibration
#
# Printed are label, true bits of a weight, for each text perplexity (mean KL divergence), seconds on one thread and peak
# resident MiB, mapped pages of the model included.

set -eu
if [ $# -lt 5 ]; then
    echo "usage: sh bench/tables.sh LIST QUANT MODEL TEXTS OUT [WORDS]" >&2
    exit 2
fi
. "$(dirname "$0")/../tests/packages.sh"
list=$1 quant=$2 model=$3 texts=$4 out=$5 words=${6-}
need_packages "file /usr/bin/time time"
for input in "$list" "$quant" "$model" "$texts"; do
    [ -r "$input" ] || {
        echo "$input: not there" >&2
        exit 2
    }
done
mkdir -p "$out"

# number FILE KEY: the first "KEY": number of a JSON file with a key a line.
number() {
    sed -n "s/^ *\"$2\": *\([-+0-9.e]*\),\{0,1\}\$/\1/p" "$1" | head -n 1
}

# judge NAME: the quantized model on each text of the list.
judge() {
    count=0
    grep '^text ' "$list" | while read -r kind file options; do
        count=$((count + 1))
        # shellcheck disable=SC2086
        "$quant" eval "$1" --text "$texts/$file" $options --against "$model" --threads 1 --progress none \
            --report "$1.text$count.json" >/dev/null
    done
}

# print_row LABEL NAME
print_row() {
    printf '| %s | %.2f |' "$1" "$(number "$2.run.json" bits_per_weight)"
    for report in "$2".text*.json; do
        printf '%s %s\n' "$(number "$report" perplexity)" "$(number "$report" mean_kl)" | awk '{
            printf $1 < 10 ? " %.4f" : $1 < 1000 ? " %.2f" : " %.0f", $1
            printf $2 < 0.1 ? " (%.4f) |" : $2 < 10 ? " (%.3f) |" : " (%.1f) |", $2 }'
    done
    printf ' %.1f | %d |\n' "$(number "$2.run.json" seconds)" "$(($(cat "$2.kib") / 1024))"
}

grep '^text ' "$list" | while read -r kind file options; do
    # shellcheck disable=SC2086
    printf '%s: perplexity %s\n' "$file $options" "$("$quant" eval "$model" --text "$texts/$file" $options --progress none |
        sed -n 's/^perplexity *//p')"
done
grep -E '^(row|free) ' "$list" | while IFS='|' read -r label recipe; do
    case "$label|$recipe" in *"$words"*) ;; *) continue ;; esac
    kind=${label%% *} label=$(echo "${label#* }" | sed 's/^ *//; s/ *$//')
    name=$out/$(echo "$recipe" | tr -cs 'A-Za-z0-9_.\n' '-' | sed 's/^-//; s/-$//')
    calibration=$(sed -n "s|^calib  *|--calib $texts/|p" "$list")
    [ "$kind" = row ] || calibration=
    if [ ! -e "$name.kib" ]; then
        # shellcheck disable=SC2086
        /usr/bin/time -f %M -o "$name.kib.part" "$quant" quantize "$model" -o "$name" --format native --method $recipe \
            $calibration --no-verify --threads 1 --force --progress none --report "$name.run.json" >/dev/null </dev/null
        judge "$name"
        mv "$name.kib.part" "$name.kib"
        rm -rf "$name"
    fi
    print_row "$label" "$name"
done
