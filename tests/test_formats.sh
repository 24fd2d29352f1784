#!/bin/sh
# Formats of engines from end to end: GPTQ, AWQ, bitsandbytes and compressed-tensors folders, written, read back, repacked from native, and refused.
#
#     sh tests/test_formats.sh build/bin/quant
#
# One line a check, `N passed, N failed` at the end; exit status 0 if none failed.

. "$(dirname "$0")/checks.sh"

# same NAME A B: two models of one perplexity, but for norms that one of them stores as f16.
same() {
    evaluate "$2" --report "$work/a.json" >/dev/null 2>&1
    evaluate "$3" --report "$work/b.json" >/dev/null 2>&1
    a=$(number "$work/a.json" nll)
    b=$(number "$work/b.json" nll)
    [ -n "$a" ] && holds "($a - $b) ^ 2 < 1e-12"
    verdict $? "$1" "$a and $b"
}

# has NAME FILE TEXT...
has() {
    name=$1
    file=$2
    shift 2
    for text; do
        grep -qF -e "$text" "$file" || { verdict 1 "$name" "no $text in $file"; return; }
    done
    verdict 0 "$name"
}

echo "# widths, versions, groups"
for bits in 2 3 4 8; do
    for sym in true false; do
        check "gptq, $bits bits, sym=$sym" quantize -o "$out/g" --method rtn --format gptq --bits $bits --group-size 32 --set sym=$sym
        near "gptq, $bits bits, sym=$sym is the model" "$out/g" "$(limit $bits)"
        case $sym in true) version=gptq ;; *) version=gptq_v2 ;; esac
        has "gptq, $bits bits, sym=$sym says its version" "$out/g/config.json" "\"checkpoint_format\": \"$version\"" "\"bits\": $bits"
        clear_out
    done
done
for order in "act_order=true" "act_order=true --set static_groups=true"; do
    for format in gptq awq; do
        check "$format with $order" quantize -o "$out/g" --method gptq --format $format --group-size 64 --set $order $calib
        near "$format with $order is the model" "$out/g" "$(limit 4)"
        clear_out
    done
done
check "gptq with a shorter last group" quantize -o "$out/g" --method rtn --format gptq --group-size 96
near "gptq with a shorter last group is the model" "$out/g" "$(limit 4)"
clear_out

echo "# bitsandbytes"
for recipe in bnb4 bnb4:format=fp4 bnb4:double_quant=true,block_size=32; do
    check "bnb, $recipe" quantize -o "$out/g" --method $recipe --format bnb
    near "bnb, $recipe is the model" "$out/g" "$(limit 4)"
    has "bnb, $recipe says what it is" "$out/g/config.json" '"quant_method": "bitsandbytes"' '"load_in_4bit": true' '"llm_int8_skip_modules": null'
    clear_out
done
check "bnb, llm_int8" quantize -o "$out/g" --method llm_int8 --format bnb
near "bnb, llm_int8 is the model" "$out/g" "$(limit 8)"
has "bnb, llm_int8 says what it is" "$out/g/config.json" '"load_in_8bit": true' '"llm_int8_threshold": 6.0'
clear_out
check "bnb without a recipe" quantize -o "$out/g" --format bnb
has "bnb without a recipe is nf4" "$out/g/config.json" '"bnb_4bit_quant_type": "nf4"'
clear_out
check "bnb and a layer that stays float" quantize -o "$out/g" --format bnb --exclude '*.0.mlp.up_proj.weight'
near "bnb and a layer that stays float is the model" "$out/g" "$(limit 4)"
has "the layer is named" "$out/g/config.json" '"model.layers.0.mlp.up_proj"' '"lm_head"'
clear_out

echo "# the folder"
check "side files" quantize -o "$out/g" --method rtn --format gptq --group-size 32
for file in "$model"/*; do
    case $file in */config.json | *.safetensors) continue ;; esac
    cmp -s "$file" "$out/g/${file##*/}"
    verdict $? "${file##*/} is copied"
