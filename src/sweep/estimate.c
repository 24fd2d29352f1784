/*
 * estimate.c - what a plan will need: memory, disk, arithmetic.
 *
 * Memory is the largest sum of what lives at once at any site: the residual
 * streams, a site's inputs, the block's weights, the Hessian in its forms, the
 * layer in hand, each thread's working memory; or, where that is more, what the
 * reverse sweep or the end check holds. Mapped pages of the source and of Fisher
 * information are not counted: the system may drop them.
 */
#include "sweep/sweep.h"

#include <string.h>

enum {
    PROCESS_BYTES = 16 << 20,       /* the program, its libraries, JSON and tokenizer of a small model */
    BLAS_BYTES = 8 << 20,           /* OpenBLAS packs operands into a buffer for each thread; what it touches */
    CHUNK_ROWS = 256                /* rows that a solver holds (solve/error_feedback.c, descent.c) */
};

static double greater(double a, double b)
{
    return a > b ? a : b;
}

/* Bytes that a layer's numbers take in memory beside the matrix itself: codes, scales, offsets. */
static double numbers_bytes(double weights)
{
    return 1.25 * weights;
}

/* Working memory of a thread in the solvers: a chunk's weights or gradient, errors or changes, values, codes. */
static double thread_bytes(double in)
{
    return CHUNK_ROWS * in * (3 * 4 + 2) + BLAS_BYTES;
}

/* `kept`: what of it may lie in a file. */
struct need {
    double memory, kept, flops;
};

static double layers_weights(const struct qnt_plan *plan, enum qnti_site site, double *largest)
{
    const enum qnti_role *roles = qnti_site_roles(&plan->job.source->config, site);
    double sum = 0;
    *largest = 0;
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(plan->job.source, 0, roles[i]);
        double n = w ? (double)w->rows * (double)w->cols : 0;
        sum += n;
        *largest = n > *largest ? n : *largest;
    }
    return sum;
}

/* Segments and kept weights are made beside the layer. */
static bool leaves_beside(const struct qnt_plan *plan)
{
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t] && (qnti_recipe_leaves(plan->recipes[t]) & (QNTI_BESIDE_SEGMENTS | QNTI_BESIDE_SPARSE)))
            return true;
    return false;
}

/* Highest use of memory while a site is measured and quantized, beyond streams and block; flops of all blocks. */
static struct need site_need(const struct qnt_plan *plan, enum qnti_site site, unsigned needs, double threads)
{
    bool hessian = needs & (QNTI_NEED_HESSIAN | QNTI_NEED_REPLAY);
    const struct qnti_config *c = &plan->job.source->config;
    double in = (double)qnti_site_width(c, site), largest;
    double tokens = qnti_plan_measures(plan) ? (double)plan->totals.tokens : 0;
    double weights = layers_weights(plan, site, &largest);
    bool kept = site == QNTI_SITE_O || site == QNTI_SITE_DOWN;
    struct need n = {.kept = kept ? 4 * tokens * in : 0, .memory = numbers_bytes(weights)};
    n.memory += 4 * largest + threads * thread_bytes(in); /* the layer's working copy */
    if (leaves_beside(plan))
        n.memory += 5 * largest;                          /* which weights are kept and as what, or a segment's own */
    if (hessian)
        n.memory += (4 + 4 + 4) * in * in;                /* f32 Hessian, its ordered copy, factor */
    if (hessian && !kept)
        n.memory += 4 * in * in;                          /* f64 sums (half), which one layer alone gives back */
    if (needs & QNTI_NEED_SAMPLES)                        /* and a copy behind the transform */
        n.memory += 2 * 4 * (double)qnti_min((size_t)tokens, QNTI_MOST_SAMPLES) * in;
    if (plan->paired)
        n.memory += greater(8 * in * in, 3 * 4 * largest);  /* sums of pairs; the weight aimed at, two products */
    n.flops = 2 * tokens * weights;
    if (hessian)
        n.flops += tokens * in * in + 2.0 / 3.0 * in * in * in + 2 * weights * in;
    n.flops *= (double)c->blocks;
    return n;
}

/* Weights of the block that are held while a site is quantized: the sweep forgets those behind it. */
static double weights_at(const struct qnt_plan *plan, enum qnti_site site)
{
    double largest, sum = 0;
    for (enum qnti_site s = site < QNTI_SITE_GATE_UP ? 0 : site; s < QNTI_SITES; s++)
        sum += layers_weights(plan, s, &largest);
    return sum;
}

