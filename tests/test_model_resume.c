/*
 * test_model_resume.c - what resuming is made of: locks, spilled activations, outcomes, the plan's identity, folders
 * that are replaced, disks without room.
 *
 * Kills, and the bytes that come out behind them, are test_resume.sh's.
 */
#include "export_support.h"

#include <jansson.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <signal.h>
#include "file/folder.h"
#include "file/lock.h"
#include "sweep/sweep.h"

/* --- locks --- */

static void one_holder(void **state)
{
    qnt_context *ctx = context_with(NULL);
    int first, second;
    (void)state;
    assert_int_equal(qnti_lock_take(ctx, "none/lock", &first), QNT_NOT_FOUND);
    assert_int_equal(qnti_lock_take(ctx, "lock", &first), QNT_OK);
    assert_int_equal(qnti_lock_take(ctx, "lock", &second), QNT_EXISTS);
    assert_message_has(ctx, "lock is locked by another run");
    qnti_lock_release(first, NULL);
    assert_int_equal(qnti_lock_take(ctx, "lock", &second), QNT_OK);
    qnti_lock_release(second, "lock");
    assert_false(qnti_path_exists("lock"));
    qnt_context_destroy(ctx);
}

/* A lock on a file that was removed and made again is none. */
static void removed_while_held(void **state)
{
    qnt_context *ctx = context_with(NULL);
    int first, second;
    (void)state;
    assert_int_equal(qnti_lock_take(ctx, "lock", &first), QNT_OK);
    assert_int_equal(unlink("lock"), 0);
    assert_int_equal(qnti_lock_take(ctx, "lock", &second), QNT_OK);
    assert_false(qnti_lock_open_file(first, "lock"));
    qnti_lock_release(first, NULL);
    qnti_lock_release(second, "lock");
    qnt_context_destroy(ctx);
}

/* A temporary that nobody holds is what a dead process left: it goes when the target is written again. */
static void abandoned_temporary(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    (void)state;
    put_file(".a.partial-0", "left", 4);
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    assert_string_equal(qnti_output_temporary(output), ".a.partial-0");
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    assert_false(qnti_path_exists(".a.partial-0"));
    unlink("a");
    qnt_context_destroy(ctx);
}

/* --- folders --- */

static void folder_replaced(void **state)
{
    qnt_context *ctx = context_with(NULL);
    (void)state;
    for (int round = 0; round < 3; round++) { /* nothing there, a folder, a file */
        char *temporary;
        if (round == 2) {
            unlink("f/a");
            assert_int_equal(rmdir("f"), 0);
            put_file("f", "old", 3);
        }
        assert_int_equal(qnti_folder_create(ctx, "f", &temporary), QNT_OK);
        assert_int_equal(chdir(temporary), 0);
        put_file("a", &round, sizeof round);
        assert_int_equal(chdir(".."), 0);
        assert_int_equal(qnti_folder_commit(ctx, temporary, "f"), QNT_OK);
        assert_false(qnti_path_exists(temporary));
        assert_true(qnti_path_exists("f/a"));
        qnti_free(ctx, temporary);
    }
    qnti_folder_remove(ctx, "f");
    qnt_context_destroy(ctx);
}

/* --- activations --- */

static void spilled_values_stay(void **state)
{
    enum { N = 100003 };
    const char *const folders[] = {NULL, "."};
    qnt_context *ctx = context_with(NULL);
    (void)state;
    for (size_t f = 0; f < COUNT(folders); f++) {
        struct qnti_spill spill;
        assert_int_equal(qnti_spill_create(ctx, folders[f], N, &spill), QNT_OK);
        for (size_t i = 0; i < N; i++)
            spill.data[i] = (float)i;
        for (size_t first = 0; first < N; first += 999)
            qnti_spill_done(&spill, first, qnti_min(999, N - first));
        qnti_spill_done(&spill, 0, N);
        for (size_t i = 0; i < N; i++)
            assert_true(spill.data[i] == (float)i);
        qnti_spill_free(&spill);
        assert_null(spill.data);
    }
    qnt_context_destroy(ctx);
}

static void spilled_pages_leave(void **state)
{
    enum { PAGES = 64 };
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = PAGES * page / sizeof(float);
    qnt_context *ctx = context_with(NULL);
    struct qnti_spill spill;
    unsigned char resident[PAGES];
    (void)state;
    assert_int_equal(qnti_spill_create(ctx, ".", n, &spill), QNT_OK);
    assert_int_equal(spill.bytes, PAGES * page);
    assert_true(qnt_context_bytes(ctx, NULL) < page);
    assert_int_equal(mincore(spill.data, spill.bytes, resident), 0);
    qnti_spill_free(&spill);
    assert_int_equal(qnti_spill_create(ctx, "none", n, &spill), QNT_IO);
    assert_message_has(ctx, "none");
    assert_null(spill.data);
    qnt_context_destroy(ctx);
}