done
has "quantize_config.json" "$out/g/quantize_config.json" '"desc_act": false' '"quant_method": "gptq"'
check "inspect" "$quant" inspect "$out/g"
says "inspect: the kind" "GPTQ folder" "4.5000 of the blocks"
for threads in 1 2 8; do
    for format in gptq awq; do
        check "$format with $threads threads" quantize -o "$out/$format-$threads" --method gptq --format $format --group-size 64 $calib --threads $threads
        diff -r "$out/$format-1" "$out/$format-$threads" >/dev/null
        verdict $? "$threads threads give the bytes of one ($format)"
    done
done
check "shards" quantize -o "$out/s" --method rtn --format gptq --group-size 32 --shard-size 700K
[ "$(ls "$out"/s/model-0000?-of-0000?.safetensors | wc -l)" -gt 2 ] && [ -f "$out/s/model.safetensors.index.json" ]
verdict $? "shards: files and their index" "$(ls "$out/s")"
same "shards hold the model" "$out/s" "$out/g"
clear_out

echo "# configurations of others"
mkdir "$work/links" "$work/store"
for file in "$model"/*; do
    cp "$file" "$work/store/${file##*/}.blob"
    ln -s "../store/${file##*/}.blob" "$work/links/${file##*/}"
done
check "a folder of links" "$quant" quantize "$work/links" -o "$out/g" --method rtn --format awq --group-size 32 --progress none
[ -z "$(find "$out/g" -type l)" ] && cmp -s "$model/tokenizer.json" "$out/g/tokenizer.json"
verdict $? "a folder of links becomes files"
clear_out
cp -r "$model" "$work/newer"
sed 's/"torch_dtype"/"dtype"/; s/"rope_theta": 10000.0/"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}/; /"rope_scaling"/d' \
    "$model/config.json" >"$work/newer/config.json"
check "newer keys" "$quant" quantize "$work/newer" -o "$out/g" --method rtn --format gptq --group-size 32 --progress none
has "newer keys are kept" "$out/g/config.json" '"rope_parameters"' '"rope_theta": 10000.0' '"dtype": "float16"'
! grep -q torch_dtype "$out/g/config.json"
verdict $? "newer keys: no older ones beside them"
check "the same with older keys" quantize -o "$out/h" --method rtn --format gptq --group-size 32
same "newer keys mean the same model" "$out/g" "$out/h"
clear_out

