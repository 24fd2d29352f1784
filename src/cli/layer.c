/*
 * layer.c - `quant layer`: one linear layer in a safetensors file through a recipe, for research and golden data.
 *
 * In: weight (out, in); optional bias, input (tokens, in), input_fp (the same
 * tokens in the unquantized model), importance (in), fisher (out, in),
 * norm_weight (in). Out: dequantized, output on the input, every part the method left; packed, as the
 * format's files hold it, for a format with a layout for one layer: packed for
 * rows of blocks, packed.qweight and so on where there are several tensors.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "cli/cli.h"

struct layer_values {
    struct cli_common common;
    struct cli_recipe recipe;
    const char *output, *report;
};

static const struct cli_option files[] = {
    {.name = "output", .letter = 'o', .required = true, .type = CLI_TEXT,
     .offset = offsetof(struct layer_values, output), .metavar = "FILE", .help = "the result, a safetensors file"},
    CLI_ROW(struct layer_values, report, TEXT, "report", "FILE.json", "bits, errors and warnings as a file"),
};

static const struct cli_group groups[] = {
    CLI_GROUP("files", files, 0),
    CLI_RECIPE(offsetof(struct layer_values, recipe)),
    CLI_WORK,
    {0},
};

/* One run. Vectors are the context's, results the tool's. */
struct layer_run {
    struct cli *cli;
    const struct layer_values *values;
    const char *path;
    qnt_tensors *file;
    qnt_matrix weight, input, input_fp;
    bool has_input, has_input_fp;
    float *bias, *importance, *fisher, *norm_weight, *input_scale, *weight_scale;
    qnt_recipe *recipe;
    qnt_calib *calib;
    qnt_qlinear *q;
    qnt_part *parts;             /* [part_count] */
    qnt_tensor *tensors;         /* [tensor_count] what is written */
    size_t part_count, tensor_count;
    void *dequantized, *output, *packed;
    char packed_names[QNT_MOST_PACKED_TENSORS][64];
    uint8_t *kept;               /* [in] columns that this batch keeps out */
    int32_t *columns;            /* their numbers */
};

/* A matrix if it is there. */
static int read_matrix(struct layer_run *run, const char *name, qnt_matrix *matrix, bool *there)
{
    qnt_tensor tensor;
    *there = qnt_tensors_find(run->file, name, &tensor);
    return *there ? cli_try(run->cli, qnt_tensors_matrix(run->file, name, matrix)) : CLI_OK;
}

/* A tensor of `wanted` numbers if it is there. */
static int read_vector(struct layer_run *run, const char *name, size_t wanted, float **values)
{
    qnt_tensor tensor;
    size_t count = 0;
    if (!qnt_tensors_find(run->file, name, &tensor))
        return CLI_OK;
    CLI_TRY(cli_try(run->cli, qnt_tensors_f32(run->file, name, values, &count)));
    if (count == wanted)
        return CLI_OK;
    cli_error("%s: tensor \"%s\" has %zu numbers, the weight needs %zu", run->path, name, count, wanted);
    return CLI_FAILED;
}

static int read_layer(struct layer_run *run)
{
    CLI_TRY(cli_try(run->cli, qnt_tensors_open(run->cli->ctx, run->path, &run->file)));
    CLI_TRY(cli_try(run->cli, qnt_tensors_matrix(run->file, "weight", &run->weight)));
    CLI_TRY(read_matrix(run, "input", &run->input, &run->has_input));
    CLI_TRY(read_matrix(run, "input_fp", &run->input_fp, &run->has_input_fp));
    CLI_TRY(read_vector(run, "bias", run->weight.rows, &run->bias));
    CLI_TRY(read_vector(run, "fisher", run->weight.rows * run->weight.cols, &run->fisher));
    CLI_TRY(read_vector(run, "norm_weight", run->weight.cols, &run->norm_weight));
    CLI_TRY(read_vector(run, "input_scale", 1, &run->input_scale));
    CLI_TRY(read_vector(run, "weight_scale", run->weight.rows, &run->weight_scale));
    return read_vector(run, "importance", run->weight.cols, &run->importance);
}

