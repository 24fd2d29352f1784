/*
 * test_model_tokenizer.c - tokenizers give the ids and texts of the libraries that own their formats.
 *
 * The cases in golden/tokenizers were computed by the tokenizers and sentencepiece libraries. What needs published
 * models and texts runs where QUANT_SHARED names their folder.
 */
#include "tokenizer_support.h"

static int set_up(void **state)
{
    struct fixture *f;
    set_up_fixture(state);
    f = *state;
    return qnti_json_load(f->ctx, GOLDEN "tokenizer_cases.json", &f->cases) == QNT_OK ? 0 : -1;
}

static void check_ids(const int32_t *ids, size_t count, const json_t *wanted, const char *text)
{
    bool equal = count == json_array_size(wanted);
    for (size_t i = 0; equal && i < count; i++)
        equal = ids[i] == json_integer_value(json_array_get(wanted, i));
    if (equal)
        return;
    for (size_t i = 0; i < count; i++)
        print_message("%d ", (int)ids[i]);
    fail_msg("other ids than the library for \"%s\"", text);
}

static void check_encode(struct fixture *f, const qnti_tokenizer *t, const json_t *text, bool special,
                         bool parse_special, const json_t *wanted)
{
    int32_t *ids;
    size_t count;
    must(f->ctx, qnti_tokenizer_encode(t, json_string_value(text), json_string_length(text), special, parse_special,
                                       &ids, &count));
    check_ids(ids, count, wanted, json_string_value(text));
    qnti_free(f->ctx, ids);
}

static void check_decode(struct fixture *f, const qnti_tokenizer *t, const json_t *ids, bool skip, const json_t *wanted)
{
    int32_t list[1024];
    size_t count = json_array_size(ids), bytes;
    char *text;
    assert_true(count <= 1024);
    for (size_t i = 0; i < count; i++)
        list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    must(f->ctx, qnti_tokenizer_decode(t, list, count, skip, &text, &bytes));
    if (bytes != json_string_length(wanted) || memcmp(text, json_string_value(wanted), bytes) != 0)
        fail_msg("decoded \"%s\", not \"%s\"", text, json_string_value(wanted));
    qnti_free(f->ctx, text);
}

static void check_tokens(const qnti_tokenizer *t, const json_t *ids, const json_t *tokens)
{
    const struct qnti_vocabulary *v = qnti_tokenizer_vocabulary(t);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        size_t id = (size_t)json_integer_value(json_array_get(ids, i));
        assert_string_equal(v->pieces[id], json_string_value(json_array_get(tokens, i)));
    }
}

static void check_case(struct fixture *f, const qnti_tokenizer *t, const json_t *c)
{
    const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids");
    const json_t *with = json_object_get(c, "ids_with_special");
    /* the sentencepiece library never takes text for special tokens */
    check_encode(f, t, text, false, with != NULL, ids);
    check_decode(f, t, ids, false, json_object_get(c, "decoded"));
    check_tokens(t, ids, json_object_get(c, "tokens"));
    if (with) {
        check_encode(f, t, text, true, true, with);
        check_decode(f, t, with, true, json_object_get(c, "decoded_skip_special"));
    }
}

/* Every text by every file. */
static void test_cases(void **state)
{
    struct fixture *f = *state;
    json_t *tokenizers = json_object_get(f->cases, "tokenizers"), *of;
    const char *name;
    size_t run = 0;
    json_object_foreach(tokenizers, name, of)
    {
        qnti_tokenizer *t = open_golden(f, json_string_value(json_object_get(of, "file")));
        const json_t *cases = json_object_get(of, "cases"), *size = json_object_get(of, "vocab_size_with_added");
        if (size)
            assert_int_equal(qnti_tokenizer_vocabulary(t)->count, json_integer_value(size));
        for (size_t i = 0; i < json_array_size(cases); i++, run++)
            check_case(f, t, json_array_get(cases, i));
        qnti_tokenizer_close(t);
    }
    assert_int_equal(run, 4 * 32);
}