/* What is gathered for the stages behind the transforms, and a Hessian for these. */
static unsigned needs_of(const struct qnt_plan *plan)
{
    unsigned needs = 0;
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t])
            needs |= qnti_recipe_weights_needs(plan->recipes[t]) |
                     (qnti_recipe_needs(plan->recipes[t]) & QNTI_NEED_HESSIAN);
    return needs;
}

static double block_weights(const struct qnt_plan *plan)
{
    double sum = 0, largest;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        sum += layers_weights(plan, site, &largest);
    return sum;
}

/* Working memory of the forward pass on one window, and a norm's inputs of as many as are added at once. */
static double window_bytes(const struct qnt_plan *plan, double threads)
{
    const struct qnti_config *c = &plan->job.source->config;
    double seqlen = (double)plan->windows.tokens;
    double run = greater(seqlen, qnti_plan_measures(plan) ? QNTI_ADDED_TOKENS : 0);
    double widths = 2.0 * (double)c->hidden + 3.0 * (double)c->ffn + 3.0 * (double)(c->heads * c->head_dim);
    widths += c->post_norms ? (double)c->hidden : 0;
    widths += greater(c->fused_qkv ? (double)((c->heads + 2 * c->kv_heads) * c->head_dim) : 0,
                      c->fused_gate_up ? 2.0 * (double)c->ffn : 0);
    return 4 * (run * (double)c->hidden + seqlen * widths + threads * seqlen * seqlen);
}

/* The end check: of both models the output matrix in f32, hidden states of its windows, a run of logits. */
static double verify_bytes(const struct qnt_plan *plan)
{
    const struct qnti_config *c = &plan->job.source->config;
    double tokens = (double)(qnti_min(QNTI_VERIFY_WINDOWS, plan->windows.count) * plan->windows.tokens);
    double run = (double)qnti_min(256, plan->windows.tokens); /* eval/evaluate.c */
    if (!plan->windows.count || plan->options.no_verify)
        return 0;
    return 2 * 4 * ((double)c->vocab * ((double)c->hidden + run) + tokens * (double)c->hidden);
}

/*
 * The reverse sweep: inputs of all blocks from the first on that needs it, and behind the last; the output matrix with
 * a run of logits, or F of a block, a window's way back (nn/backward.c) and a run of a gradient's rows. Of its flops a
 * pass forward, one again on the way back, and two products of its size for the gradients.
 */
static struct need reverse_need(const struct qnt_plan *plan)
{
    enum { LOGIT_RUN = 256, GRADIENT_ROWS = 512 };
    const struct qnti_config *c = &plan->job.source->config;
    double tokens = (double)plan->totals.tokens, hidden = (double)c->hidden, vocab = (double)c->vocab;
    double heads = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim), ffn = (double)c->ffn;
    double top = 4 * (vocab * (hidden + LOGIT_RUN) + 2 * LOGIT_RUN * hidden), back, fisher = 0;
    struct need n = {0};
    size_t first;
    if (!qnti_plan_needs_fisher(plan, &first))
        return n;
    for (size_t b = first; b < c->blocks; b++)
        fisher = greater(fisher, (double)qnti_fisher_bytes(plan, b));
    back = 4 * (double)plan->windows.tokens * (5 * hidden + 4 * heads + 4 * kv + 6 * ffn);
    back += 4 * GRADIENT_ROWS * greater(greater(hidden, heads), ffn);
    n.memory = greater(top, fisher + back);
    n.kept = 4 * tokens * hidden * (double)(c->blocks - first + 1);
    n.flops = 2 * tokens * block_weights(plan) * (double)(c->blocks + 3 * (c->blocks - first));
    n.flops += 4 * tokens * vocab * hidden;
    return n;
}

static void estimate_work(struct qnt_plan *plan)
{
    struct need reverse = reverse_need(plan);
    double threads = (double)qnti_max((size_t)qnt_context_threads(plan->ctx), 1);
    double streams = plan->paired ? 2 : 1;
    bool measures = qnti_plan_measures(plan);
    double x = measures ? 4 * (double)plan->totals.tokens * (double)plan->job.source->config.hidden : 0;
    double base = PROCESS_BYTES + window_bytes(plan, threads);
    double memory = 0, spilled = 0, kept = 0;
    unsigned needs = needs_of(plan);
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        struct need n = site_need(plan, site, needs, threads);
        n.memory += 4 * streams * weights_at(plan, site);
        memory = greater(memory, n.memory + n.kept);
        spilled = greater(spilled, n.memory);
        kept = greater(kept, n.kept);
        plan->totals.flops += streams * n.flops;
    }
    reverse.memory += 4 * block_weights(plan);
    memory = greater(x + memory, reverse.kept + reverse.memory);
    spilled = greater(spilled, reverse.memory);
    plan->file_bytes = plan->paired ? (uint64_t)(x + kept) : 0;
    plan->totals.flops += reverse.flops;
    plan->totals.memory_bytes = (uint64_t)(base + greater(memory, verify_bytes(plan)));
    plan->totals.least_memory_bytes = (uint64_t)(base + greater(spilled, verify_bytes(plan)));
    plan->totals.spill_bytes = (uint64_t)greater(streams * (x + kept), reverse.kept);
    plan->totals.passes = measures + (reverse.flops > 0 ? 2 : 0); /* forward and back */
}

