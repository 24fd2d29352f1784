#!/bin/sh
# Statistics from end to end: measured to files of every kind, added, taken in place of a text, refused where damaged;
# and recipes compared.
#
#     sh tests/test_calib_tool.sh build/bin/quant
#
# One line a check, `N passed, N failed` at the end; exit status 0 if none failed.

. "$(dirname "$0")/checks.sh"
mkdir "$work/tmp"
TMPDIR=$work/tmp
export TMPDIR

measure() {
    "$quant" calib "$model" --progress none "$@"
}

merge() {
    "$quant" merge --progress none "$@"
}

for command in calib merge compare; do
    check "help of $command" "$quant" $command --help
    says "help of $command: usage" "usage: quant $command"
done

echo "# files"
for suffix in safetensors gguf dat; do
    check "calib to .$suffix" measure $calib -o "$work/a.$suffix"
    says "calib to .$suffix: windows" "4 of 64 tokens"
    check "calib to .$suffix with 2 threads" measure $calib -o "$work/b.$suffix" --threads 2
    check "calib to .$suffix with 1 thread" measure $calib -o "$work/c.$suffix" --threads 1
    cmp -s "$work/a.$suffix" "$work/b.$suffix" && cmp -s "$work/a.$suffix" "$work/c.$suffix"
    verdict $? "threads do not change .$suffix"
    check "another text to .$suffix" measure --calib "$data/evaluation.txt" --samples 2 --seqlen 64 -o "$work/b.$suffix" --force --json
    says "its result as JSON" '"windows": 2' '"seqlen": 64'
    check "merge of .$suffix" merge "$work/a.$suffix" "$work/b.$suffix" -o "$work/sum.$suffix"
    says "merge of .$suffix: windows" "windows          6"
    check "merge of .$suffix the other way" merge "$work/b.$suffix" "$work/a.$suffix" -o "$work/mus.$suffix" --json
    says "merge as JSON" '"windows": 6'
done
check "calib by a recipe" measure $calib -o "$work/moments.safetensors" --method smoothquant
[ "$(wc -c <"$work/moments.safetensors")" -lt "$(($(wc -c <"$work/a.safetensors") / 20))" ]
verdict $? "moments are small beside Hessians"
check "calib of 16 samples" measure --calib "$data/calibration.txt" --samples 16 --seqlen 64 -o "$work/long.gguf"
grep -q "calibration.txt" "$work/sum.gguf" && grep -q "evaluation.txt" "$work/sum.gguf"
verdict $? "a sum names both texts"

echo "# what they are good for"
for method in gptq awq,gptq smoothquant,gptq rtn; do
    check "$method by calibrations" quantize -o "$out/q.gguf" --method $method --format gguf:q4_0 --calib "$work/sum.safetensors"
    near "$method by calibrations is the model" "$out/q.gguf" "$(limit 4)"
    clear_out
done
check "gptq to native by calibrations" quantize -o "$out/q" --format native --bits 3 --group-size 32 --calib "$work/sum.safetensors"
near "gptq to native by calibrations is the model" "$out/q" "$(limit 3)"
check "calib with samples" measure $calib -o "$work/samples.safetensors" --method olive
check "olive by calibrations" quantize -o "$out/o" --format native --method olive --bits 8 --act-bits 8 --calib "$work/samples.safetensors"
near "olive by calibrations is the model" "$out/o" "$(limit 4)"
clear_out
check "a plan by calibrations" "$quant" plan "$model" --format gguf:q4_0 --calib "$work/sum.safetensors"
says "a plan by calibrations: recipe and file" gptq sum.safetensors
clear_out
for type in q4_0 q4_1 q5_0 q5_1; do
    check "$type without an importance" quantize -o "$out/plain.gguf" --method rtn --format gguf:$type
    for suffix in gguf dat; do
        check "$type by .$suffix" quantize -o "$out/$suffix.gguf" --method rtn --format gguf:$type --imatrix "$work/sum.$suffix"
        near "$type by .$suffix is the model" "$out/$suffix.gguf" "$(limit "$(echo $type | cut -c2)")"
    done
    ! cmp -s "$out/plain.gguf" "$out/gguf.gguf"
    verdict $? "$type takes the importance"
    clear_out
done
check "gptq by text and importance" quantize -o "$out/q.gguf" --format gguf:q4_0 $calib --imatrix "$work/sum.gguf"
near "gptq by text and importance is the model" "$out/q.gguf" "$(limit 4)"
clear_out