static void spill_on_a_full_disk(void **state)
{
    struct rlimit before, limit = {1 << 16, 1 << 16};
    qnt_context *ctx = context_with(NULL);
    struct qnti_spill spill;
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(qnti_spill_create(ctx, ".", 1 << 20, &spill), QNT_IO);
    assert_message_has(ctx, "no room for a file of 4194304 bytes of activations");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_null(spill.data);
    qnt_context_destroy(ctx);
}

/* --- outcomes --- */

static void outcome_and_back(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_outcome o = {.report = {.bits_per_weight = 4.1, .weight_error = 1.0 / 3, .output_error = NAN,
                                        .tokens = 1234, .dead_columns = 7, .seconds = 1e-9}, .done = true};
    struct qnti_outcome back = {0};
    json_t *json;
    (void)state;
    o.warnings = (char *)(uintptr_t)"rounded to nearest: because\nand more";
    strcpy(o.activations, "8 bits, by token");
    json = qnti_outcome_json(&o);
    assert_int_equal(qnti_outcome_read(ctx, "here", json, &back), QNT_OK);
    assert_true(back.done && back.report.weight_error == o.report.weight_error && isnan(back.report.output_error));
    assert_int_equal(back.report.tokens, 1234);
    assert_string_equal(back.report.warnings, o.warnings);
    assert_string_equal(back.report.activations, o.activations);
    json_object_set_new(json, "tokens", json_integer(-1));
    assert_int_equal(qnti_outcome_read(ctx, "here", json, &back), QNT_BAD_DATA);
    assert_message_has(ctx, "here: tokens");
    json_object_del(json, "seconds");
    json_object_set_new(json, "tokens", json_integer(1));
    assert_int_equal(qnti_outcome_read(ctx, "here", json, &back), QNT_BAD_DATA);
    json_decref(json);
    qnti_free(ctx, back.warnings);
    qnt_context_destroy(ctx);
}

/* --- plans --- */

static const qnt_quantize_options rtn_to_q8 = {.method = "rtn", .format = "gguf:q8_0", .output = "again.gguf"};

static qnt_plan *plan_of(qnt_context *ctx, const char *path, const qnt_quantize_options *options, qnt_model **model)
{
    qnt_plan *plan;
    assert_int_equal(qnt_model_open(ctx, path, model), QNT_OK);
    if (qnt_plan_create(*model, options, &plan) != QNT_OK)
        fail_msg("%s", qnt_context_message(ctx));
    return plan;
}

/* The same weights in another place are the same model; other values in the same place are not. */
static void identity(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_model *model;
    qnt_plan *plan, *other;
    qnt_quantize_options options = rtn_to_q8;
    bool shared;
    (void)state;
    make_model(&small);
    plan = plan_of(ctx, "model", &rtn_to_q8, &model);
    assert_int_equal(qnti_plan_identify(plan), QNT_OK);
    assert_int_equal(qnti_plan_compare(plan, "plan.json", plan->identity), QNT_OK);
    json_object_set_new(plan->identity, "model weights", json_string("0"));
    options.format = "gguf:q4_0";
    assert_int_equal(qnt_plan_create(model, &options, &other), QNT_OK);
    assert_int_equal(qnti_plan_identify(other), QNT_OK);
    assert_string_not_equal(plan->hash, other->hash);
    assert_int_equal(qnti_plan_compare(other, "plan.json", plan->identity), QNT_EXISTS);
    assert_message_has(ctx, "plan.json: ");
    assert_message_has(ctx, "model weights was 0, is ");
    assert_message_has(ctx, "recipe 1 grid was gguf:q8_0, is gguf:q4_0");
    assert_int_equal(qnt_plan_share(other, plan, &shared), QNT_OK);
    assert_false(shared);
    qnt_plan_destroy(other);
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    qnt_context_destroy(ctx);
    remove_files();
}

/* Both figures are told, and nothing is left. */
static void no_room(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_model *model;
    qnt_plan *plan;
    (void)state;
    make_model(&small);
    plan = plan_of(ctx, "model", &rtn_to_q8, &model);
    plan->totals.output_bytes = UINT64_C(1) << 62;
    assert_int_equal(qnt_plan_run(plan), QNT_IO);
    assert_message_has(ctx, "bytes are free, the run still needs 46116860184");
    assert_false(qnti_path_exists("again.gguf") || qnti_path_exists("again.gguf.partial"));
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    qnt_context_destroy(ctx);
    remove_files();
}