/* Activations go to files only where they must. */
static qnt_status apply_limit(struct qnt_plan *plan)
{
    qnt_plan_totals *t = &plan->totals;
    uint64_t limit = plan->options.max_ram;
    bool verifies = (double)t->least_memory_bytes < 2 * verify_bytes(plan);
    if (limit == 0 || t->memory_bytes <= limit)
        return QNT_OK;
    if (t->least_memory_bytes > limit)
        return qnti_fail(plan->ctx, QNT_INVALID,
                         "max_ram of %llu bytes is not enough: with activations in files this plan needs %llu "
                         "(without, %llu%s)",
                         (unsigned long long)limit, (unsigned long long)t->least_memory_bytes,
                         (unsigned long long)t->memory_bytes, verifies ? "; the end check needs most of it" : "");
    plan->spills = true;
    plan->file_bytes = t->spill_bytes;
    t->memory_bytes = t->least_memory_bytes;
    return QNT_OK;
}

/* Size of a target's packed form, or of its floats. */
static qnt_status target_bytes(const struct qnt_plan *plan, struct qnti_target *t)
{
    const struct qnti_layout *layout = qnti_layout_find(plan->ctx, t->layout);
    size_t out = t->source->rows, in = t->source->cols, packed;
    double bits;
    t->bytes = qnti_weight_bytes(t->source);
    if (strncmp(t->layout, "gguf:", 5) == 0 && qnt_pack_bytes(plan->ctx, t->layout, out, in, &packed) == QNT_OK) {
        t->bytes = packed;
    } else if (t->quantized && plan->recipe) {
        QNT_TRY(qnti_recipe_bits(plan->recipes[t - plan->job.targets], layout, out, in, &bits));
        t->bytes = (uint64_t)(bits / 8);
    }
    return QNT_OK;
}

/* To run the output. */
static qnt_status estimate_run_time(struct qnt_plan *plan)
{
    qnt_memory memory;
    QNT_TRY(qnt_memory_of_model(plan->model, &(qnt_memory_options){.kv = plan->options.kv}, &memory));
    plan->totals.context = memory.context;
    plan->totals.kv_bytes = memory.kv_bytes;
    plan->totals.activation_bytes = memory.activation_bytes;
    return QNT_OK;
}

qnt_status qnti_plan_estimate(struct qnt_plan *plan)
{
    double quantized_bits = 0, quantized = 0;
    QNT_TRY(estimate_run_time(plan));
    plan->totals.tokens = plan->windows.count * plan->windows.tokens;
    for (size_t t = 0; t < plan->job.count; t++) {
        struct qnti_target *target = &plan->job.targets[t];
        QNT_TRY(target_bytes(plan, target));
        plan->totals.source_bytes += qnti_weight_bytes(target->source);
        plan->totals.output_bytes += target->bytes;
        if (!target->quantized)
            continue;
        quantized_bits += 8 * (double)target->bytes;
        quantized += (double)target->source->rows * (double)target->source->cols;
        plan->store_bytes += target->bytes + target->bytes / 8;
    }
    for (size_t b = 0; b < plan->job.source->config.blocks; b++)
        plan->fisher_bytes += qnti_fisher_bytes(plan, b);
    plan->totals.bits_per_weight = quantized > 0 ? quantized_bits / quantized : 0;
    if (!plan->job.format->folder && plan->job.format->bytes)
        QNT_TRY(plan->job.format->bytes(&plan->job, &plan->totals.output_bytes));
    estimate_work(plan);
    QNT_TRY(apply_limit(plan));
    plan->totals.disk_bytes = plan->totals.output_bytes + plan->store_bytes + plan->fisher_bytes + plan->file_bytes;
    return QNT_OK;
}
