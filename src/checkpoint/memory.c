/*
 * memory.c - what a model needs in memory: to run at a context length, to evaluate here, to train (memory_model.md).
 *
 * Weights and caches are exact for their layouts. Activations are estimated: of
 * one block, without stored attention scores; of training, what the way back
 * needs of each token (streaming attention).
 */
#include "checkpoint/model.h"

#include <math.h>
#include "checkpoint/source.h"
#include "container/json.h"
#include "method/recipe.h"

enum { F16_BYTES = 2, USUAL_ACTIVATION_BYTES = 4 };

/* A model's shape, with its files where there are some. */
struct shape {
    qnt_context *ctx;
    struct qnti_config config;
    const struct qnti_checkpoint *model;     /* NULL: a config.json alone */
};

static double extent_of(const struct shape *s, enum qnti_role role)
{
    struct qnti_extent e = qnti_weight_extent(&s->config, role);
    return (double)e.rows * (double)e.cols;
}

static double bias_of(const struct shape *s, enum qnti_role role)
{
    struct qnti_extent e = qnti_weight_extent(&s->config, role);
    return qnti_has_bias(&s->config, role) ? (double)(qnti_is_norm(role) ? e.cols : e.rows) : 0;
}

static double stored_bytes(const struct qnti_weight *w)
{
    return w ? (double)qnti_weight_bytes(w) : 0;
}

/* Bytes of a role in all blocks, weight and bias: of the files, or as f16. */
static double file_bytes(const struct shape *s, enum qnti_role role, size_t times)
{
    double bytes = 0;
    if (!s->model)
        return F16_BYTES * (double)times * (extent_of(s, role) + bias_of(s, role));
    for (size_t b = 0; b < times; b++)
        bytes += stored_bytes(qnti_checkpoint_weight(s->model, b, role)) +
                 stored_bytes(qnti_checkpoint_bias(s->model, b, role));
    return bytes;
}

/* A linear of every block as the recipe leaves it; its bias in f16. */
static qnt_status recipe_bytes(const struct shape *s, const qnt_recipe *recipe, enum qnti_role role, double *bytes)
{
    struct qnti_extent e = qnti_weight_extent(&s->config, role);
    const struct qnti_layout *layout = qnti_layout_find(s->ctx, "native");
    double bits;
    QNT_TRY(qnti_recipe_bits(recipe, layout, e.rows, e.cols, &bits));
    *bytes = (double)s->config.blocks * (bits / 8 + F16_BYTES * bias_of(s, role));
    return QNT_OK;
}

static qnt_status add_role(const struct shape *s, const qnt_recipe *recipe, enum qnti_role role, qnt_memory *m)
{
    size_t times = role < QNTI_ATTN_NORM ? 1 : s->config.blocks;
    double count = (double)times * (extent_of(s, role) + bias_of(s, role)), bytes = file_bytes(s, role, times);
    bool linear = qnti_is_linear(role), norm = qnti_is_norm(role);
    if (linear && recipe)
        QNT_TRY(recipe_bytes(s, recipe, role, &bytes));
    else if (recipe)
        bytes = F16_BYTES * count;
    m->parameters += (uint64_t)count;
    *(linear ? &m->linear_parameters : norm ? &m->norm_parameters : &m->embedding_parameters) += (uint64_t)count;
    *(linear ? &m->linear_bytes : norm ? &m->norm_bytes : &m->embedding_bytes) += (uint64_t)bytes;
    m->weight_bytes += (uint64_t)bytes;
    return QNT_OK;
}

static qnt_status add_weights(const struct shape *s, const qnt_memory_options *o, qnt_memory *m)
{
    qnt_recipe *recipe = NULL;
    qnt_status status = QNT_OK;
    if (o->method)
        QNT_TRY(qnt_recipe_parse(s->ctx, o->method, &recipe));
    for (enum qnti_role role = 0; role < QNTI_ROLES && status == QNT_OK; role++)
        if (qnti_has_weight(&s->config, role) && !(role == QNTI_HEAD && s->config.tied_head))
            status = add_role(s, recipe, role, m);
    qnt_recipe_destroy(recipe);
    return status;
}

