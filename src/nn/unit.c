/*
 * unit.c - what stands behind a site's linears, as a unit: searches compare what it gives with other weights.
 *
 *   QKV      attention and o         (AWQ: "output of self-attention")
 *   GATE_UP  the mlp and down
 *   O, DOWN  the linear itself
 */
#include "nn/nn.h"

#include <string.h>

static qnt_status forward(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                          const float *const *weights, float *y)
{
    const struct qnti_site_unit *self = unit->self;
    struct qnti_block block = *self->block; /* a view with other weights */
    bool deep = self->site == QNTI_SITE_QKV || self->site == QNTI_SITE_GATE_UP;
    enum qnti_site last = deep ? self->site + 1 : self->site;
    size_t width = qnti_site_width(&block.model->config, last);
    float *inner = NULL;
    qnt_status status = QNT_OK;
    for (size_t i = 0; weights && i < unit->weight_count; i++) {
        enum qnti_role role = qnti_site_roles(&block.model->config, self->site)[i];
        if (weights[i])
            block.weight[role] = (float *)(uintptr_t)weights[i];
        if (weights[unit->weight_count + i])
            block.bias[role] = (float *)(uintptr_t)weights[unit->weight_count + i];
    }
    if (deep)
        QNT_CHECK(QNTI_NEW_RAW(unit->ctx, sequence * width, &inner));
    memset(y, 0, tokens * unit->out * sizeof *y);
    for (size_t t = 0; t < tokens; t += sequence) {
        size_t n = qnti_min(sequence, tokens - t);
        const float *in = x + t * unit->in;
        if (deep)
            QNT_CHECK(qnti_site_input(&block, self->workspace, last, in, n, inner));
        QNT_CHECK(qnti_site_residual(&block, self->workspace, last, deep ? inner : in, n, y + t * unit->out));
    }
cleanup:
    qnti_free(unit->ctx, inner);
    return status;
}

void qnti_unit_of_site(const struct qnti_block *block, struct qnti_workspace *workspace, enum qnti_site site,
                       struct qnti_site_unit *self, struct qnti_unit *unit)
{
    const struct qnti_config *c = &block->model->config;
    const enum qnti_role *roles = qnti_site_roles(c, site);
    size_t n = 0;
    *self = (struct qnti_site_unit){.block = block, .workspace = workspace, .site = site};
    for (; roles[n] != QNTI_ROLES; n++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(block->model, block->index, roles[n]);
        self->shapes[n] = (struct qnti_unit_weight){w->rows, w->cols};
    }
    *unit = (struct qnti_unit){.in = qnti_site_width(c, site), .out = c->hidden, .weight_count = n,
                               .weights = self->shapes, .bias_count = n, .forward = forward,
                               .ctx = block->model->ctx, .self = self};
}
