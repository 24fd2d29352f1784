/*
 * test_model_memory.c - every allocation of a small quantization fails once: an error each time, all memory is given
 * back, no output and no temporary of one is there.
 */
#include "damage_support.h"

/* In place of the system's: waiting for the disk a thousand times shows nothing here. */
int fsync(int descriptor)
{
    (void)descriptor;
    return 0;
}

struct job {
    const char *method, *format;
};

static const struct shape one_block = {"LlamaForCausalLM", "F32", 32, 32, 1, 2, 2, 40, .bias = false};

/* Only finished blocks may stay, in the work folder. */
static void check_left(qnt_status status)
{
    DIR *folder = opendir("out");
    const struct dirent *entry;
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
            strcmp(entry->d_name, status == QNT_OK ? "o" : "o.partial"))
            fail_msg("status %d leaves %s", status, entry->d_name);
    closedir(folder);
}

static qnt_status run_job(qnt_context *ctx, void *user)
{
    const struct job *job = user;
    qnt_quantize_options options = {.method = job->method, .format = job->format, .output = "out/o", .force = true,
                                    .calibration = "ids.npy", .samples = 2, .seqlen = 16, .no_verify = true};
    qnt_model *model = NULL;
    qnt_plan *plan = NULL;
    qnt_status status;
    QNT_CHECK(qnt_model_open(ctx, "model", &model));
    QNT_CHECK(qnt_plan_create(model, &options, &plan));
    status = qnt_plan_run(plan);
cleanup:
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    check_left(status);
    return status;
}

static void each_allocation_of_a_run(void **state)
{
    static struct job jobs[] = {
        {"gptq", "gguf:q4_0"},
        {"awq:scale_grid=2,gptq:group_size=32", "native"},
        {"awq:scale_grid=2,gptq:group_size=32", "gptq"},
        {"smoothquant", "native"},
        {"smoothquant,gptq:group_size=32", "gptq"},
        {"squeezellm:bits=2,outlier_fraction=0.01", "native"},
        {"os_plus:search_steps=2,search_low=0.01", "native"},
        {"outlier_suppression:iterations=2,epochs=1", "native"},
    };
    (void)state;
    make_model(&one_block);
    put_ids("ids.npy", 32);
    for (size_t i = 0; i < COUNT(jobs); i++) {
        assert_int_equal(mkdir("out", 0777), 0);
        each_allocation_fails(run_job, &jobs[i]);
        remove_tree("out");
    }
    unlink("ids.npy");
    remove_files();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_of_a_run)};
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
