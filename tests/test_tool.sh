#!/bin/sh
# The tool from end to end on the embedded model, with small settings: what it writes reads back as nearly the same
# model, results do not depend on threads, and whatever goes wrong is said by name and leaves nothing behind.
#
#     sh tests/test_tool.sh build/bin/quant
#
# One line a check, `N passed, N failed` at the end; exit status 0 if none failed.

. "$(dirname "$0")/checks.sh"

# --- what it can do ---

check "version" "$quant" --version
says "version: a number" "quant 0."
for command in "" quantize plan eval inspect layer methods formats; do
    check "help of ${command:-the tool}" "$quant" $command --help
    says "help of ${command:-the tool}: usage" "usage: quant"
done

check "formats" "$quant" formats --json
formats=$(sed -n 's/^ *"name": "\(.*\)",$/\1/p' "$work/stdout")
cp "$work/stdout" "$work/formats.json"
check "methods" "$quant" methods --json
methods=$(awk -F'"' '/^    "name"/ { name = $4 } /^    "stages"/ && $4 ~ /weights/ { print name }' "$work/stdout")

# bits_of FORMAT: of a weight; native has the method's, 4 by default.
bits_of() {
    awk -F'"' -v format="$1" '$2 == "name" { hit = $4 == format }
        hit && $2 == "bits_per_weight" { sub(/[:, ]*/, "", $3); bits = $3 + 0 } END { print bits ? bits : 4 }' "$work/formats.json"
}

echo "# each format reads back"
for format in $formats; do
    bits=$(bits_of "$format")
    case $format in
    gguf:*32 | gguf:*16) method=none most=1e-6 ;;
    bnb) method=bnb4 most=$(limit "$bits") ;;
    *) method=rtn most=$(limit "$bits") ;;
    esac
    case $format in native) settings="--group-size 32" ;; *:fp8 | *:nvfp4) settings=$calib ;; *) settings= ;; esac
    check "$method to $format" quantize -o "$out/a" --method $method --format "$format" $settings
    near "$method to $format is the model" "$out/a" "$most"
    check "inspect $format" "$quant" inspect "$out/a"
    says "inspect $format: family" "Llama" "bits per weight"
    clear_out
done

echo "# each method"
for method in $methods; do
    for format in gguf:q4_0 native; do
        case "$format $method" in
        *kv_cache)
            refuses "$method to $format" "option kv" -- quantize -o "$out/a" --method "$method" --format $format $calib
            continue
            ;;
        gguf*llm_int8 | gguf*spqr | gguf*owq | gguf*squeezellm | gguf*easyquant | gguf*hqq | gguf*bnb4 | gguf*olive | gguf*atom | gguf*rptq) # no block holds it
            refuses "$method to $format" "$method" gguf:q4_0 native -- quantize -o "$out/a" --method "$method" --format $format $calib
            continue
            ;;
        native*rtn | native*gptq | native*awq) settings="--group-size 32" ;;
        native*owq) settings="--bits 4 --group-size 32" ;;
        native*squeezellm) settings="--bits 4" ;;
        native*olive) settings="--bits 8 --act-bits 8" ;;
        native*rptq) settings="--bits 8 --act-bits 8 --set clusters=2" ;; # few tokens: ranges of few channels miss much
        *) settings= ;;
        esac
        check "$method to $format" quantize -o "$out/a" --method "$method" --format $format $settings $calib --report "$work/r.json"
        near "$method to $format is the model" "$out/a" "$(limit 4)"
        clear_out
    done
done

echo "# activations, keys and values"
for settings in "--act-bits 8" "--act-bits 8 --set act_granularity=tensor --set act_static=true" "--set act_format=fp8" "--kv kivi:bits=4,residual_length=32" "--kv atom"; do
    check "rtn $settings" quantize -o "$out/a" --method rtn --format native --bits 8 $settings $calib
    near "rtn $settings is the model" "$out/a" "$(limit 4)"
    clear_out
done
check "act_bits with a method that knows nothing of it" quantize -o "$out/a" --method spqr --act-bits 8 --format native $calib
says "act_bits with a method that knows nothing of it: rtn gives them" "rtn:act_bits=8,spqr"
clear_out
refuses "kv in a file that says nothing of it" "kv is given" native -- quantize -o "$out/a.gguf" --method rtn --format gguf:q4_0 --kv kivi
check "kv of a native folder" quantize -o "$out/a" --method rtn --format native --bits 8 --kv kivi:bits=2,residual_length=32
check "the same weights" quantize -o "$out/b" --method rtn --format native --bits 8
evaluate "$out/a" --report "$work/a.json" >/dev/null 2>&1
evaluate "$out/b" --kv kivi:bits=2,residual_length=32 --report "$work/b.json" >/dev/null 2>&1
holds "$(number "$work/a.json" perplexity) == $(number "$work/b.json" perplexity)"
verdict $? "a folder's kv is that of eval"
clear_out
refuses "an unknown scheme" "kivy" kivi -- "$quant" eval "$model" --text "$data/calibration.txt" --kv kivy