/* Lists of ids with incomplete and invalid UTF-8 among them. */
static void test_decode(void **state)
{
    static const char *const files[] = {"spm_bpe", "spm_bpe_metaspace", "spm_bpe.model"};
    struct fixture *f = *state;
    const json_t *decode = json_object_get(f->cases, "decode"), *lists = json_object_get(decode, "sentencepiece");
    qnti_tokenizer *t;
    for (size_t k = 0; k < 3; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", files[k], k < 2 ? ".json" : "");
        t = open_golden(f, name);
        for (size_t i = 0; i < json_array_size(lists); i++) {
            const json_t *list = json_array_get(lists, i), *ids = json_object_get(list, "ids");
            check_decode(f, t, ids, false, json_object_get(list, files[k]));
            snprintf(name, sizeof name, "%s_skip_special", files[k]);
            if (json_object_get(list, name))
                check_decode(f, t, ids, true, json_object_get(list, name));
        }
        qnti_tokenizer_close(t);
    }
    t = open_golden(f, "bytelevel_bpe.json");
    lists = json_object_get(decode, "bytelevel_bpe");
    for (size_t i = 0; i < json_array_size(lists); i++) {
        const json_t *list = json_array_get(lists, i);
        check_decode(f, t, json_object_get(list, "ids"), false, json_object_get(list, "decoded"));
        check_decode(f, t, json_object_get(list, "ids"), true, json_object_get(list, "decoded_skip_special"));
    }
    qnti_tokenizer_close(t);
}

static void test_pretokenize(void **state)
{
    struct fixture *f = *state;
    const json_t *cases = json_object_get(f->cases, "pretokenize"), *patterns = json_object_get(f->cases, "patterns");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
        const json_t *wanted = json_object_get(c, "pieces");
        const char *source =
            json_string_value(json_object_get(patterns, json_string_value(json_object_get(c, "pattern"))));
        struct qnti_steps steps = {.count = 0};
        struct qnti_step split = {.kind = QNTI_STEP_SPLIT};
        struct qnti_pieces pieces = {.at_start = true};
        must(f->ctx, qnti_steps_add(f->ctx, "case", &steps, &split, source, strlen(source), NULL, 0));
        must(f->ctx, qnti_pieces_add(f->ctx, &pieces, json_string_value(text), json_string_length(text)));
        must(f->ctx, qnti_steps_run(f->ctx, &steps, &pieces));
        assert_int_equal(qnti_pieces_count(&pieces), json_array_size(wanted));
        for (size_t k = 0; k < qnti_pieces_count(&pieces); k++) {
            size_t bytes;
            const char *piece = qnti_piece(&pieces, k, &bytes);
            assert_int_equal(bytes, json_string_length(json_array_get(wanted, k)));
            assert_memory_equal(piece, json_string_value(json_array_get(wanted, k)), bytes);
        }
        qnti_pieces_free(f->ctx, &pieces);
        qnti_steps_free(f->ctx, &steps);
    }
}

/* What a GGUF holds is enough to encode like the folder. */
static void test_from_vocabulary(void **state)
{
    static const char *const names[] = {"bytelevel_bpe", "spm_bpe"};
    struct fixture *f = *state;
    for (size_t k = 0; k < 2; k++) {
        const json_t *of = json_object_get(json_object_get(f->cases, "tokenizers"), names[k]);
        const json_t *cases = json_object_get(of, "cases");
        qnti_tokenizer *t = open_golden(f, json_string_value(json_object_get(of, "file"))), *again;
        must(f->ctx, qnti_tokenizer_from_vocabulary(f->ctx, qnti_tokenizer_vocabulary(t), &again));
        qnti_tokenizer_close(t); /* everything was copied */
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_case(f, again, json_array_get(cases, i));
        assert_string_equal(qnti_tokenizer_vocabulary(again)->pre, k ? "default" : "llama-bpe");
        qnti_tokenizer_close(again);
    }
}

/* The vocabulary as gguf.md section 6 wants it. */
static void test_vocabulary(void **state)
{
    struct fixture *f = *state;
    qnti_tokenizer *json = open_golden(f, "spm_bpe.json"), *model = open_golden(f, "spm_bpe.model");
    const struct qnti_vocabulary *a = qnti_tokenizer_vocabulary(json), *b = qnti_tokenizer_vocabulary(model);
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_string_equal(a->pieces[i], b->pieces[i]);
        assert_int_equal(a->kinds[i], b->kinds[i]);
    }
    assert_true(a->add_space_prefix && b->add_space_prefix && a->add_bos && b->add_bos && !a->add_eos && !b->add_eos);
    assert_int_equal(a->bos, 1);
    assert_int_equal(b->bos, 1);
    assert_int_equal(b->eos, 2);
    assert_int_equal(a->unk, 0);
    assert_int_equal(b->unk, 0);
    assert_false(a->byte_level);
    assert_null(a->merges);
    qnti_tokenizer_close(json);
    qnti_tokenizer_close(model);
    json = open_golden(f, "bytelevel_bpe.json");
    a = qnti_tokenizer_vocabulary(json);
    assert_true(a->byte_level && a->add_bos && !a->scores && !a->add_space_prefix);
    assert_int_equal(a->bos, 903);
    assert_int_equal(a->kinds[903], QNTI_TOKEN_CONTROL);
    assert_int_equal(a->kinds[906], QNTI_TOKEN_USER);
    assert_string_equal(a->merges[0], "h e");
    assert_int_equal(a->merge_bytes[0], 3);
    qnti_tokenizer_close(json);
}