echo "# native to others, exactly"
for case in "gptq true" "gptq:v2 true" "gptq false" "awq false" "awq true"; do
    format=${case% *}
    sym=${case#* }
    check "native, sym=$sym" quantize -o "$out/n" --method rtn --format native --bits 4 --group-size 32 --set sym=$sym
    check "native, sym=$sym, to $format" "$quant" quantize "$out/n" -o "$out/g" --method none --format "$format" --progress none
    same "native, sym=$sym, is the same in $format" "$out/n" "$out/g"
    check "$format, sym=$sym, back to native" "$quant" quantize "$out/g" -o "$out/m" --method none --format native --progress none
    same "$format, sym=$sym, is the same in native" "$out/m" "$out/g"
    clear_out
done
for recipe in bnb4:double_quant=true bnb4:format=fp4 llm_int8; do
    check "native, $recipe" quantize -o "$out/n" --method $recipe --format native
    check "native, $recipe, to bnb" "$quant" quantize "$out/n" -o "$out/g" --method none --format bnb --progress none
    same "native, $recipe, is the same in bnb" "$out/n" "$out/g"
    check "bnb, $recipe, back to native" "$quant" quantize "$out/g" -o "$out/m" --method none --format native --progress none
    same "bnb, $recipe, is the same in native" "$out/m" "$out/g"
    clear_out
done
check "native, 5 bits" quantize -o "$work/five" --method rtn --format native --bits 5 --group-size 32
refuses "5 bits to gptq" gptq q_proj native -- "$quant" quantize "$work/five" -o "$out/g" --method none --format gptq --progress none
check "gptq to quantize again" quantize -o "$work/packed" --method rtn --format gptq --group-size 32
refuses "a quantized source" "quantized already" requantize -- "$quant" quantize "$work/packed" -o "$out/g" --method rtn --format awq --group-size 32
check "requantize" "$quant" quantize "$work/packed" -o "$out/g" --method rtn --format awq --group-size 32 --requantize --progress none
near "what was requantized is the model" "$out/g" "$(limit 3)"
clear_out
check "a GPTQ folder to floats" "$quant" quantize "$work/packed" -o "$out/g.gguf" --method none --format gguf:f32 --progress none
! grep -qF "bits per weight" "$work/stdout"
verdict $? "floats have no bits of quantized weights"
near "its F32 is the model" "$out/g.gguf" "$(limit 4)"
clear_out

echo "# compressed-tensors"
ct=compressed-tensors
# variant, bits of which the limit is (6 with quantized inputs), arguments
for case in ":w4a16 4 --group-size 32 $calib" ":w8a16 8" ":w8a8 6 $calib" ":w8a8 6 --method smoothquant $calib" ":fp8 6 $calib" \
    ":fp8-dynamic 6" ":nvfp4a16 4 $calib" ":mxfp4a16 4 $calib" " 3 --method rtn --bits 3 --group-size 32 --set sym=false"; do
    variant=${case%% *} rest=${case#* }
    bits=${rest%% *} rest=${rest#"$bits"}
    check "$ct$variant" quantize -o "$out/c" --format $ct$variant $rest
    near "$ct$variant is the model" "$out/c" "$(limit $bits)"
    has "$ct$variant says so" "$out/c/config.json" '"quant_method": "compressed-tensors"' '"quantization_status": "compressed"'
    check "inspect $ct$variant" "$quant" inspect "$out/c"
    says "inspect $ct$variant" "$ct folder"
    clear_out
done
for settings in "--bits 4 --group-size 32 --set sym=true" "--bits 6 --group-size 0"; do
    check "native, $settings" quantize -o "$out/n" --method rtn --format native $settings
    check "native to $ct, $settings" "$quant" quantize "$out/n" -o "$out/c" --method none --format $ct
    same "native to $ct, $settings: the same model" "$out/n" "$out/c"
    check "$ct, $settings, back to native" "$quant" quantize "$out/c" -o "$out/m" --method none --format native
    same "$ct, $settings, back to native: the same model" "$out/m" "$out/c"
    clear_out
done
check "int8 to native" quantize -o "$work/int8" --method smoothquant --format native $calib
check "native to $ct:w8a8" "$quant" quantize "$work/int8" -o "$out/c" --method none --format $ct:w8a8
has "native to $ct:w8a8: inputs by tokens" "$out/c/config.json" '"strategy": "token"' '"dynamic": true' int-quantized
clear_out
refuses "quantized inputs where only weights are" activation $ct:w8a16 native -- "$quant" quantize "$work/int8" -o "$out/c" --method none --format $ct:w8a16
refuses "static inputs without calibration" "calibration text" -- quantize -o "$out/c" --method rtn --format $ct:fp8
refuses "bits where the grid is prescribed" bits $ct:nvfp4a16 -- quantize -o "$out/c" --method rtn --format $ct:nvfp4a16 --bits 3
refuses "joined layers that differ" up_proj gate_proj alike -- quantize -o "$out/c" --method rtn --format $ct --layer '*.up_proj.weight:bits=8'
refuses "a joined layer that stays float" v_proj q_proj alike -- quantize -o "$out/c" --method rtn --format $ct --exclude '*.v_proj.weight'
refuses "runs of levels" squeezellm $ct native -- quantize -o "$out/c" --method squeezellm --format $ct $calib

echo "# one layer"
layer=$(dirname "$0")/golden/layer/medium.safetensors
for format in gptq gptq:v1 gptq:v2 awq; do
    check "a layer as $format" "$quant" layer "$layer" -o "$work/l.safetensors" --method rtn --format $format --group-size 32
    has "a layer as $format has its tensors" "$work/l.safetensors" packed.qweight packed.qzeros packed.scales
done
for format in $ct $ct:w8a8 $ct:fp8-dynamic $ct:nvfp4a16 $ct:mxfp4; do
    check "a layer as $format" "$quant" layer "$layer" -o "$work/l.safetensors" --method rtn --format $format
    has "a layer as $format has its tensors" "$work/l.safetensors" packed.weight packed.weight_scale
done
check "a layer as bnb" "$quant" layer "$layer" -o "$work/l.safetensors" --method bnb4 --format bnb --set double_quant=true
has "a layer as bnb has its tensors" "$work/l.safetensors" packed.weight.absmax packed.weight.nested_quant_map packed.weight.quant_state.bitsandbytes__nf4 '"absmax_codes"' '"nested_offset"'
check "a layer as blocks" "$quant" layer "$layer" -o "$work/l.safetensors" --method rtn --format gguf:q4_0
has "a layer as blocks has them" "$work/l.safetensors" '"packed"'
check "a layer as native" "$quant" layer "$layer" -o "$work/l.safetensors" --method rtn --format native
! grep -q packed "$work/l.safetensors"
verdict $? "a layer as native has nothing packed"

echo "# refusals"
refuses "bits that gptq has not" bits=5 gptq native -- quantize -o "$out/g" --method rtn --format gptq --bits 5
refuses "bits that awq has not" bits=3 awq gptq native -- quantize -o "$out/g" --method rtn --format awq --bits 3
refuses "a method that bnb has not" rtn bnb4 llm_int8 native -- quantize -o "$out/g" --method rtn --format bnb
refuses "bnb4 in gptq" bnb4 gptq native -- quantize -o "$out/g" --method bnb4 --format gptq
refuses "hqq in awq" hqq awq native -- quantize -o "$out/g" --method hqq --format awq
refuses "easyquant in blocks" easyquant gguf:q4_0 native -- quantize -o "$out/g" --method easyquant --format gguf:q4_0
refuses "a copy of the weights in bnb" outlier_weights=fp16 bnb native -- quantize -o "$out/g" --method llm_int8 --set outlier_weights=fp16 --format bnb
refuses "one scale for a tensor" per_tensor gptq native -- quantize -o "$out/g" --method rtn --format gptq --set per_tensor=true
refuses "groups that divide nothing" awq "no quantized layer" groups -- quantize -o "$out/g" --method rtn --format awq --group-size 100
refuses "groups that differ from layer to layer" "one group size" down_proj gptq native -- quantize -o "$out/g" --method rtn --format awq --group-size 64 --layer '*.down_proj.weight:group_size=32'
refuses "an output type" --output-type gptq gguf -- quantize -o "$out/g" --method rtn --format gptq --output-type q8_0
check "a GGUF" quantize -o "$work/f16.gguf" --method none --format gguf:f16
refuses "a GGUF as a source of a folder" "needs a folder" awq -- "$quant" quantize "$work/f16.gguf" -o "$out/g" --method rtn --format awq
check "groups that divide some layers only" "$quant" plan "$model" --method rtn --format awq --group-size 192 --verbose
says "groups that divide some layers only: the others stay float" "the groups do not divide the columns"
refuses "the same with --strict" strict groups -- quantize -o "$out/g" --method rtn --format awq --group-size 192 --strict

echo "# damaged folders"
# edit NAME EXPRESSION: $work/bad, the packed folder with its configuration changed by sed.
edit() {
    rm -rf "$work/bad"
    cp -r "$work/packed" "$work/bad"
    sed -i "$1" "$work/bad/config.json"
}
for key in marlin gptq_p bitblas; do
    edit "s/\"checkpoint_format\": \"gptq\"/\"checkpoint_format\": \"$key\"/"
    refuses "checkpoint_format $key" "$key" "quantized already" -- evaluate "$work/bad"
done
edit 's/"bits": 4/"bits": 8/'
refuses "bits that contradict the tensors" "8" q_proj -- evaluate "$work/bad"
edit 's/"quant_method": "gptq"/"quant_method": "awq"/'
refuses "another method's configuration" gemm "quantized already" -- evaluate "$work/bad"
edit 's/"quant_method": "gptq"/"quant_method": 7/'
refuses "a method that is no string" quant_method -- evaluate "$work/bad"
edit 's/"group_size": 32/"group_size": -7/'
refuses "a group size that is none" group_size -- evaluate "$work/bad"
cp "$work/packed/config.json" "$work/bad/config.json"
for bytes in 100 5000 1000000; do
    head -c $bytes "$work/packed/model.safetensors" >"$work/bad/model.safetensors"
    refuses "a file cut after $bytes bytes" model.safetensors -- evaluate "$work/bad"
    refuses "a file cut after $bytes bytes as a source" model.safetensors -- "$quant" quantize "$work/bad" -o "$out/g" --method none --format native
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
