/*
 * measure.c - the inputs of all sites of a block, measured on the way of one stream through it.
 *
 * One pass over the windows, or evenly spaced ones, with the block's weights as
 * they are. Each window goes through the whole block before the next, so
 * nothing but the calibrations grows with the text.
 */
#include "sweep/sweep.h"

#include <string.h>

/* Memory for one window. */
struct window {
    float *x;                    /* [tokens][hidden] the residual stream */
    float *input[2];             /* [tokens][widest] of a norm's site, and of the site behind it */
};

static void window_free(qnt_context *ctx, struct window *w)
{
    qnti_free(ctx, w->x);
    qnti_free(ctx, w->input[0]);
    qnti_free(ctx, w->input[1]);
}

static qnt_status window_create(qnt_context *ctx, const struct qnti_config *config, size_t tokens, struct window *w)
{
    size_t widest = 0;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        widest = qnti_max(widest, qnti_site_width(config, site));
    QNT_TRY(QNTI_NEW_RAW(ctx, tokens * config->hidden, &w->x));
    QNT_TRY(QNTI_NEW_RAW(ctx, tokens * widest, &w->input[0]));
    return QNTI_NEW_RAW(ctx, tokens * widest, &w->input[1]);
}

/* Measures a site's input, and keeps it where the window, counted among those measured, is one of the samples. */
static qnt_status take(const struct qnti_measure *m, enum qnti_site site, size_t window, const float *input)
{
    size_t width = qnti_site_width(&m->block->model->config, site), measured = qnti_ceil_div(m->windows, m->step);
    size_t stride = qnti_max(measured / qnti_max(m->samples, 1), 1);
    if (m->calib[site])
        QNT_TRY(qnti_calib_add_f32(m->calib[site], input, NULL, m->tokens));
    if (m->sample[site] && window % stride == 0 && window / stride < m->samples)
        memcpy(m->sample[site] + window / stride * m->tokens * width, input, m->tokens * width * sizeof *input);
    return QNT_OK;
}

static qnt_status measure_window(const struct qnti_measure *m, struct window *w, size_t window)
{
    for (enum qnti_site site = 0; site < QNTI_SITES; site += 2) {
        QNT_TRY(qnti_site_input(m->block, m->workspace, site, w->x, m->tokens, w->input[0]));
        QNT_TRY(take(m, site, window, w->input[0]));
        QNT_TRY(qnti_site_input(m->block, m->workspace, site + 1, w->input[0], m->tokens, w->input[1]));
        QNT_TRY(take(m, site + 1, window, w->input[1]));
        QNT_TRY(qnti_site_residual(m->block, m->workspace, site + 1, w->input[1], m->tokens, w->x));
    }
    return QNT_OK;
}

qnt_status qnti_measure_block(const struct qnti_measure *m)
{
    qnt_context *ctx = m->block->model->ctx;
    size_t n = m->tokens * m->block->model->config.hidden;
    struct window w = {0};
    qnt_status status;
    QNT_CHECK(window_create(ctx, &m->block->model->config, m->tokens, &w));
    for (size_t i = 0; i < m->windows; i += m->step) {
        memcpy(w.x, m->x->data + i * n, n * sizeof *w.x);
        QNT_CHECK(measure_window(m, &w, i / m->step));
        if (m->advance)
            memcpy(m->x->data + i * n, w.x, n * sizeof *w.x);
        qnti_spill_done(m->x, i * n, n);
        QNT_CHECK(qnti_cancelled(ctx));
    }
cleanup:
    window_free(ctx, &w);
    return status;
}