static const char *shared(void)
{
    const char *folder = getenv("QUANT_SHARED");
    if (!folder) {
        print_message("QUANT_SHARED is not set: models and texts are not at hand, skipped\n");
        skip();
    }
    return folder;
}

static void encode_file(struct fixture *f, const qnti_tokenizer *t, const char *folder, const char *name, int32_t **ids,
                        size_t *count)
{
    char path[1024], *text;
    size_t bytes;
    snprintf(path, sizeof path, "%s/models/text/%s", folder, name);
    must(f->ctx, qnti_read_file(f->ctx, path, 1 << 24, &text, &bytes));
    must(f->ctx, qnti_tokenizer_encode(t, text, bytes, false, true, ids, count));
    qnti_free(f->ctx, text);
}

static void test_whole_files(void **state)
{
    struct fixture *f = *state;
    const char *folder = shared(), *name;
    json_t *files = json_object_get(f->cases, "whole_files"), *of;
    json_object_foreach(files, name, of)
    {
        char file[64];
        const char *space = strchr(name, ' ');
        qnti_tokenizer *t;
        int32_t *ids;
        size_t count;
        snprintf(file, sizeof file, "%.*s.json", (int)(space - name), name);
        t = open_golden(f, file);
        encode_file(f, t, folder, space + 1, &ids, &count);
        assert_int_equal(count, json_integer_value(json_object_get(of, "count")));
        check_ids(ids, 16, json_object_get(of, "first16"), name);
        check_ids(ids + count - 16, 16, json_object_get(of, "last16"), name);
        qnti_free(f->ctx, ids);
        qnti_tokenizer_close(t);
    }
}

static void check_equal_ids(struct fixture *f, const qnti_tokenizer *a, const qnti_tokenizer *b, const char *folder,
                            const char *text)
{
    int32_t *left, *right;
    size_t left_count, right_count;
    encode_file(f, a, folder, text, &left, &left_count);
    encode_file(f, b, folder, text, &right, &right_count);
    assert_int_equal(left_count, right_count);
    assert_memory_equal(left, right, left_count * sizeof *left);
    qnti_free(f->ctx, left);
    qnti_free(f->ctx, right);
}

/* tokenizer.json, tokenizer.model and the vocabulary of a folder encode alike. */
static void test_folders(void **state)
{
    static const char *const models[] = {"stories260K", "babyllama-105", "tinystories-k256"};
    struct fixture *f = *state;
    const char *folder = shared();
    for (size_t k = 0; k < 3; k++) {
        char path[1024], file[1100];
        qnti_tokenizer *all, *model, *gguf;
        snprintf(path, sizeof path, "%s/models/%s", folder, models[k]);
        snprintf(file, sizeof file, "%s/tokenizer.model", path);
        must(f->ctx, qnti_tokenizer_open(f->ctx, path, &all));
        must(f->ctx, qnti_tokenizer_open_file(f->ctx, file, &model));
        must(f->ctx, qnti_tokenizer_from_vocabulary(f->ctx, qnti_tokenizer_vocabulary(all), &gguf));
        assert_int_equal(qnti_tokenizer_vocabulary(all)->eos, 2);
        assert_true(qnti_tokenizer_vocabulary(all)->add_bos);
        for (size_t id = 3; id < qnti_tokenizer_vocabulary(all)->count; id++)
            assert_true(qnti_tokenizer_vocabulary(all)->scores[id] == qnti_tokenizer_vocabulary(model)->scores[id]);
        check_equal_ids(f, all, model, folder, "stories-calib.txt");
        check_equal_ids(f, all, gguf, folder, "code-eval.txt");
        qnti_tokenizer_close(all);
        qnti_tokenizer_close(model);
        qnti_tokenizer_close(gguf);
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),           cmocka_unit_test(test_decode),     cmocka_unit_test(test_pretokenize),
        cmocka_unit_test(test_from_vocabulary), cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_whole_files),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down_fixture);
}