static int open_recipe(struct layer_run *run)
{
    const struct cli_recipe *r = &run->values->recipe;
    const char *method = r->method ? r->method : run->has_input ? "gptq" : "rtn";
    CLI_TRY(cli_recipe_open(run->cli, method, &r->settings, &run->recipe));
    if (qnt_recipe_needs_calibration(run->recipe) && !run->has_input) {
        cli_error("recipe %s needs calibration data, but %s has no tensor \"input\"", qnt_recipe_text(run->recipe),
                  run->path);
        return CLI_FAILED;
    }
    if (qnt_recipe_needs_pairs(run->recipe) && !run->has_input_fp) {
        cli_error("recipe %s needs pairs of inputs, but %s has no tensor \"input_fp\"", qnt_recipe_text(run->recipe),
                  run->path);
        return CLI_FAILED;
    }
    return CLI_OK;
}

static int calibrate(struct layer_run *run)
{
    qnt_context *ctx = run->cli->ctx;
    if (!run->has_input && !run->importance)
        return CLI_OK;
    CLI_TRY(cli_try(run->cli, qnt_calib_create(ctx, run->recipe, run->weight.cols, &run->calib)));
    if (run->importance)
        CLI_TRY(cli_try(run->cli, qnt_calib_set_importance(run->calib, run->importance)));
    if (!run->has_input)
        return CLI_OK;
    if (qnt_recipe_needs_pairs(run->recipe))
        return cli_try(run->cli, qnt_calib_add_pair(run->calib, run->input, run->input_fp));
    return cli_try(run->cli, qnt_calib_add(run->calib, run->input));
}

static int quantize(struct layer_run *run)
{
    const char *slash = strrchr(run->path, '/');
    qnt_layer layer = {.name = slash ? slash + 1 : run->path,
                       .weight = run->weight,
                       .bias = run->bias,
                       .calib = run->calib,
                       .fisher = run->fisher,
                       .norm_weight = run->norm_weight,
                       .input_scale = run->input_scale ? run->input_scale[0] : 0,
                       .weight_scale = run->weight_scale,
                       .weight_scale_count = run->weight_scale ? run->weight.rows : 0,
                       .format = run->values->recipe.format};
    return cli_try(run->cli, qnt_quantize(run->cli->ctx, run->recipe, &layer, &run->q));
}

static void add_tensor(struct layer_run *run, const char *name, qnt_dtype dtype, size_t rows, size_t cols, size_t rank,
                       const void *data)
{
#define NAME(name, value, bytes) [QNT_##name] = #name,
#define BYTES(name, value, bytes) [QNT_##name] = bytes,
    static const char *const names[] = {QNT_DTYPE_MAP(NAME)};
    static const size_t bytes[] = {QNT_DTYPE_MAP(BYTES)};
#undef NAME
#undef BYTES
    qnt_tensor *t = &run->tensors[run->tensor_count++];
    *t = (qnt_tensor){.name = name, .dtype = names[dtype], .rank = rank, .shape = {rows, cols}, .data = data};
    t->bytes = rows * (rank > 1 ? cols : 1) * bytes[dtype];
}

static int collect_weights(struct layer_run *run)
{
    size_t out = run->weight.rows, in = run->weight.cols, tokens = run->input.rows;
    run->dequantized = cli_new(out, in * sizeof(float));
    add_tensor(run, "dequantized", QNT_F32, out, in, 2, run->dequantized);
    if (!run->has_input)
        return cli_try(run->cli, qnt_dequantize(run->q, run->dequantized));
    run->kept = cli_new(in, 1);
    CLI_TRY(cli_try(run->cli, qnt_dequantize_batch(run->q, run->input, run->dequantized, run->kept)));
    run->output = cli_new(tokens, out * sizeof(float));
    CLI_TRY(cli_try(run->cli, qnt_forward(run->q, run->input, run->output)));
    add_tensor(run, "output", QNT_F32, tokens, out, 2, run->output);
    return CLI_OK;
}