/* Keys, or values, of one block at `tokens`. */
static double cache_bytes(const struct qnti_cache *cache, double width, size_t tokens)
{
    size_t first, end;
    qnti_cache_stored(cache, tokens, &first, &end);
    return width * ((double)(end - first) * qnti_cache_bits(cache) / 8 +
                    F16_BYTES * (double)(tokens - (end - first)));
}

/* All blocks' cache of one sequence. */
static double kv_bytes(const struct shape *s, const struct qnti_kv *kv, size_t context)
{
    double width = (double)(s->config.kv_heads * s->config.head_dim), bytes = 0;
    for (size_t b = 0; b < s->config.blocks; b++) {
        size_t window = qnti_block_window(&s->config, b), tokens = window ? qnti_min(window, context) : context;
        bytes += kv ? cache_bytes(&kv->key, width, tokens) + cache_bytes(&kv->value, width, tokens)
                    : 2 * F16_BYTES * width * (double)tokens;
    }
    return bytes;
}

/* Of a block on `tokens` at once. */
static double live_activations(const struct qnti_config *c, double tokens)
{
    double heads = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim);
    return tokens * (2 * (double)c->hidden + fmax(heads + 2 * kv, (c->ungated ? 2 : 3) * (double)c->ffn));
}

/* What `quant eval` holds: a batch of windows, the output matrix, and a block with a window's workspace or logits. */
static double evaluation_bytes(const struct shape *s, const qnt_memory *m, double context, double windows,
                               double threads)
{
    enum { BATCH_TOKENS = 65536, RUN = 256, QUERIES = 64, PROCESS_BYTES = 16 << 20, BLAS_BYTES = 8 << 20 };
    const struct qnti_config *c = &s->config;
    double heads = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim);
    double batch = fmin(windows, fmax(1, floor(BATCH_TOKENS / context)));
    double block = (double)(m->linear_parameters + m->norm_parameters) / (double)c->blocks;
    double window = context * (heads + 2 * kv + 2 * (double)c->hidden + 2 * fmax(heads, (double)c->ffn));
    double hidden = batch * context * (double)c->hidden;
    double head = (double)c->vocab * (double)c->hidden, logits = (double)c->vocab * fmin(RUN, context);
    return PROCESS_BYTES + threads * BLAS_BYTES +
           4 * (hidden + head + fmax(block + window + threads * QUERIES * context, logits));
}

/* Per token and block: inputs and outputs of norms and linears, a log-sum-exp a head; 16 bits each, that 32. */
static double stored_for_backward(const struct qnti_config *c)
{
    double heads = (double)(c->heads * c->head_dim), kv = (double)(c->kv_heads * c->head_dim);
    return F16_BYTES * (4 * (double)c->hidden + 2 * heads + 2 * kv + 4 * (double)c->ffn) + 4 * (double)c->heads;
}

static double lora_parameters(const struct shape *s, size_t rank)
{
    double sum = 0;
    for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++) {
        struct qnti_extent e = qnti_weight_extent(&s->config, role);
        if (qnti_has_weight(&s->config, role) && qnti_is_linear(role))
            sum += (double)s->config.blocks * (double)rank * (double)(e.rows + e.cols);
    }
    return sum;
}

/* The longest context whose cache has room beside weights and activations; 0: not even one token. */
static size_t longest_context(const struct shape *s, const struct qnti_kv *kv, double batch, double room)
{
    size_t least = 0, most = (size_t)1 << 40;
    while (most - least > 1) {
        size_t middle = least + (most - least) / 2;
        *(batch * kv_bytes(s, kv, middle) <= room ? &least : &most) = middle;
    }
    return least;
}