echo "# which statistics a result is of"
check "a result by an importance" quantize -o "$out/q.gguf" --method rtn --format gguf:q4_0 --imatrix "$work/a.gguf"
check "the same again" quantize -o "$out/q.gguf" --method rtn --format gguf:q4_0 --imatrix "$work/a.gguf"
says "the same again: nothing to do" "nothing was left to do"
! quantize -o "$out/q.gguf" --method rtn --format gguf:q4_0 --imatrix "$work/b.gguf" >/dev/null 2>"$work/stderr" && grep -q "another plan" "$work/stderr"
verdict $? "another importance is another plan"
check "a result by calibrations" quantize -o "$out/c.gguf" --format gguf:q4_0 --calib "$work/a.safetensors"
! quantize -o "$out/c.gguf" --format gguf:q4_0 --calib "$work/b.safetensors" >/dev/null 2>"$work/stderr" && grep -q "another plan" "$work/stderr"
verdict $? "other calibrations are another plan"
clear_out

echo "# odd texts (llama.cpp#5442)"
i=0
while [ $i -lt 40 ]; do
    printf '\357\273\277A line with \000 and \377\376 \303 in it,\r\n\r\nand more.\n'
    i=$((i + 1))
done >"$work/odd.txt"
measure --calib "$work/odd.txt" --samples all --seqlen 16 -o "$work/odd.gguf" >"$work/stdout" 2>"$work/stderr" || grep -q "odd.txt" "$work/stderr"
verdict $? "bytes that are no text: measured, or the file is named" "$(tail -n 1 "$work/stderr")"
: >"$work/empty.txt"
refuses "an empty text" empty.txt -- measure --calib "$work/empty.txt" -o "$out/x.gguf"
refuses "a folder as a text" "$work/tmp" -- measure --calib "$work/tmp" -o "$out/x.gguf"
refuses "no text of that name" nothing.txt -- measure --calib "$work/nothing.txt" -o "$out/x.gguf"

echo "# refused"
to="-o $out/x --progress none"
refuses "a suffix that is none" .safetensors .gguf .dat -- measure $calib -o "$out/x.bin"
refuses "no text" --calib -- measure -o "$out/x.gguf"
refuses "an output that is there" a.gguf --force -- measure $calib -o "$work/a.gguf"
refuses "an output that is a folder" "$work/tmp" -- measure $calib -o "$work/tmp"
refuses "an importance matrix by a recipe" "every method" -- measure $calib -o "$out/x.gguf" --method gptq
refuses "a recipe that needs pairs" asymmetric "quantized model" -- measure $calib -o "$out/x.safetensors" --method gptq:asymmetric=true
refuses "an unknown recipe" gptqq gptq -- measure $calib -o "$out/x.safetensors" --method gptqq
refuses "too little memory" max_ram needs -- measure $calib -o "$out/x.safetensors" --max-ram 1M
refuses "text too short" 4000 -- measure --calib "$data/calibration.txt" --samples 4000 --seqlen 500 -o "$out/x.gguf"
refuses "a GGUF beside a .dat" long.gguf .dat -- merge "$work/a.dat" "$work/long.gguf" -o "$out/x.dat"
refuses "kinds that do not go together" a.gguf -- merge "$work/a.safetensors" "$work/a.gguf" -o "$out/x.safetensors"
refuses "a sum under another kind's name" a.gguf x.dat -- merge "$work/a.gguf" "$work/b.gguf" -o "$out/x.dat"
refuses "sums of different recipes" moments.safetensors Hessian -- merge "$work/a.safetensors" "$work/moments.safetensors" -o "$out/x.safetensors"
refuses "one file" usage -- merge "$work/a.gguf"
for bytes in 0 3 100 5000; do
    for suffix in safetensors gguf dat; do
        head -c $bytes "$work/a.$suffix" >"$work/cut.$suffix"
        option=--imatrix
        [ $suffix = safetensors ] && option=--calib
        refuses "$bytes bytes of a .$suffix" "cut.$suffix" -- "$quant" quantize "$model" $to --format gguf:q4_0 $option "$work/cut.$suffix"
        refuses "$bytes bytes of a .$suffix in a sum" "cut.$suffix" -- merge "$work/a.$suffix" "$work/cut.$suffix" -o "$out/x.$suffix"
    done