static int collect_parts(struct layer_run *run)
{
    const char *name;
    for (size_t i = 0; (name = qnt_part_name(i)) != NULL; i++) {
        qnt_part *part = &run->parts[run->part_count];
        qnt_status status = qnt_qlinear_part(run->q, name, part);
        if (status == QNT_NOT_FOUND)
            continue;
        CLI_TRY(cli_try(run->cli, status));
        run->part_count++;
        add_tensor(run, name, part->dtype, part->shape[0], part->shape[1], part->rank, part->data);
    }
    return CLI_OK;
}

/* Columns that a threshold of the activations left out in this batch, where the layer keeps none of its own. */
static void collect_batch_columns(struct layer_run *run)
{
    size_t in = run->weight.cols, count = 0;
    for (size_t i = 0; i < run->part_count; i++)
        if (strcmp(run->parts[i].name, "kept_columns") == 0)
            return;
    if (!run->has_input || !qnt_qlinear_chooses_columns(run->q))
        return;
    run->columns = cli_new(in, sizeof *run->columns);
    for (size_t c = 0; c < in; c++)
        if (run->kept[c])
            run->columns[count++] = (int32_t)c;
    add_tensor(run, "kept_columns", QNT_I32, count, 1, 1, run->columns);
}

static bool has_layout(const char *format)
{
    qnt_layout_info info;
    for (size_t i = 0; format && qnt_layout_get(i, &info); i++)
        if (strcasecmp(info.name, format) == 0)
            return info.packs;
    return false;
}

static int collect_packed(struct layer_run *run)
{
    const char *format = run->values->recipe.format;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    if (!has_layout(format))
        return CLI_OK;
    CLI_TRY(cli_try(run->cli, qnt_packed_tensors(run->q, format, tensors, &count, &bytes)));
    run->packed = cli_new(bytes, 1);
    CLI_TRY(cli_try(run->cli, qnt_pack(run->q, format, run->packed, bytes)));
    for (size_t i = 0; i < count; i++) {
        const qnt_packed_tensor *t = &tensors[i];
        snprintf(run->packed_names[i], sizeof run->packed_names[i], count == 1 ? "packed" : "packed.%s", t->name);
        add_tensor(run, run->packed_names[i], t->dtype, t->shape[0], t->shape[1], t->rank,
                   (const uint8_t *)run->packed + t->offset);
    }
    return CLI_OK;
}

static int write_result(struct layer_run *run)
{
    enum { BESIDE_PARTS = 3 + QNT_MOST_PACKED_TENSORS };
    size_t names = 0;
    while (qnt_part_name(names))
        names++;
    run->parts = cli_new(names, sizeof *run->parts);
    run->tensors = cli_new(names + BESIDE_PARTS, sizeof *run->tensors);
    CLI_TRY(collect_weights(run));
    CLI_TRY(collect_parts(run));
    collect_batch_columns(run);
    CLI_TRY(collect_packed(run));
    return cli_try(run->cli,
                   qnt_tensors_write(run->cli->ctx, run->values->output, run->tensors, run->tensor_count));
}

static json_t *lines_json(const char *text)
{
    json_t *list = json_array();
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (n)
            json_array_append_new(list, json_stringn(text, n));
        text += n + (text[n] == '\n');
    }
    return list;
}

/* clang-format off: a key and its value a line */
static json_t *report_json(const struct layer_run *run, const qnt_layer_report *r)
{
    return json_pack("{s:s,s:s,s:s,s:I,s:I,s:s,s:s?,s:f,s:o,s:o,s:o,s:I,s:I,s:I,s:f,s:s*,s:o}",
                     "version", qnt_version(),
                     "layer", run->path,
                     "output", run->values->output,
                     "out", (json_int_t)run->weight.rows,
                     "in", (json_int_t)run->weight.cols,
                     "recipe", qnt_recipe_text(run->recipe),
                     "format", run->values->recipe.format,
                     "bits_per_weight", r->bits_per_weight,
                     "weight_error", cli_json_number(r->weight_error),
                     "output_error", cli_json_number(r->output_error),
                     "damping", cli_json_number(r->damping),
                     "tokens", (json_int_t)r->tokens,
                     "skipped_tokens", (json_int_t)r->skipped_tokens,
                     "dead_columns", (json_int_t)r->dead_columns,
                     "seconds", r->seconds,
                     "activations", r->activations[0] ? r->activations : NULL,
                     "warnings", lines_json(r->warnings));
}
/* clang-format on */

