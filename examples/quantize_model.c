/*
 * quantize_model.c - a model from folder to file: plan, run with progress, compare with the source.
 *
 *     quantize_model MODEL CALIBRATION EVALUATION OUT.gguf
 *
 * An OUT.gguf that is there is not replaced.
 */
#include <stdio.h>
#include <quant/model.h>

static void show_progress(void *user, const qnt_progress *p)
{
    const char **phase = user;
    if (*phase != p->phase) /* phases are the library's own strings */
        fprintf(stderr, "%3.0f %%  %s\n", 100 * p->share, p->phase);
    *phase = p->phase;
}

static void print_plan(const qnt_plan *plan)
{
    qnt_plan_line line;
    qnt_plan_totals totals;
    for (size_t i = 0; qnt_plan_get_line(plan, i, &line); i++)
        printf("%-50s %5zu x %-5zu %-10s %s %s\n", line.tensor, line.rows, line.cols, line.type, line.recipe,
               line.note);
    qnt_plan_get_totals(plan, &totals);
    printf("%zu windows of %zu tokens; %.3f bits a weight, %llu bytes of %llu\n", totals.windows, totals.seqlen,
           totals.bits_per_weight, (unsigned long long)totals.output_bytes, (unsigned long long)totals.source_bytes);
}

static qnt_status quantize(qnt_model *model, const char *calibration, const char *output)
{
    const char *phase = NULL;
    qnt_quantize_options options = {.method = "gptq",
                                    .format = "gguf:q4_0",
                                    .output = output,
                                    .calibration = calibration,
                                    .samples = 16,
                                    .seqlen = 128,
                                    .progress = show_progress,
                                    .progress_user = &phase};
    qnt_plan *plan;
    qnt_status status = qnt_plan_create(model, &options, &plan);
    if (status != QNT_OK)
        return status;
    print_plan(plan);
    status = qnt_plan_run(plan);
    qnt_plan_destroy(plan);
    return status;
}

static qnt_status compare(qnt_context *context, qnt_model *source, const char *output, const char *evaluation)
{
    qnt_eval_options options = {.text = evaluation, .ctx = 128, .chunks = 16, .against = source};
    qnt_eval_result result;
    qnt_model *model;
    qnt_status status = qnt_model_open(context, output, &model);
    if (status != QNT_OK)
        return status;
    status = qnt_evaluate(model, &options, &result);
    if (status == QNT_OK)
        printf("perplexity %.4f, of the source %.4f; KL divergence %.6f, same first choice %.2f %%\n",
               result.perplexity, result.against_perplexity, result.mean_kl, 100 * result.top1);
    qnt_model_close(model);
    return status;
}

int main(int argc, char **argv)
{
    qnt_context *context = NULL;
    qnt_model *model = NULL;
    qnt_context_options options = {.blas_one_thread = true};
    qnt_status status;
    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL CALIBRATION EVALUATION OUT.gguf\n", argv[0]);
        return 2;
    }
    status = qnt_context_create(&options, &context);
    if (status == QNT_OK)
        status = qnt_model_open(context, argv[1], &model);
    if (status == QNT_OK)
        status = quantize(model, argv[2], argv[4]);
    if (status == QNT_OK)
        status = compare(context, model, argv[4], argv[3]);
    if (status != QNT_OK)
        fprintf(stderr, "%s: %s\n", qnt_status_text(status), context ? qnt_context_message(context) : "no context");
    qnt_model_close(model);
    qnt_context_destroy(context);
    return status != QNT_OK;
}