echo "# bits"
last=1000
for bits in 2 3 4 8; do
    check "gptq to $bits bits" quantize -o "$out/$bits" --method gptq --format native --bits $bits --group-size 32 $calib
    near "$bits bits is the model" "$out/$bits" "$(limit $bits)"
    holds "$kl < $last"
    verdict $? "$bits bits lose less than fewer" "$kl"
    last=$kl
done
check "a native folder is a source" "$quant" quantize "$out/8" -o "$out/8.gguf" --method none --format gguf:f16 --progress none
near "its F16 is the model" "$out/8.gguf" "$(limit 8)"
clear_out

echo "# the same bytes"
for threads in 1 2 8; do
    check "gguf with $threads threads" quantize -o "$out/$threads.gguf" --format gguf:q4_0 $calib --threads $threads
    cmp -s "$out/1.gguf" "$out/$threads.gguf"
    verdict $? "$threads threads give the bytes of one (gguf)"
    check "native with $threads threads" quantize -o "$out/$threads" --format native $calib --threads $threads
    diff -r "$out/1" "$out/$threads" >/dev/null
    verdict $? "$threads threads give the bytes of one (native)"
    check "levels with $threads threads" quantize -o "$out/l$threads" --format native --method squeezellm $calib --threads $threads
    diff -r "$out/l1" "$out/l$threads" >/dev/null
    verdict $? "$threads threads give the bytes of one (squeezellm)"
done
QUANT_KERNELS=scalar
export QUANT_KERNELS
evaluate "$out/1.gguf" --report "$work/scalar.json" >/dev/null 2>&1
unset QUANT_KERNELS
evaluate "$out/1.gguf" --report "$work/eval.json" >/dev/null 2>&1
holds "($(number "$work/scalar.json" perplexity) / $(number "$work/eval.json" perplexity) - 1) ^ 2 < 1e-10"
verdict $? "scalar kernels give the same perplexity"
clear_out

echo "# plan, report, choice of tensors"
check "plan" "$quant" plan "$model" --format gguf:q4_0 $calib
says "plan: tensors and totals" "model.layers.0-3.mlp.down_proj.weight" "gptq" "bits per weight  4.5000" "4 windows of 64 tokens"
check "dry run" quantize -o "$out/a" --format gguf:q4_0 $calib --dry-run
is_empty "$out"
verdict $? "a dry run writes nothing"
check "run with a report" quantize -o "$out/a.gguf" --format gguf:q4_0 $calib --report "$work/report.json" --json
[ "$(cat "$work/stdout")" = "$(cat "$work/report.json")" ] && grep -q '"output_error"' "$work/report.json"
verdict $? "the report is what --json prints"
[ "$(number "$work/report.json" output_bytes)" -eq "$(wc -c <"$out/a.gguf")" ]
verdict $? "the planned size is the file's" "$(number "$work/report.json" output_bytes)"
check "force replaces" quantize -o "$out/a.gguf" --format gguf:q8_0 --method rtn --force
near "what replaced it is the model" "$out/a.gguf" "$(limit 8)"
check "layer overrides" quantize -o "$out/b" --format native --bits 3 --group-size 32 $calib --layer '*.down_proj.weight:bits=8'
check "inspect overrides" "$quant" inspect "$out/b" --json
bits=$(number "$work/stdout" bits_per_weight)
holds "$bits > 4.5 && $bits < 5" # a quarter has 8 bits, the others 3
verdict $? "down_proj has 8 bits, the others 3" "$bits"
check "exclude" "$quant" plan "$model" --format native --method rtn --exclude '*.mlp.*' --verbose
! grep 'mlp' "$work/stdout" | grep -q rtn && grep 'q_proj' "$work/stdout" | grep -q rtn
verdict $? "what is excluded is not quantized"
check "include" "$quant" plan "$model" --format native --method rtn --include 're:layers\.[01]\.' --verbose
! grep 'layers\.[23]' "$work/stdout" | grep -q rtn && grep 'layers\.1.*q_proj' "$work/stdout" | grep -q rtn
verdict $? "only what is included is quantized"
check "progress as JSON lines" "$quant" quantize "$model" -o "$out/c" --format gguf:q4_0 $calib --progress json
! grep -qv '^{"phase":".*}$' "$work/stderr" && grep -q '"share":1.0' "$work/stderr"
verdict $? "progress: every line an object, the last share 1"
clear_out

