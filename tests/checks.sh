# What the tests of the tool share: `. tests/checks.sh` first of all, with the tool as the script's first argument.
#
# It sets $quant, $data and $model (of the examples), $work (a folder that goes with the script), $out (in it, for the
# outputs of the check in hand and nothing else) and $calib (options of a short calibration).

quant=$1
data=$(cd "$(dirname "$0")/../examples/data" && pwd) || exit 2
model=$data/model
calib="--calib $data/calibration.txt --samples 4 --seqlen 64"
work=$(mktemp -d) || exit 2
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
out=$work/out
mkdir "$out" || exit 2
passed=0
failed=0

# verdict STATUS NAME [WHY]
verdict() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok   $2"
    else
        failed=$((failed + 1))
        echo "FAIL $2${3:+: $3}"
    fi
}

# check NAME COMMAND...: it succeeds.
check() {
    name=$1
    shift
    "$@" >"$work/stdout" 2>"$work/stderr"
    verdict $? "$name" "$(tail -n 1 "$work/stderr")"
}

# says NAME TEXT...: the last command's standard output has each text.
says() {
    name=$1
    shift
    for text; do
        grep -qF -e "$text" "$work/stdout" || { verdict 1 "$name" "no \"$text\" in the output"; return; }
    done
    verdict 0 "$name"
}

is_empty() {
    [ -z "$(ls -A "$1")" ]
}

# failing TEXT... -- COMMAND...: $why is empty if it ends with status 1 or 2 and a message that has each text.
failing() {
    texts=$work/texts
    : >"$texts"
    while [ "$1" != -- ]; do
        printf '%s\n' "$1" >>"$texts"
        shift
    done
    shift
    "$@" >"$work/stdout" 2>"$work/stderr"
    status=$?
    why=
    [ $status -eq 1 ] || [ $status -eq 2 ] || why="exit status $status"
    grep '^quant: error: ' "$work/stderr" >"$work/message" || why="$why no message"
    while read -r text; do
        grep -qF -e "$text" "$work/message" || why="$why \"$text\" is not in: $(cat "$work/message")"
    done <"$texts"
}

# fails NAME TEXT... -- COMMAND...
fails() {
    name=$1
    shift
    failing "$@"
    [ -z "$why" ]
    verdict $? "$name" "$why"
}

# refuses NAME TEXT... -- COMMAND...: it fails and leaves nothing in $out.
refuses() {
    name=$1
    shift
    failing "$@"
    is_empty "$out" || why="$why left $(ls -A "$out")"
    [ -z "$why" ]
    verdict $? "$name" "$why"
    clear_out
}

# interrupt PATTERN COMMAND...: SIGINT when a line of its standard error matches; $status is how it ended.
interrupt() {
    pattern=$1
    shift
    mkfifo "$work/pipe"
    "$@" 2>"$work/pipe" >/dev/null &
    pid=$!
    {
        while read -r line; do
            case $line in
            *$pattern*)
                kill -INT $pid
                break
                ;;
            esac
        done
        cat
    } <"$work/pipe" >"$work/stderr"
    wait $pid
    status=$?
    rm "$work/pipe"
}

clear_out() {
    rm -rf "$out"
    mkdir "$out"
}

# number FILE KEY: the first "KEY": number of a JSON file with a key a line.
number() {
    sed -n "s/^ *\"$2\": *\([-+0-9.e]*\),\{0,1\}\$/\1/p" "$1" | head -n 1
}

# holds EXPRESSION: of awk.
holds() {
    awk "BEGIN { exit !($1) }"
}

quantize() {
    "$quant" quantize "$model" --progress none "$@"
}

evaluate() {
    "$quant" eval "$@" --text "$data/evaluation.txt" --ctx 128 --chunks 4 --progress none
}

# near NAME MODEL LIMIT: its KL divergence to the source is within 0 .. LIMIT (but for rounding), its perplexity near.
near() {
    evaluate "$2" --against "$model" --report "$work/eval.json" >"$work/stdout" 2>"$work/stderr" ||
        { verdict 1 "$1" "$(tail -n 1 "$work/stderr")"; return; }
    kl=$(number "$work/eval.json" mean_kl)
    perplexity=$(number "$work/eval.json" perplexity)
    source=$(number "$work/eval.json" against_perplexity)
    holds "$kl + 0 > -1e-6 && $kl + 0 <= $3 && ($perplexity / $source - 1) ^ 2 <= 4 * $3 + 1e-10"
    verdict $? "$1 (KL $kl)" "more than $3, or perplexity $perplexity for $source"
}

# What a good 4-bit grid loses, and four times as much for each bit less.
limit() {
    awk "BEGIN { print 0.05 * 4 ^ (4 - ($1)) }"
}

# within BLOCKS COMMAND...: no file may grow beyond so many blocks of 512 bytes: writes fail as on a full disk.
within() {
    (
        trap '' XFSZ
        ulimit -f "$1"
        shift
        "$@"
    )
}