/* Finished blocks outlive a failure, whole ones alone; another plan does not take them. */
static void blocks_stay(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_quantize_options other = rtn_to_q8;
    qnt_plan_outcome outcome;
    qnt_model *model;
    qnt_plan *plan;
    (void)state;
    make_model(&small);
    plan = plan_of(ctx, "model", &rtn_to_q8, &model);
    assert_int_equal(mkdir("again.gguf", 0777), 0); /* in the way of the output, but not of the blocks */
    put_file("again.gguf/mine", "", 0);
    plan->options.force = true;
    assert_int_equal(qnt_plan_run(plan), QNT_IO);
    assert_true(qnti_path_exists("again.gguf.partial/block-00001.json"));
    qnt_plan_destroy(plan);
    unlink("again.gguf/mine");
    assert_int_equal(rmdir("again.gguf"), 0);
    other.format = "gguf:q4_0";
    assert_int_equal(qnt_plan_create(model, &other, &plan), QNT_OK);
    assert_int_equal(qnt_plan_run(plan), QNT_EXISTS);
    qnt_plan_destroy(plan);
    put_file("again.gguf.partial/block-00000.safetensors", "damaged", 7);
    assert_int_equal(qnt_plan_create(model, &rtn_to_q8, &plan), QNT_OK);
    assert_int_equal(qnt_plan_run(plan), QNT_OK);
    qnt_plan_get_outcome(plan, &outcome);
    assert_int_equal(outcome.blocks, 2);
    assert_int_equal(outcome.resumed_blocks, 1);
    assert_false(outcome.already || qnti_path_exists("again.gguf.partial"));
    assert_int_equal(qnt_plan_run(plan), QNT_OK);
    qnt_plan_get_outcome(plan, &outcome);
    assert_true(outcome.already);
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    qnt_context_destroy(ctx);
    remove_files();
}

/* --- a run that is stopped --- */

struct stop {
    const char *phase;
    bool now;
};

static void stop_in_phase(void *user, const qnt_progress *progress)
{
    struct stop *stop = user;
    stop->now = stop->now || strcmp(progress->phase, stop->phase) == 0;
}

static bool must_stop(void *user)
{
    return ((struct stop *)user)->now;
}

/* Calibration for a vocabulary of 40: a .npy of 32 ids. */
static void put_ids(void)
{
    char header[128], ids[32 * 4] = {0};
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(header + 10, "{'descr': '<i4', 'fortran_order': False, 'shape': (32,), }", 58);
    header[127] = '\n';
    for (int i = 0; i < 32; i++)
        ids[4 * i] = (char)(i * 7 % 40);
    FILE *file = fopen("ids.npy", "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, 1, sizeof header, file), sizeof header);
    assert_int_equal(fwrite(ids, 1, sizeof ids, file), sizeof ids);
    assert_int_equal(fclose(file), 0);
}

/* Before the first block is finished nothing is left; once the output is there, it stays and is said to be complete. */
static void stopped(void **state)
{
    static const char *const phases[] = {"quantize", "verify"};
    (void)state;
    make_model(&small);
    put_ids();
    for (size_t i = 0; i < COUNT(phases); i++) {
        struct stop stop = {phases[i], false};
        qnt_context_options host = {.threads = 2, .cancel = must_stop, .cancel_user = &stop};
        qnt_quantize_options options = {.method = "gptq", .format = "gguf:q4_0", .output = "again.gguf",
                                        .calibration = "ids.npy", .samples = 2, .seqlen = 16,
                                        .progress = stop_in_phase, .progress_user = &stop};
        qnt_context *ctx;
        qnt_model *model;
        qnt_plan *plan;
        assert_int_equal(qnt_context_create(&host, &ctx), QNT_OK);
        plan = plan_of(ctx, "model", &options, &model);
        assert_int_equal(qnt_plan_run(plan), QNT_CANCELLED);
        if (i)
            assert_message_has(ctx, "again.gguf is complete");
        assert_int_equal(qnti_path_exists("again.gguf"), i);
        assert_false(qnti_path_exists("again.gguf.partial"));
        qnt_plan_destroy(plan);
        qnt_model_close(model);
        qnt_context_destroy(ctx);
    }
    unlink("ids.npy");
    remove_files();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_holder),          cmocka_unit_test(removed_while_held),
        cmocka_unit_test(abandoned_temporary), cmocka_unit_test(folder_replaced),
        cmocka_unit_test(spilled_values_stay), cmocka_unit_test(spilled_pages_leave),
        cmocka_unit_test(spill_on_a_full_disk), cmocka_unit_test(outcome_and_back),
        cmocka_unit_test(identity),            cmocka_unit_test(no_room),
        cmocka_unit_test(blocks_stay),         cmocka_unit_test(stopped),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