static qnt_status fill(const struct shape *s, const qnt_memory_options *o, qnt_memory *m)
{
    const struct qnti_config *c = &s->config;
    double batch = o->batch ? (double)o->batch : 1, bytes = o->activation_bytes ? (double)o->activation_bytes
                                                                                  : USUAL_ACTIVATION_BYTES;
    size_t context = o->context ? o->context : c->context;
    double tokens = batch * (double)context, flying = o->tokens ? (double)o->tokens : tokens;
    const struct qnti_kv *kept = s->model ? s->model->kv : NULL;
    struct qnti_kv kv;
    if (o->kv) {
        QNT_TRY(qnti_kv_parse(s->ctx, o->kv, c->head_dim, &kv));
        kept = &kv;
    }
    QNT_TRY(add_weights(s, o, m));
    m->context = context;
    m->kv_bytes = (uint64_t)(batch * kv_bytes(s, kept, context));
    m->kv_bytes_per_token = kv_bytes(s, kept, context) / (double)context;
    m->activation_bytes = (uint64_t)(bytes * live_activations(c, flying));
    m->logit_bytes = (uint64_t)(4 * batch * (double)c->vocab);
    m->inference_bytes = m->weight_bytes + m->kv_bytes + m->activation_bytes + m->logit_bytes;
    m->evaluation_bytes = (uint64_t)evaluation_bytes(s, m, (double)context, batch,
                                                     (double)qnti_max((size_t)qnt_context_threads(s->ctx), 1));
    m->stored_bytes = (uint64_t)(stored_for_backward(c) * (double)c->blocks * tokens);
    m->checkpoint_bytes = (uint64_t)(tokens * (F16_BYTES * (double)c->hidden * (double)c->blocks +
                                               stored_for_backward(c)));
    m->loss_bytes = (uint64_t)(2 * 4 * (double)c->vocab * tokens);
    m->lora_parameters = (uint64_t)lora_parameters(s, o->lora_rank);
    if (o->device_bytes > m->inference_bytes - m->kv_bytes)
        m->longest_context = longest_context(s, kept, batch,
                                             (double)(o->device_bytes - (m->inference_bytes - m->kv_bytes)));
    return QNT_OK;
}

/* A config.json says enough. */
static qnt_status read_config(struct shape *s, const char *path)
{
    const struct qnti_family *family;
    json_t *json = NULL;
    qnt_status status;
    QNT_TRY(qnti_json_load(s->ctx, path, &json));
    status = json_is_object(json) ? qnti_config_read(s->ctx, path, json, &family, &s->config)
                                  : qnti_fail(s->ctx, QNT_BAD_DATA, "%s: is not a JSON object", path);
    json_decref(json);
    return status;
}

qnt_status qnt_memory_of_config(qnt_context *ctx, const char *path, const qnt_memory_options *options,
                                qnt_memory *memory)
{
    struct shape s = {.ctx = ctx};
    qnt_status status;
    *memory = (qnt_memory){0};
    status = read_config(&s, path);
    if (status == QNT_OK)
        status = fill(&s, options, memory);
    qnti_config_free(ctx, &s.config);
    return status;
}

qnt_status qnt_memory_of_model(const qnt_model *model, const qnt_memory_options *options, qnt_memory *memory)
{
    struct shape s = {.ctx = model->checkpoint->ctx, .config = model->checkpoint->config, .model = model->checkpoint};
    *memory = (qnt_memory){0};
    return fill(&s, options, memory);
}

static const qnt_training_scheme schemes[] = {
    {"f32 AdamW", 4, 4, 0, 8},
    {"mixed AdamW", 2, 2, 4, 8},
    {"mixed AdamW, f32 gradient sums", 2, 4, 4, 8},
    {"pure bf16 AdamW", 2, 2, 0, 4},
    {"mixed, 8-bit Adam", 2, 2, 4, 2 + 8.0 / 256},
    {"f32 SGD with momentum", 4, 4, 0, 4},
    {"mixed Adafactor", 2, 2, 4, 0},
};

bool qnt_training_scheme_get(size_t index, qnt_training_scheme *scheme)
{
    if (index >= sizeof schemes / sizeof *schemes)
        return false;
    *scheme = schemes[index];
    return true;
}