echo "# calibration files"
tr '\n"\\' '   ' <"$data/calibration.txt" | cut -c 1-4000 | tr -d '\n' >"$work/plain.txt"
{ printf '{"text": "'; cat "$work/plain.txt"; printf '", "other": 1}\n'; } >"$work/lines.jsonl"
for text in plain.txt lines.jsonl; do
    check "calibration by $text" quantize -o "$out/$text" --format gguf:q4_0 --calib "$work/$text" --samples 4 --seqlen 64
    check "evaluation by $text" "$quant" eval "$model" --text "$work/$text" --ctx 64 --progress none --report "$work/$text.json"
done
[ "$(number "$work/plain.txt.json" nll)" = "$(number "$work/lines.jsonl.json" nll)" ]
verdict $? "a text has the same perplexity plain and as JSON lines"
# A version 1.0 array of 256 little-endian 32-bit ids: magic, 118 bytes of description, ids.
printf '\223NUMPY\001\000\166\000%-117s\n' "{'descr': '<i4', 'fortran_order': False, 'shape': (256,), }" >"$work/ids.npy"
printf "$(awk 'BEGIN { for (i = 0; i < 256; i++) { id = 3 + i * 37 % 1000; printf "\\%03o\\%03o\\000\\000", id % 256, id / 256 } }')" >>"$work/ids.npy"
check "token ids (.npy)" quantize -o "$out/ids" --format gguf:q4_0 --calib "$work/ids.npy" --samples 4 --seqlen 64
check "all samples" quantize -o "$out/all" --format gguf:q4_0 --calib "$work/ids.npy" --samples all --seqlen 64
check "random windows" quantize -o "$out/random" --format gguf:q4_0 $calib --seed 7
check "random windows again" quantize -o "$out/again" --format gguf:q4_0 $calib --seed 7
cmp -s "$out/random" "$out/again"
verdict $? "the same seed gives the same bytes"
clear_out

# --- what it refuses ---

echo "# wrong options"
to="--progress none -o $out/a --format gguf:q4_0"
refuses "unknown command" quantise quantize -- "$quant" quantise
refuses "unknown option" --metod --method -- "$quant" quantize "$model" $to --metod rtn
refuses "unknown method" gptqq gptq -- "$quant" quantize "$model" $to --method gptqq
refuses "unknown format" gguf:q4_9 gguf:q4_0 -- "$quant" quantize "$model" -o "$out/a" --format gguf:q4_9
refuses "unknown parameter" bitz bits -- "$quant" quantize "$model" -o "$out/a" --format native --method rtn --set bitz=3
refuses "value out of range" "bits=99" "1 .. 16" -- "$quant" quantize "$model" -o "$out/a" --format native --method rtn --bits 99
refuses "value of another type" "bits=four" -- "$quant" quantize "$model" -o "$out/a" --format native --method rtn --set bits=four
refuses "bits with a gguf format" bits gguf:q4_0 -- "$quant" quantize "$model" $to --method rtn --bits 3
refuses "gptq without calibration" gptq --calib -- "$quant" quantize "$model" $to --method gptq
refuses "only converting to blocks" none gguf:q4_0 -- "$quant" quantize "$model" $to --method none
refuses "no output" --output -- "$quant" quantize "$model" --method rtn
refuses "layer override of nothing" '*.nothing' -- "$quant" quantize "$model" -o "$out/a" --format native --method rtn --layer '*.nothing:bits=8'
refuses "unknown protocol" wikitext -- evaluate "$model" --protocol wikitext

echo "# bad files"
copy=$work/copy
# copy_model: a copy to be damaged.
copy_model() {
    rm -rf "$copy"
    cp -R "$model" "$copy"
}
refuses "no model" "$work/nothing" -- "$quant" quantize "$work/nothing" $to --method rtn
copy_model
sed 's/"model_type": "[a-z]*"/"model_type": "nothingness"/; s/"Llama[A-Za-z]*"/"NothingnessForCausalLM"/' "$model/config.json" >"$copy/config.json"
refuses "unknown family" othingness lama -- "$quant" quantize "$copy" $to --method rtn
copy_model
head -c 100000 "$model/model.safetensors" >"$copy/model.safetensors"
refuses "truncated safetensors" model.safetensors offsets -- "$quant" quantize "$copy" $to --method rtn
head -c 5 "$model/model.safetensors" >"$copy/model.safetensors"
refuses "safetensors of 5 bytes" model.safetensors -- "$quant" quantize "$copy" $to --method rtn
rm "$copy/model.safetensors"
refuses "no safetensors" "$copy" safetensors -- "$quant" quantize "$copy" $to --method rtn
copy_model
rm "$copy/tokenizer.json"
refuses "no tokenizer" tokenizer -- "$quant" quantize "$copy" $to $calib
copy_model
head -c 300 "$model/config.json" >"$copy/config.json"
refuses "truncated config" config.json -- "$quant" quantize "$copy" $to --method rtn
quantize -o "$work/whole.gguf" --method none --format gguf:f16 >/dev/null 2>&1
for bytes in 3 20 2000 100000; do
    head -c $bytes "$work/whole.gguf" >"$work/cut.gguf"
    refuses "gguf of $bytes bytes" cut.gguf -- "$quant" quantize "$work/cut.gguf" $to --method rtn
