/*
 * test_model_shapes.c - what a model needs in memory, from its config.json alone: figures that follow from its shape.
 */
#include "file_support.h"

#include <string.h>
#include <quant/model.h>

static const char llama_7b[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 4096, "
                               "\"intermediate_size\": 11008, \"num_hidden_layers\": 32, \"num_attention_heads\": 32, "
                               "\"vocab_size\": 32000, \"max_position_embeddings\": 2048}";
static const char llama2_70b[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8192, "
                                 "\"intermediate_size\": 28672, \"num_hidden_layers\": 80, "
                                 "\"num_attention_heads\": 64, \"num_key_value_heads\": 8, \"vocab_size\": 32000, "
                                 "\"max_position_embeddings\": 4096}";

static qnt_memory memory_of(const char *config, const qnt_memory_options *options)
{
    qnt_context *ctx;
    qnt_memory memory;
    put_file("config.json", config, strlen(config));
    assert_int_equal(qnt_context_create(NULL, &ctx), QNT_OK);
    if (qnt_memory_of_config(ctx, "config.json", options, &memory) != QNT_OK)
        fail_msg("%s", qnt_context_message(ctx));
    qnt_context_destroy(ctx);
    unlink("config.json");
    return memory;
}

static void test_llama_7b(void **state)
{
    qnt_memory m = memory_of(llama_7b, &(qnt_memory_options){.lora_rank = 64, .activation_bytes = 2});
    (void)state;
    assert_int_equal(m.parameters, 6738415616);
    assert_int_equal(m.linear_parameters, 6476005376);
    assert_int_equal(m.embedding_parameters, 262144000);
    assert_int_equal(m.norm_parameters, 266240);
    assert_int_equal(m.weight_bytes, 13476831232);
    assert_int_equal(m.context, 2048);
    assert_int_equal(m.kv_bytes, 1073741824);
    assert_true(m.kv_bytes_per_token == 524288);
    assert_int_equal(m.activation_bytes, 168820736);
    assert_int_equal(m.lora_parameters, 159907840);
    assert_int_equal(m.stored_bytes, UINT64_C(153728) * 32 * 2048);
}

static void test_recipes(void **state)
{
    static const struct {
        const char *method;
        double bits;     /* of a linear's weight; all else in 16 */
    } cases[] = {
        {"gptq:bits=4,group_size=128", 4.15625},
        {"gptq:bits=4,group_size=128,sym=true", 4.125},
        {"gptq:bits=3,group_size=128", 3 + 19.0 / 128},
        {"bnb4:block_size=64", 4.5},
        {"olive:group_size=128", 4.125},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_memory m = memory_of(llama_7b, &(qnt_memory_options){.method = cases[i].method});
        assert_int_equal(m.weight_bytes, (uint64_t)(6476005376.0 * cases[i].bits / 8) + UINT64_C(262410240) * 2);
    }
}

/* Keys and values in few bits, the newest in 16; several sequences; what a device has room for. */
static void test_caches(void **state)
{
    qnt_memory plain = memory_of(llama2_70b, &(qnt_memory_options){.batch = 3}),
               few = memory_of(llama2_70b, &(qnt_memory_options){.kv = "kivi:bits=2"}),
               fits = memory_of(llama_7b, &(qnt_memory_options){.tokens = 1, .device_bytes = UINT64_C(15) << 30});
    (void)state;
    assert_int_equal(plain.kv_bytes, UINT64_C(327680) * 4096 * 3);
    /* keys leave in whole windows: none stays; of values the last 128 do */
    assert_int_equal(few.kv_bytes, (uint64_t)(80.0 * 1024 * (4096 * 3 + (4096 - 128) * 3 + 128 * 16) / 8));
    assert_true(fits.longest_context >= 4000 && fits.longest_context < 5300);
    assert_true(524288.0 * (double)(fits.longest_context + 1) + (double)(fits.inference_bytes - fits.kv_bytes) >
                (double)(UINT64_C(15) << 30));
}

static void test_refusals(void **state)
{
    static const struct {
        const char *config, *kv, *method, *message;
    } cases[] = {
        {"{\"architectures\": [\"NoSuchModel\"]}", NULL, NULL, "NoSuchModel"},
        {"[]", NULL, NULL, "JSON object"},
        {llama_7b, "kivy", NULL, "kivy"},
        {llama_7b, NULL, "gptk", "did you mean \"gptq\""},
    };
    qnt_context *ctx;
    qnt_memory memory;
    size_t held;
    (void)state;
    assert_int_equal(qnt_context_create(NULL, &ctx), QNT_OK);
    held = qnt_context_bytes(ctx, NULL);
    for (size_t i = 0; i < COUNT(cases); i++) {
        put_file("config.json", cases[i].config, strlen(cases[i].config));
        assert_int_not_equal(qnt_memory_of_config(ctx, "config.json",
                                                  &(qnt_memory_options){.kv = cases[i].kv, .method = cases[i].method},
                                                  &memory), QNT_OK);
        assert_message_has(ctx, cases[i].message);
        unlink("config.json");
        assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    }
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_7b),
        cmocka_unit_test(test_recipes),
        cmocka_unit_test(test_caches),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