static void print_report(const struct layer_run *run, const qnt_layer_report *r)
{
    const char *format = run->values->recipe.format;
    printf("layer            %s, %zu x %zu\n", run->path, run->weight.rows, run->weight.cols);
    printf("recipe           %s\n", qnt_recipe_text(run->recipe));
    if (format)
        printf("format           %s\n", format);
    printf("bits per weight  %.4f\n", r->bits_per_weight);
    if (r->activations[0])
        printf("activations      %s\n", r->activations);
    printf("weight error     %.6g   |W - Q|^2 / |W|^2\n", r->weight_error);
    if (!isnan(r->output_error))
        printf("output error     %.6g   of the calibration outputs, relative square\n", r->output_error);
    if (r->tokens)
        printf("tokens           %zu\n", r->tokens);
    if (r->dead_columns)
        printf("dead columns     %zu\n", r->dead_columns);
    printf("written          %s\n", run->values->output);
}

static int report(struct layer_run *run)
{
    qnt_layer_report r = {0};
    json_t *json;
    int code;
    CLI_TRY(cli_try(run->cli, qnt_report(run->q, &r)));
    json = report_json(run, &r);
    code = cli_report_write(run->cli, run->values->report, json);
    if (code == CLI_OK && run->cli->common->json)
        return cli_json_print(json);
    json_decref(json);
    if (code == CLI_OK)
        print_report(run, &r);
    return code;
}

/* Before anything is read: the output must be writable and not the source. */
static int check_files(const struct layer_run *run)
{
    struct stat source, target;
    CLI_TRY(cli_output_check(run->values->output));
    CLI_TRY(cli_report_check(run->values->report));
    if (stat(run->path, &source) != 0 || stat(run->values->output, &target) != 0 ||
        source.st_dev != target.st_dev || source.st_ino != target.st_ino)
        return CLI_OK;
    cli_error("%s is the source and cannot be the result", run->values->output);
    return CLI_USAGE;
}

static int run_steps(struct layer_run *run)
{
    CLI_TRY(check_files(run));
    CLI_TRY(read_layer(run));
    CLI_TRY(open_recipe(run));
    CLI_TRY(calibrate(run));
    CLI_TRY(quantize(run));
    CLI_TRY(write_result(run));
    return report(run);
}

static int run_layer(struct cli *cli, void *values)
{
    struct layer_run run = {.cli = cli, .values = values, .path = cli->arguments.items[0]};
    int code = run_steps(&run);
    for (size_t i = 0; i < run.part_count; i++)
        qnt_part_free(&run.parts[i]);
    free(run.parts);
    free(run.tensors);
    free(run.dequantized);
    free(run.output);
    free(run.packed);
    free(run.kept);
    free(run.columns);
    qnt_qlinear_destroy(run.q);
    qnt_calib_destroy(run.calib);
    qnt_recipe_destroy(run.recipe);
    qnt_free(cli->ctx, run.bias);
    qnt_free(cli->ctx, run.importance);
    qnt_free(cli->ctx, run.fisher);
    qnt_free(cli->ctx, run.norm_weight);
    qnt_free(cli->ctx, run.input_scale);
    qnt_free(cli->ctx, run.weight_scale);
    qnt_tensors_close(run.file);
    return code;
}

const struct cli_command cli_command_layer = {
    .name = "layer",
    .arguments = "LAYER.safetensors -o RESULT.safetensors",
    .title = "quantizes one layer, for research",
    .about = "LAYER holds weight (out, in) and, where it has them, bias, input (tokens, in), input_fp (the same tokens "
             "in the unquantized model), importance (in), fisher (out, in; mean squared gradients), norm_weight "
             "(in; of the norm that makes the input), input_scale (1) and weight_scale (out), which "
             "stand in place of what the recipe would choose. RESULT gets dequantized, output (of the quantized "
             "layer on input), every part of the quantized layer (codes, scales, ...) and what the "
             "format's files hold of a layer: packed (rows of blocks), or packed.qweight and so on.",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct layer_values),
    .groups = groups,
    .run = run_layer,
};
