/*
 * test_model_json.c - JSON of others: what is read, and what an error says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "container/json.h"

static int set_up(void **state)
{
    qnt_context *ctx;
    assert_int_equal(qnt_context_create(NULL, &ctx), QNT_OK);
    *state = ctx;
    return 0;
}

static int tear_down(void **state)
{
    qnt_context_destroy(*state);
    return 0;
}

static json_t *parse(qnt_context *ctx, const char *text)
{
    json_t *root;
    assert_int_equal(qnti_json_parse(ctx, "file", text, strlen(text), &root), QNT_OK);
    return root;
}

static void test_members(void **state)
{
    qnt_context *ctx = *state;
    json_t *root =
        parse(ctx, "{\"n\": 12, \"whole\": 3.0, \"x\": -1.5, \"b\": true, \"s\": \"a\\u0000b\", \"null\": null}");
    const char *string = "before";
    bool truth = false;
    size_t size = 7;
    float number = 7;
    assert_int_equal(qnti_json_size(ctx, "file", root, "n", &size), QNT_OK);
    assert_int_equal(size, 12);
    assert_int_equal(qnti_json_size(ctx, "file", root, "whole", &size), QNT_OK);
    assert_int_equal(size, 3);
    assert_int_equal(qnti_json_float(ctx, "file", root, "x", &number), QNT_OK);
    assert_true(number == -1.5f);
    assert_int_equal(qnti_json_float(ctx, "file", root, "n", &number), QNT_OK);
    assert_true(number == 12);
    assert_int_equal(qnti_json_bool(ctx, "file", root, "b", &truth), QNT_OK);
    assert_true(truth);
    assert_int_equal(qnti_json_string(ctx, "file", root, "s", &string), QNT_OK);
    assert_memory_equal(string, "a\0b", 4);
    json_decref(root);
}

/* A missing or null member leaves the value, and so does what is no object at all. */
static void test_missing(void **state)
{
    static const char *const texts[] = {"{}", "{\"k\": null}", "[1]"};
    qnt_context *ctx = *state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *root = parse(ctx, texts[i]);
        const char *string = "before";
        bool truth = true;
        size_t size = 7;
        float number = 7;
        assert_int_equal(qnti_json_size(ctx, "file", root, "k", &size), QNT_OK);
        assert_int_equal(qnti_json_float(ctx, "file", root, "k", &number), QNT_OK);
        assert_int_equal(qnti_json_bool(ctx, "file", root, "k", &truth), QNT_OK);
        assert_int_equal(qnti_json_string(ctx, "file", root, "k", &string), QNT_OK);
        assert_true(size == 7 && number == 7 && truth && strcmp(string, "before") == 0);
        json_decref(root);
    }
}

static void test_wrong_type(void **state)
{
    static const char *const counts[] = {"-1", "1.5", "true", "\"1\"", "[]", "{}", "1e300"};
    qnt_context *ctx = *state;
    const char *string = NULL;
    bool truth;
    float number;
    size_t size = 7;
    json_t *root;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char text[64] = "{\"hidden_size\": ";
        root = parse(ctx, strcat(strcat(text, counts[i]), "}"));
        assert_int_equal(qnti_json_size(ctx, "config.json", root, "hidden_size", &size), QNT_BAD_DATA);
        assert_non_null(strstr(qnt_context_message(ctx), "config.json: hidden_size"));
        assert_int_equal(size, 7);
        json_decref(root);
    }
    root = parse(ctx, "{\"k\": []}");
    assert_int_equal(qnti_json_float(ctx, "file", root, "k", &number), QNT_BAD_DATA);
    assert_int_equal(qnti_json_bool(ctx, "file", root, "k", &truth), QNT_BAD_DATA);
    assert_int_equal(qnti_json_string(ctx, "file", root, "k", &string), QNT_BAD_DATA);
    assert_string_equal(qnt_context_message(ctx), "file: k should be a string, is an array");
    json_decref(root);
}

/* Hugging Face writes model_max_length as 10^30 and its neighbours. */
static void test_large_integer(void **state)
{
    qnt_context *ctx = *state;
    json_t *root = parse(ctx, "{\"model_max_length\": 1000000000000000019884624838656, \"n\": 5}");
    size_t size = 0;
    float number;
    assert_int_equal(qnti_json_float(ctx, "file", root, "model_max_length", &number), QNT_OK);
    assert_true(number == 1e30f);
    assert_int_equal(qnti_json_size(ctx, "file", root, "n", &size), QNT_OK);
    assert_int_equal(size, 5);
    assert_int_equal(qnti_json_size(ctx, "file", root, "model_max_length", &size), QNT_BAD_DATA);
    json_decref(root);
}

static void test_damaged(void **state)
{
    static const char *const texts[] = {"",     "{",    "{\"a\": 1", "{\"a\": 1, \"a\": 2}", "{\"a\": 1e999}",
                                        "[1,]", "\xFF", "{} {}",     "{\"a\": NaN}"};
    qnt_context *ctx = *state;
    json_t *root;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(qnti_json_parse(ctx, "file", texts[i], strlen(texts[i]), &root), QNT_BAD_DATA);
        assert_null(root);
    }
    assert_int_equal(qnti_json_parse(ctx, "file", "{\n\"a\" 1}", 8, &root), QNT_BAD_DATA);
    assert_non_null(strstr(qnt_context_message(ctx), "file: line 2, column "));
    assert_int_equal(qnti_json_parse(ctx, "file", NULL, 0, &root), QNT_BAD_DATA);
}

/* Deep nesting must not take the stack. */
static void test_deep(void **state)
{
    enum { DEPTH = 1000000 };
    qnt_context *ctx = *state;
    char *text = malloc(DEPTH);
    json_t *root;
    assert_non_null(text);
    memset(text, '[', DEPTH);
    assert_int_equal(qnti_json_parse(ctx, "file", text, DEPTH, &root), QNT_BAD_DATA);
    free(text);
}

static void test_load(void **state)
{
    qnt_context *ctx = *state;
    json_t *root;
    assert_int_equal(qnti_json_load(ctx, SOURCE_DIR "/tests/golden/tokenizers/spm_bpe.json", &root), QNT_OK);
    assert_true(json_is_object(json_object_get(root, "model")));
    json_decref(root);
    assert_int_equal(qnti_json_load(ctx, SOURCE_DIR "/tests/golden/nothing.json", &root), QNT_IO);
    assert_null(root);
    assert_int_equal(qnti_json_load(ctx, SOURCE_DIR "/tests/golden/tokenizers/spm_bpe.model", &root), QNT_BAD_DATA);
    assert_non_null(strstr(qnt_context_message(ctx), "spm_bpe.model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),       cmocka_unit_test(test_missing), cmocka_unit_test(test_wrong_type),
        cmocka_unit_test(test_large_integer), cmocka_unit_test(test_damaged), cmocka_unit_test(test_deep),
        cmocka_unit_test(test_load),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
