#!/bin/sh
# Work is never lost: whatever ends a run, the same command goes on to the bytes of an uninterrupted one.
#
#     sh tests/test_resume.sh QUANT                      on the embedded model: some twenty seconds
#     sh tests/test_resume.sh QUANT full MODEL CALIB     20 kills over GGUF and folder, two recipes, with any model
#
# One line a check, `N passed, N failed` at the end; exit status 0 if none failed. Moments of kills are random, results
# do not depend on them. SEED in the environment repeats a run's moments.

. "$(dirname "$0")/checks.sh"
seed=${SEED:-$(date +%s)}
echo "seed $seed"

calib="--calib $data/calibration.txt --samples 8 --seqlen 128"
if [ "${2-}" = full ]; then
    [ -d "$3" ] && [ -f "$4" ] || { echo "usage: sh $0 QUANT full MODEL CALIB" >&2; exit 2; }
    model=$3
    calib="--calib $4 ${CALIB_OPTIONS:---samples 8 --seqlen 256}"
fi

# only NAME...: nothing else lies in $out.
only() {
    found=$(cd "$out" && ls -A | sort | tr '\n' ' ')
    wanted=$(printf '%s\n' "$@" | sort | tr '\n' ' ')
    [ "$found" = "$wanted" ]
    verdict $? "there is only $*" "found $found"
}

same() {
    diff -r "$1" "$2" >/dev/null
    verdict $? "$3: the bytes of an uninterrupted run"
}

# --- kills ---

now() {
    date +%s%N
}

# start OPTION...: quantizes behind; $pid is the tool's own.
start() {
    (exec "$quant" quantize "$model" --progress none "$@" >"$work/stdout" 2>"$work/stderr") &
    pid=$!
}

# next_moment: a random one within $seconds, as $moment.
next_moment() {
    seed=$((seed + 1))
    moment=$(awk "BEGIN { srand($seed); rand(); printf \"%.3f\", rand() * $seconds }")
}

# kill_at SECONDS OPTION...: SIGKILL at that moment, if it still runs.
kill_at() {
    at=$1
    shift
    start "$@"
    sleep "$at"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
}

# reference NAME OPTION...: an uninterrupted run to $work/NAME; $seconds is its time.
reference() {
    whole=$work/$1
    shift
    rm -rf "$whole"
    begin=$(now)
    check "uninterrupted: $*" quantize -o "$whole" "$@"
    seconds=$(awk "BEGIN { print ($(now) - $begin) / 1e9 }")
}