done
refuses "no calibration file" nothing.txt -- "$quant" quantize "$model" $to --calib "$work/nothing.txt"
: >"$work/empty.txt"
refuses "empty calibration file" empty.txt -- "$quant" quantize "$model" $to --calib "$work/empty.txt"
refuses "text too short" plain.txt 64 8192 -- "$quant" quantize "$model" $to --calib "$work/plain.txt" --samples 64 --seqlen 128
refuses "windows too long" 100000 512 -- "$quant" quantize "$model" $to --calib "$data/calibration.txt" --seqlen 100000
echo "Too short." >"$work/short.txt"
refuses "evaluation text too short" "1024 or more" -- "$quant" eval "$model" --text "$work/short.txt" --ctx 512
head -c 300 "$work/ids.npy" >"$work/cut.npy"
refuses "truncated .npy" cut.npy -- "$quant" quantize "$model" $to --calib "$work/cut.npy" --samples 1 --seqlen 16
echo '{"txt": "x"}' >"$work/wrong.jsonl"
refuses "JSON lines without text" wrong.jsonl text -- "$quant" quantize "$model" $to --calib "$work/wrong.jsonl"

echo "# bad outputs"
copy_model
refuses "output is the source" "$copy" source -- "$quant" quantize "$copy" -o "$copy" --format gguf:q4_0 --method rtn --force
refuses "output is a file of the source" model.safetensors -- "$quant" quantize "$copy" -o "$copy/model.safetensors" --format gguf:q4_0 --method rtn --force
ln -s "$copy" "$work/link"
refuses "output is the source by a link" link source -- "$quant" quantize "$copy" -o "$work/link" --format native --method rtn --force
cp "$work/whole.gguf" "$work/same.gguf"
refuses "a gguf onto itself" same.gguf -- "$quant" quantize "$work/same.gguf" -o "$work/./same.gguf" --format gguf:q4_0 --method rtn --force
diff -r "$model" "$copy" >/dev/null && cmp -s "$work/whole.gguf" "$work/same.gguf"
verdict $? "the sources are untouched"
echo "mine" >"$work/there"
refuses "output is there" there --force -- "$quant" quantize "$model" -o "$work/there" --format gguf:q4_0 --method rtn
[ "$(cat "$work/there")" = mine ]
verdict $? "what was there is untouched"
refuses "output in no folder" nowhere -- "$quant" quantize "$model" -o "$out/nowhere/a" --format gguf:q4_0 --method rtn
refuses "output below a file" there/a -- "$quant" quantize "$model" -o "$work/there/a" --format gguf:q4_0 --method rtn
mkdir "$work/closed"
chmod a-w "$work/closed"
if [ "$(id -u)" -eq 0 ]; then
    echo "skipped: a folder without write permission (root may write everywhere)"
else
    refuses "output in a closed folder" closed -- "$quant" quantize "$model" -o "$work/closed/a" --format gguf:q4_0 --method rtn
fi
if [ -w /dev/full ]; then
    "$quant" formats >/dev/full 2>"$work/stderr"
    [ $? -eq 1 ] && grep -q "standard output" "$work/stderr"
    verdict $? "a full standard output"
fi

for blocks in 1 200 2000; do
    for format in gguf:q4_0 native; do
        refuses "a full disk after $blocks blocks ($format)" "cannot write" bytes -- within $blocks "$quant" quantize "$model" -o "$out/a" --format $format --method rtn --progress none --work "$work/full-$blocks-$format"
    done
done

echo "# interruption"
# interrupted FORMAT: SIGINT as soon as the first block is in hand.
interrupted() {
    interrupt '"phase":"quantize"' "$quant" quantize "$model" -o "$out/a" --format "$1" --calib "$data/calibration.txt" --samples 128 --seqlen 256 --progress json
    [ $status -eq 130 ]
    verdict $? "SIGINT ends $1 with 130" "exit status $status"
    is_empty "$out"
    verdict $? "SIGINT leaves nothing of $1" "$(ls -A "$out")"
    clear_out
}
interrupted gguf:q4_0
interrupted native

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
