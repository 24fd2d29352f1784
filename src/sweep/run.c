/*
 * run.c - does what a plan says: check, quantize, write, verify; goes on where an earlier run of the same plan ended.
 *
 * Finished blocks stay in the work folder until the output has its name and
 * was compared with the source, however a run ends; a run that finished no
 * block leaves nothing.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "eval/text.h"
#include "file/output.h"

/* --- progress --- */

void qnti_plan_progress(struct qnt_plan *plan, const char *item, double share)
{
    qnt_progress p = {.phase = plan->phase, .item = item};
    if (!plan->options.progress)
        return;
    p.share = plan->phase_begin + share * (plan->phase_end - plan->phase_begin);
    p.seconds = qnti_seconds() - plan->began;
    p.seconds_left = p.share > 0.02 ? p.seconds * (1 - p.share) / p.share : -1;
    plan->options.progress(plan->options.progress_user, &p);
}

static void begin_phase(struct qnt_plan *plan, const char *name, double begin, double end)
{
    plan->phase = name;
    plan->phase_begin = begin;
    plan->phase_end = end;
    qnti_plan_progress(plan, "", 0);
}

static void verify_progress(void *user, const qnt_progress *p)
{
    qnti_plan_progress(user, "", p->share);
}

/* --- phases --- */

/* The written file against the source on the tail of the calibration text: is it a model at all? */
static qnt_status verify(struct qnt_plan *plan)
{
    qnt_model *written = NULL;
    const struct qnti_windows *w = &plan->windows;
    size_t n = qnti_min(QNTI_VERIFY_WINDOWS, w->count);
    qnt_status status;
    QNT_CHECK(qnt_model_open(plan->ctx, plan->options.output, &written));
    QNT_CHECK(qnti_compare_windows(written, plan->model, w->ids + (w->count - n) * w->tokens, n, w->tokens,
                                   verify_progress, plan, &plan->verified));
    if (!isfinite(plan->verified.perplexity) || !isfinite(plan->verified.mean_kl))
        status = qnti_fail(plan->ctx, QNT_NON_FINITE, "%s: its perplexity on the calibration's tail is not finite",
                           plan->options.output);
cleanup:
    qnt_model_close(written);
    return status;
}

static bool has_blocks(const struct qnt_plan *plan)
{
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->job.targets[t].quantized)
            return true;
    return false;
}

static qnt_status refuse_existing(const struct qnt_plan *plan, const char *why)
{
    return qnti_fail(plan->ctx, QNT_EXISTS, "%s is already there%s; --force replaces it", plan->options.output, why);
}

/*
 * Whether an output is there, made by this plan: `already`. Its work folder is there too if that run did not come to
 * its end: then only that end is missing. Anything else there is refused.
 */
static qnt_status identify(struct qnt_plan *plan)
{
    bool there = qnti_path_exists(plan->options.output) && !plan->options.force;
    char hash[QNTI_HASH_BYTES] = "";
    if (there)
        QNT_TRY(qnti_plan_hash_of(plan->ctx, plan->options.output, hash));
    if (there && !hash[0])
        return refuse_existing(plan, "");
    begin_phase(plan, "check", 0, 0.02);
    QNT_TRY(qnti_plan_identify(plan));
    if (there && strcmp(hash, plan->hash) != 0)
        return refuse_existing(plan, " and was made by another plan");
    plan->already = plan->complete = there;
    return QNT_OK;
}

static qnt_status enter_work(struct qnt_plan *plan)
{
    qnt_status status;
    if (!has_blocks(plan) || (plan->already && !qnti_path_exists(plan->work.path)))
        return QNT_OK;
    status = qnti_work_open(plan);
    return plan->already && status == QNT_EXISTS ? QNT_OK : status; /* that folder serves another run */
}

static qnt_status make_blocks(struct qnt_plan *plan)
{
    double begin = 0.02;
    size_t first;
    if (qnti_plan_needs_fisher(plan, &first)) {
        begin_phase(plan, "fisher", begin, 0.6);
        QNT_TRY(qnti_reverse_run(plan));
        begin = 0.6;
    }
    begin_phase(plan, "quantize", begin, 0.9);
    return qnti_sweep_run(plan);
}

static qnt_status make_output(struct qnt_plan *plan)
{
    QNT_TRY(qnti_work_check_disk(plan));
    if (plan->work.held)
        QNT_TRY(make_blocks(plan));
    begin_phase(plan, "write", 0.9, 0.97);
    QNT_TRY(plan->job.format->write(&plan->job, plan->options.output));
    plan->complete = true;
    return QNT_OK;
}

static qnt_status run_phases(struct qnt_plan *plan)
{
    QNT_TRY(identify(plan));
    QNT_TRY(enter_work(plan));
    if (!plan->already)
        QNT_TRY(make_output(plan));
    qnti_store_close(plan);
    if (plan->work.held && plan->windows.count && !plan->options.no_verify) {
        begin_phase(plan, "verify", 0.97, 1);
        QNT_TRY(verify(plan));
    }
    qnti_plan_progress(plan, "", 1);
    return QNT_OK;
}

/* --- the end --- */

/* What a run that ends early leaves: finished blocks, or, before the first, what they will be quantized by. */
static void tell_kept(const struct qnt_plan *plan, qnt_status status)
{
    static const char *const kept[] = {"Fisher information of %zu of %zu blocks is finished and stays in %s",
                                       "%zu of %zu blocks are finished and stay in %s"};
    size_t done = plan->work.count ? plan->work.count : plan->work.fisher_count;
    char text[512];
    if (!done || !plan->work.held)
        return;
    snprintf(text, sizeof text, kept[plan->work.count > 0], done, plan->job.source->config.blocks,
             plan->work.path);
    if (status == QNT_CANCELLED)
        qnti_fail(plan->ctx, status, "stopped; %s, the same command goes on", text);
    else
        qnti_log(plan->ctx, QNT_LOG_WARNING, "%s, the same command goes on", text);
}

/* What is worth keeping, and what whoever stopped the run should know. */
static void end(struct qnt_plan *plan, qnt_status status)
{
    bool stopped = status == QNT_CANCELLED, keep = plan->work.kept;
    if (status != QNT_OK)
        keep = plan->complete ? !stopped : plan->work.count + plan->work.fisher_count > 0;
    if (stopped && plan->complete)
        qnti_fail(plan->ctx, status, "stopped; %s is complete, only its comparison with the source is not",
                  plan->options.output);
    else if (status != QNT_OK)
        tell_kept(plan, status);
    qnti_work_close(plan, keep);
}

qnt_status qnt_plan_run(qnt_plan *plan)
{
    qnt_status status;
    if (!plan->options.output)
        return qnti_fail(plan->ctx, QNT_INVALID, "the plan has no output");
    plan->already = plan->complete = false;
    plan->began = qnti_seconds();
    status = run_phases(plan);
    plan->seconds = qnti_seconds() - plan->began;
    end(plan, status);
    return status;
}

void qnt_plan_get_outcome(const qnt_plan *plan, qnt_plan_outcome *outcome)
{
    *outcome = (qnt_plan_outcome){.already = plan->already,
                                  .blocks = plan->job.source->config.blocks,
                                  .resumed_blocks = plan->work.resumed,
                                  .seconds = plan->seconds,
                                  .verified = plan->verified};
}