# killed NAME TIMES OPTION...: so many kills one after the other, then the same command to its end.
killed() {
    output=$1
    times=$2
    shift 2
    clear_out
    moments=
    for k in $(seq "$times"); do
        next_moment
        moments="$moments $moment"
        kill_at "$moment" -o "$out/$output" "$@" 2>/dev/null
        # whatever stands there under its name must be whole
        [ ! -e "$out/$output" ] || same "$work/$output" "$out/$output" "$output was there after the kill at $moment"
    done
    check "$output after kills at$moments of $seconds" quantize -o "$out/$output" --resume "$@"
    same "$work/$output" "$out/$output" "$output"
    only "$output"
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

if [ "${2-}" = full ]; then
    for recipe in ${RECIPES:-gptq awq,gptq:qep=0.5}; do
        for format in gguf:q4_0 gptq; do
            entry=$(echo "$recipe-$format" | tr ':,' '--')
            reference "$entry" --method "$recipe" --format $format $calib
            for round in 1 2 3 4 5; do
                killed "$entry" 1 --method "$recipe" --format $format $calib
            done
        done
    done
    finish
fi

echo "# kills"
reference a.gguf --format gguf:q4_0 $calib
killed a.gguf 2 --format gguf:q4_0 $calib
reference folder --format native $calib
killed folder 1 --format native $calib
reference levels --method squeezellm --format native $calib
killed levels 2 --method squeezellm --format native $calib
clear_out
start -o "$out/levels" --method squeezellm --format native $calib
while kill -0 $pid 2>/dev/null && [ ! -e "$out/levels.partial/block-00002.fisher.safetensors" ]; do
    :
done
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
[ -e "$out/levels.partial/block-00002.fisher.safetensors" ] && [ ! -e "$out/levels" ]
verdict $? "a kill in the reverse sweep"
check "levels after a kill in the reverse sweep" quantize -o "$out/levels" --method squeezellm --format native $calib
same "$work/levels" "$out/levels" "levels after a kill in the reverse sweep"
only levels

echo "# going on"
# stop_after BLOCKS NAME OPTION...: SIGINT once so many blocks are finished.
stop_after() {
    last=$out/$2.partial/block-0000$(($1 - 1)).json
    output=$2
    shift 2
    start -o "$out/$output" "$@"
    while kill -0 $pid 2>/dev/null && [ ! -e "$last" ]; do
        :
    done
    kill -INT $pid
    wait $pid
    status=$?
}
long="--calib $data/calibration.txt --samples 40 --seqlen 128 --no-verify"
reference long.gguf --format gguf:q4_0 $long
clear_out
stop_after 2 long.gguf --format gguf:q4_0 $long
[ $status -eq 130 ]
verdict $? "SIGINT ends it with 130" "exit status $status"
grep -q "of 4 blocks are finished.*$out/long.gguf.partial" "$work/stderr"
verdict $? "SIGINT: it tells what is kept" "$(tail -n 1 "$work/stderr")"
only long.gguf.partial
fails "another text length" "seqlen was 128, is 64" "--force starts anew" -- quantize -o "$out/long.gguf" --format gguf:q4_0 --calib "$data/calibration.txt" --samples 40 --seqlen 64
fails "another parameter" "gptq.damp was 0.01, is 0.2" -- quantize -o "$out/long.gguf" --format gguf:q4_0 $long --set damp=0.2
fails "other layers" "model.layers.3.mlp.down_proj.weight was recipe 1, is not quantized" -- quantize -o "$out/long.gguf" --format gguf:q4_0 $long --exclude '*.3.mlp.down_proj.*'
fails "another format" "grid was gguf:q4_0, is gguf:q8_0" -- quantize -o "$out/long.gguf" --format gguf:q8_0 $long
sed 's/[aeiou]/e/' "$data/calibration.txt" >"$work/other.txt"
fails "another text" "calibration was" -- quantize -o "$out/long.gguf" --format gguf:q4_0 --calib "$work/other.txt" --samples 40 --seqlen 128
cp -R "$model" "$work/other"
printf '\001' | dd of="$work/other/model.safetensors" bs=1 seek=1000000 conv=notrunc 2>/dev/null
fails "other weights of the same size" "model weights was" -- "$quant" quantize "$work/other" --progress none -o "$out/long.gguf" --format gguf:q4_0 $long
fails "--resume with --force" resume force -- quantize -o "$out/long.gguf" --format gguf:q4_0 $long --resume --force
# a power cut may leave a file of the right size with other bytes
printf '\377' | dd of="$out/long.gguf.partial/block-00000.safetensors" bs=1 seek=3000 conv=notrunc 2>/dev/null
check "it goes on" quantize -o "$out/long.gguf" --format gguf:q4_0 $long --report "$work/report.json" --threads 1
says "it tells what was finished before" "blocks were finished before"
same "$work/long.gguf" "$out/long.gguf" "one block damaged, one kept, another number of threads"
grep -q '"resumed_blocks": [12],' "$work/report.json" && [ "$(grep -c '"output_error": [0-9]' "$work/report.json")" -eq 28 ]
verdict $? "its report has all layers, also those of the earlier run"
only long.gguf
check "the same command once more" quantize -o "$out/long.gguf" --format gguf:q4_0 $long --resume
says "the same command once more: nothing to do" "by the same plan"
fails "an output of another plan" "made by another plan" "--force replaces it" -- quantize -o "$out/long.gguf" --format gguf:q4_0 $long --set damp=0.2
same "$work/long.gguf" "$out/long.gguf" "what was refused"
check "--force" quantize -o "$out/long.gguf" --format gguf:q8_0 --method rtn --force
cmp -s "$work/long.gguf" "$out/long.gguf"
[ $? -eq 1 ]
verdict $? "--force replaces it"

echo "# one run in a folder"
clear_out
start -o "$out/long.gguf" --format gguf:q4_0 $long
while kill -0 $pid 2>/dev/null && [ ! -e "$out/long.gguf.partial/plan.json" ]; do
    :
done
fails "a second run" "another run works in this folder" long.gguf.partial -- quantize -o "$out/long.gguf" --format gguf:q4_0 $long
wait $pid
verdict $? "the first run"
same "$work/long.gguf" "$out/long.gguf" "the first run"
only long.gguf

echo "# a full disk"
clear_out
fails "the second stream does not fit" "a.gguf.partial: no room for a file" activations -- within 1000 quantize -o "$out/a.gguf" --format gguf:q4_0 $calib
clear_out
alone="--format gguf:q4_0 --set qep=0 $calib" # one stream, in memory
check "with one stream" quantize -o "$out/a.gguf" $alone
mv "$out/a.gguf" "$work/alone.gguf"
fails "the output does not fit" "a.gguf" "cannot write" -- within 2000 quantize -o "$out/a.gguf" $alone
only a.gguf.partial
check "with room again" quantize -o "$out/a.gguf" $alone
says "with room again: nothing is done twice" "4 of 4 blocks were finished before"
same "$work/alone.gguf" "$out/a.gguf" "with room again"
only a.gguf
clear_out
fails "no block fits" "block-00000.safetensors" "cannot write" -- within 10 quantize -o "$out/a.gguf" $alone
[ -z "$(ls -A "$out")" ]
verdict $? "where nothing was finished nothing is left" "$(ls -A "$out")"

echo "# less memory"
clear_out
fails "a bound below the possible" max_ram needs -- quantize -o "$out/a.gguf" --format gguf:q4_0 $calib --max-ram 10M
least=$("$quant" plan "$model" --format gguf:q4_0 $calib --json | sed -n 's/^ *"least_memory_bytes": *\([0-9]*\),/\1/p')
check "the least bound" quantize -o "$out/a.gguf" --format gguf:q4_0 $calib --max-ram "$least" --report "$work/report.json"
grep -q '"activations_in_files": true' "$work/report.json"
verdict $? "activations are in files"
same "$work/a.gguf" "$out/a.gguf" "activations in files"
only a.gguf

echo "# several formats"
clear_out
check "three formats" quantize -o "$out/all" --format gguf:q4_0 --format native --format gptq $calib --report "$work/report.json" --work "$work/blocks"
[ ! -e "$work/blocks" ]
verdict $? "the work folder has gone"
mv "$out/all/native" "$out/all/gptq" "$out/all/gguf-q4_0.gguf" "$out"
rmdir "$out/all"
verdict $? "an entry for each format and nothing else"
same "$work/a.gguf" "$out/gguf-q4_0.gguf" "gguf beside others"
same "$work/folder" "$out/native" "native beside others"
clear_out
sym="--bits 4 --group-size 64 --sym"
check "two formats of the same blocks" quantize -o "$out/all" --format native --format gptq $sym $calib
says "two formats of the same blocks: made once" "4 of 4 blocks were finished before"
check "gptq alone" quantize -o "$out/alone" --format gptq $sym $calib
same "$out/alone" "$out/all/gptq" "gptq beside native"
fails "a format twice" "given twice" -- quantize -o "$out/twice" --format native --format native --method rtn

echo "# quantized sources"
check "native to gptq without a method" "$quant" quantize "$out/all/native" -o "$out/packed" --method none --format gptq --progress none
check "and back" "$quant" quantize "$out/packed" -o "$out/back" --method none --format native --progress none
"$quant" eval "$out/packed" --text "$data/evaluation.txt" --ctx 128 --chunks 2 --progress none --against "$out/all/native" --report "$work/eval.json" >/dev/null 2>&1
awk -F'[:,]' '/"mean_kl"/ { kl = $2; n++ } END { exit !(n == 1 && kl < 1e-9 && kl > -1e-9) }' "$work/eval.json"
verdict $? "the repacked model computes the same" "$(grep mean_kl "$work/eval.json")"
fails "a grid that the format does not have" "q_proj" "gguf:q4_0" -- "$quant" quantize "$out/all/native" -o "$out/no.gguf" --method none --format gguf:q4_0 --progress none
fails "quantizing what is quantized" "quantized already" --requantize -- "$quant" quantize "$out/all/native" -o "$out/no.gguf" --method rtn --format gguf:q4_0 --progress none
check "--requantize" "$quant" quantize "$out/all/native" -o "$out/again.gguf" --method rtn --format gguf:q4_0 --requantize --progress none
only all alone packed back again.gguf
finish