done
refuses "a text as an importance matrix" calibration.txt "importance matrix" -- "$quant" quantize "$model" $to --format gguf:q4_0 --method rtn --imatrix "$data/calibration.txt"
refuses "a model as calibrations" model.safetensors "no calibration file" -- "$quant" quantize "$model" $to --format gguf:q4_0 --calib "$model/model.safetensors"
refuses "calibrations without samples for olive" moments.safetensors samples -- "$quant" quantize "$model" $to --format native --method olive --calib "$work/moments.safetensors"
refuses "calibrations without Hessians for gptq" moments.safetensors Hessian -- "$quant" quantize "$model" $to --format gguf:q4_0 --method gptq --calib "$work/moments.safetensors"
refuses "calibrations for a recipe that needs pairs" asymmetric text -- "$quant" quantize "$model" $to --format gguf:q4_0 --method gptq:asymmetric=true --calib "$work/a.safetensors"
refuses "an importance beside a transform" awq,gptq --imatrix -- "$quant" quantize "$model" $to --format gguf:q4_0 --method awq,gptq $calib --imatrix "$work/a.gguf"
refuses "gptq by an importance alone" gptq --calib -- "$quant" quantize "$model" $to --format gguf:q4_0 --method gptq --imatrix "$work/a.gguf"
refuses "an importance for method none" none a.gguf -- "$quant" quantize "$model" $to --format gguf:f16 --method none --imatrix "$work/a.gguf"
refuses "no importance matrix" nothing.gguf -- "$quant" quantize "$model" $to --format gguf:q4_0 --method rtn --imatrix "$work/nothing.gguf"
for blocks in 1 40 12000; do
    refuses "a full disk after $blocks blocks" "$out/x" -- within $blocks "$quant" calib "$model" $calib -o "$out/x.safetensors" --progress none
done
refuses "a full disk for a sum" "$out/x" -- within 40 "$quant" merge "$work/a.safetensors" "$work/b.safetensors" -o "$out/x.safetensors"

echo "# interruption"
for suffix in safetensors gguf; do
    interrupt .layers.1. "$quant" calib "$model" --calib "$data/calibration.txt" --samples 128 --seqlen 256 --progress json -o "$out/x.$suffix"
    [ $status -eq 130 ] && is_empty "$out"
    verdict $? "SIGINT leaves nothing of .$suffix" "exit status $status, $(ls -A "$out")"
    clear_out
done

echo "# comparing"
compare() {
    "$quant" compare "$model" --text "$data/evaluation.txt" --ctx 128 --chunks 2 --progress none "$@"
}
check "compare" compare --method rtn --method gptq $calib --format gguf:q4_0 --plot "$work/p.svg" --report "$work/r.json"
says "compare: rows and columns" "(the model)" rtn gptq perplexity "KL divergence" 4.500
is_empty "$TMPDIR"
verdict $? "compare leaves nothing"
grep -q "^<svg" "$work/p.svg" && grep -q ">gptq</text>" "$work/p.svg" && grep -q "prefers-color-scheme: dark" "$work/p.svg" && ! grep -q "href\|src=" "$work/p.svg"
verdict $? "the picture is whole in itself"
if command -v xmllint >/dev/null; then
    check "the picture is XML" xmllint --noout "$work/p.svg"
fi
check "compare as JSON" compare --method rtn --bits 4 --group-size 32 --json
says "compare as JSON: rows" '"mean_kl"' '"bits_per_weight"' '"recipe": "rtn"' '"peak_bytes"'
check "compare by calibrations" compare --method gptq --method rtn --format gguf:q4_0 --calib "$work/sum.safetensors" --work "$work"
compare --method gptqq --method rtn --method gptq --format gguf:q4_0 >"$work/stdout" 2>"$work/stderr"
[ $? -eq 1 ]
verdict $? "a row that failed: exit status 1"
says "a row that failed: its reason, and the others" gptqq "unknown method" 4.500 "give --calib FILE"
refuses "nothing to compare" --method -- compare
refuses "a picture that is none" .svg -- compare --method rtn --plot "$out/p.png"
refuses "a folder for its work that is not there" nowhere -- compare --method rtn --work "$work/nowhere"
refuses "compare without a text" --text -- "$quant" compare "$model" --method rtn
is_empty "$TMPDIR"
verdict $? "no comparison leaves anything"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
