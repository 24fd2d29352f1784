/*
 * test_model_gguf.c - every rule of the GGUF reader has a file that breaks it, and written files equal gguf-py's.
 *
 * tests/golden/containers/small.gguf was written by the format's own Python
 * package: ten keys of eight kinds, tensors of type F32, F16, Q8_0.
 */
#include "file_support.h"

#include "base/number.h"
#include "container/gguf.h"

#define GOLDEN SOURCE_DIR "/tests/golden/containers/small.gguf"

enum { F32 = 0, F16 = 1, Q8_0 = 8, BIG = 99 };

static bool some_types(uint32_t type, size_t *block_elements, size_t *block_bytes)
{
    static const struct {
        uint32_t type;
        size_t elements, bytes;
    } rows[] = {{F32, 1, 4}, {F16, 1, 2}, {Q8_0, 32, 34}, {BIG, 1, 16}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        *block_elements = rows[i].elements;
        *block_bytes = rows[i].bytes;
        if (rows[i].type == type)
            return true;
    }
    return false;
}

/* Files are put together byte by byte. */
struct image {
    unsigned char bytes[4096];
    size_t n;
};

static void put(struct image *image, uint64_t value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        image->bytes[image->n++] = (unsigned char)(value >> (8 * i));
}

static void put_string(struct image *image, const char *string)
{
    put(image, strlen(string), 8);
    memcpy(image->bytes + image->n, string, strlen(string));
    image->n += strlen(string);
}

/* One key and two tensors, or what a row of the table makes of them; zero is the valid default. */
struct spec {
    const char *magic;
    uint32_t version;
    uint64_t tensors, values;          /* as stated */
    const char *key;                   /* "k" */
    uint32_t key_type;                 /* u32, with the value `value` */
    uint64_t value;
    const unsigned char *raw;          /* in place of the value */
    size_t raw_bytes;
    bool no_values, no_tensors;
    const char *name;                  /* of the second tensor, "b"; the first is "a" */
    uint32_t rank;                     /* of the second, 2: 8 x 2 */
    uint64_t ne[5];
    uint32_t type;                     /* of both */
    uint64_t offset;                   /* added to the second tensor's */
    size_t align;                      /* of the data, 32 */
    long data;                         /* added to the data's length */
};

static void put_tensor(struct image *image, const struct spec *s, const char *name, bool second, uint64_t offset)
{
    static const uint64_t usual[5] = {8, 2, 1, 1, 1};
    const uint64_t *ne = second && s->rank ? s->ne : usual;
    uint32_t rank = second && s->rank ? s->rank % 100 : 2; /* 100: rank 0 */
    put_string(image, name);
    put(image, rank, 4);
    for (uint32_t i = 0; i < rank && i < 5; i++)
        put(image, ne[i], 8);
    put(image, s->type, 4);
    put(image, offset, 8);
}

static void build(const struct spec *s, struct image *image)
{
    size_t align = s->align ? s->align : 32, first = (64 + align - 1) / align * align;
    memset(image, 0, sizeof *image);
    memcpy(image->bytes, s->magic ? s->magic : "GGUF", 4);
    image->n = 4;
    put(image, s->version ? s->version : 3, 4);
    put(image, s->tensors ? s->tensors : s->no_tensors ? 0 : 2, 8);
    put(image, s->values ? s->values : s->no_values ? 0 : 1, 8);
    if (!s->no_values) {
        put_string(image, s->key ? s->key : "k");
        put(image, s->raw ? s->key_type : s->key_type ? s->key_type : QNTI_GGUF_U32, 4);
        if (s->raw)
            memcpy(image->bytes + image->n, s->raw, s->raw_bytes);
        image->n += s->raw_bytes;
        if (!s->raw)
            put(image, s->value, 4);
    }
    if (s->no_tensors)
        return;
    put_tensor(image, s, "a", false, 0);
    put_tensor(image, s, s->name ? s->name : "b", true, first + s->offset);
    image->n = (image->n + align - 1) / align * align;
    image->n += (size_t)((long)(2 * first) + s->data);
}

#define RAW(literal) .raw = (const unsigned char *)(literal), .raw_bytes = sizeof(literal) - 1
#define ZEROS7 "\0\0\0\0\0\0\0"
#define NAME_63 "123456789012345678901234567890123456789012345678901234567890123"

static const struct {
    const char *what;
    struct spec spec;
    qnt_status status;
    const char *message;
} rules[] = {
    {"usual", {0}, QNT_OK, ""},
    {"version 2", {.version = 2}, QNT_OK, ""},
    {"no keys", {.no_values = true}, QNT_OK, ""},
    {"keys only", {.no_tensors = true}, QNT_OK, ""},
    {"nothing at all", {.no_values = true, .no_tensors = true}, QNT_OK, ""},
    {"alignment 8", {.key = "general.alignment", .value = 8, .align = 8}, QNT_OK, ""},
    {"alignment 128", {.key = "general.alignment", .value = 128, .align = 128}, QNT_OK, ""},
    {"name of 63 bytes", {.name = NAME_63}, QNT_OK, ""},
    {"no name", {.name = ""}, QNT_OK, ""},
    {"scalar", {.rank = 100, .data = -32}, QNT_OK, ""},
    {"empty tensor", {.rank = 2, .ne = {0, 4}, .data = -64}, QNT_OK, ""},
    {"bytes behind the data", {.data = 5}, QNT_OK, ""},
    {"empty array", {.key_type = 9, RAW("\x08\0\0\0\0" ZEROS7)}, QNT_OK, ""},
    {"array of strings", {.key_type = 9, RAW("\x08\0\0\0\x02" ZEROS7 "\0" ZEROS7 "\x01" ZEROS7 "s")}, QNT_OK, ""},

    {"magic", {.magic = "GGML"}, QNT_BAD_DATA, "does not begin with \"GGUF\""},
    {"version 1", {.version = 1}, QNT_UNSUPPORTED, "version 1, versions 2 and 3"},
    {"version 4", {.version = 4}, QNT_UNSUPPORTED, "version 4, versions 2 and 3"},
    {"big-endian", {.version = 0x03000000}, QNT_UNSUPPORTED, "big-endian"},
    {"too many tensors", {.tensors = UINT64_MAX}, QNT_BAD_DATA, "18446744073709551615 tensors, too many"},
    {"too many keys", {.values = UINT64_MAX / 2}, QNT_BAD_DATA, "9223372036854775807 keys"},
    {"more keys than there are", {.values = 2}, QNT_BAD_DATA, "at most 63"},
    {"more tensors than there are", {.tensors = 3}, QNT_BAD_DATA, ""},
    {"empty key", {.key = ""}, QNT_BAD_DATA, "is empty"},
    {"duplicate key", {.values = 2, .key_type = 4, RAW("\0\0\0\0\x01" ZEROS7 "k\x04\0\0\0\0\0\0\0")}, QNT_BAD_DATA,
     "key k stands twice"},
    {"value type", {.key_type = 13}, QNT_BAD_DATA, "key k has the value type 13"},
    {"array of arrays", {.key_type = 9, RAW("\x09\0\0\0\x01" ZEROS7)}, QNT_BAD_DATA, "key k has the element type 9"},
    {"element type", {.key_type = 9, RAW("\xff\xff\xff\xff\x01" ZEROS7)}, QNT_BAD_DATA, "element type 4294967295"},
    {"string beyond the file", {.no_tensors = true, .key_type = 8, RAW("\x09" ZEROS7 "12345678")}, QNT_BAD_DATA,
     "k at byte 45 needs 9 bytes, 8 are left"},
    {"string of 2^64 - 1", {.key_type = 8, RAW("\xff\xff\xff\xff\xff\xff\xff\xff")}, QNT_BAD_DATA,
     "needs 18446744073709551615 bytes"},
    {"array beyond the file", {.no_tensors = true, .key_type = 9, RAW("\x04\0\0\0\x02" ZEROS7 "1234567")}, QNT_BAD_DATA,
     "needs 8 bytes, 7 are left"},
    {"array beyond 2^64", {.key_type = 9, RAW("\x0a\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")}, QNT_BAD_DATA,
     "needs 18446744073709551615 bytes"},
    {"string in an array beyond the file",
     {.no_tensors = true, .key_type = 9, RAW("\x08\0\0\0\x01" ZEROS7 "\x04" ZEROS7 "123")}, QNT_BAD_DATA,
     "needs 4 bytes, 3 are left"},
    {"many strings", {.no_tensors = true, .key_type = 9, RAW("\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")},
     QNT_BAD_DATA, "needs 8 bytes, 0 are left"},
    {"alignment 0", {.key = "general.alignment", .value = 0}, QNT_BAD_DATA, "general.alignment is 0"},
    {"alignment 48", {.key = "general.alignment", .value = 48}, QNT_BAD_DATA, "is 48, expected a power of two"},
    {"alignment of another type", {.key = "general.alignment", .value = 32, .key_type = 5}, QNT_BAD_DATA,
     "another type than u32"},
    {"name of 64 bytes", {.name = NAME_63 "4"}, QNT_BAD_DATA, "has 64 bytes, at most 63"},
    {"duplicate name", {.name = "a"}, QNT_BAD_DATA, "tensor a is described twice"},
    {"five dimensions", {.rank = 5, .ne = {8, 2, 1, 1, 1}}, QNT_BAD_DATA, "tensor b has 5 dimensions, at most 4"},
    {"negative dimension", {.rank = 2, .ne = {8, UINT64_MAX}}, QNT_BAD_DATA, "dimension 1 is -1, expected 0 or more"},
    {"elements overflow", {.rank = 3, .ne = {1ull << 32, 1ull << 31, 2}}, QNT_BAD_DATA, "exceeds 2^63 bytes"},
    {"elements overflow before a zero", {.rank = 4, .ne = {1ull << 32, 1ull << 32, 0, 1}}, QNT_BAD_DATA,
     "exceeds 2^63"},
    {"bytes overflow", {.type = BIG, .rank = 1, .ne = {1ull << 60}, .offset = 192}, QNT_BAD_DATA, "exceeds 2^63 bytes"},
    {"sum overflows", {.rank = 1, .ne = {(1ull << 61) - 1}}, QNT_BAD_DATA, "tensors up to b exceed 2^63"},
    {"unknown type", {.type = 31}, QNT_BAD_DATA, "tensor a has the type 31, which is unknown"},
    {"part of a block", {.type = Q8_0}, QNT_BAD_DATA, "tensor a has rows of 8, type 8 needs a multiple of 32"},
    {"gap", {.offset = 32, .data = 32}, QNT_BAD_DATA, "tensor b has the offset 96, expected 64"},
    {"overlap", {.offset = -32ull}, QNT_BAD_DATA, "tensor b has the offset 32, expected 64"},
    {"data too short", {.data = -1}, QNT_BAD_DATA, "its tensors need 128 from byte"},
    {"no data", {.data = -128}, QNT_BAD_DATA, "its tensors need 128 from byte"},
};

static void every_rule(void **state)
{
    qnt_context *ctx = context_with(NULL);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(rules); i++) {
        struct qnti_gguf *file;
        struct image image;
        unsigned char *bytes;
        qnt_status status;
        build(&rules[i].spec, &image);
        bytes = exact_copy(image.bytes, image.n);
        status = qnti_gguf_open_memory(ctx, "x.gguf", bytes, image.n, some_types, &file);
        if (status != rules[i].status)
            fail_msg("%s: %s, %s", rules[i].what, qnt_status_text(status), qnt_context_message(ctx));
        if (status != QNT_OK) {
            assert_message_has(ctx, "x.gguf: ");
            assert_message_has(ctx, rules[i].message);
        }
        qnti_gguf_close(file);
        assert_int_equal(qnt_context_bytes(ctx, NULL), held);
        free(bytes);
    }
    qnt_context_destroy(ctx);
}

static void keys_with_nul(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf *file;
    struct image image;
    (void)state;
    build(&(struct spec){.key = "ab"}, &image);
    image.bytes[24 + 8 + 1] = 0;
    assert_int_equal(qnti_gguf_open_memory(ctx, "x", image.bytes, image.n, some_types, &file), QNT_BAD_DATA);
    assert_message_has(ctx, "NUL");
    qnt_context_destroy(ctx);
}

static void damaged(void **state)
{
    static const unsigned char flips[] = {0x01, 0x80, 0xff, 0x08};
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf *file;
    char *bytes;
    size_t n;
    (void)state;
    assert_int_equal(qnti_read_file(ctx, GOLDEN, 10000, &bytes, &n), QNT_OK);
    for (size_t cut = 0; cut < n; cut++) {
        unsigned char *image = exact_copy(bytes, cut);
        assert_int_equal(qnti_gguf_open_memory(ctx, "x", image, cut, some_types, &file), QNT_BAD_DATA);
        free(image);
    }
    unsigned char *image = exact_copy(bytes, n);
    for (size_t i = 0; i < n * COUNT(flips); i++) {
        image[i / COUNT(flips)] ^= flips[i % COUNT(flips)];
        qnti_gguf_open_memory(ctx, "x", image, n, some_types, &file); /* either verdict, but no harm */
        qnti_gguf_close(file);
        image[i / COUNT(flips)] ^= flips[i % COUNT(flips)];
    }
    free(image);
    qnti_free(ctx, bytes);
    qnt_context_destroy(ctx);
}

static void what_a_file_says(void **state)
{
    static const char *const tokens[] = {"<unk>", "a", "\xe4\xb8\xad"};
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf *file;
    const struct qnti_gguf_value *value;
    const struct qnti_gguf_tensor *tensor;
    const unsigned char *cursor = NULL;
    const char *string;
    size_t size = 7, bytes;
    float number = 7;
    bool yes = false;
    (void)state;
    assert_int_equal(qnti_gguf_open(ctx, GOLDEN, some_types, &file), QNT_OK);
    assert_true(file->version == 3 && file->alignment == 32 && file->value_count == 10 && file->tensor_count == 3);
    assert_int_equal(qnti_gguf_string(file, "general.name", &string, &bytes), QNT_OK);
    assert_int_equal(bytes, 5);
    assert_memory_equal(string, "small", 5);
    assert_int_equal(qnti_gguf_size(file, "none", &size) | qnti_gguf_float(file, "none", &number), QNT_OK);
    assert_true(size == 7 && number == 7);
    assert_int_equal(qnti_gguf_string(file, "none", &string, &bytes), QNT_OK);
    assert_null(string);
    assert_int_equal(qnti_gguf_size(file, "llama.block_count", &size), QNT_OK);
    assert_int_equal(size, 2);
    assert_int_equal(qnti_gguf_size(file, "split.count", &size), QNT_OK);
    assert_int_equal(size, 1);
    assert_int_equal(qnti_gguf_size(file, "split.tensors.count", &size), QNT_BAD_DATA);
    assert_message_has(ctx, "key split.tensors.count is negative");
    assert_int_equal(qnti_gguf_size(file, "tokenizer.ggml.token_type", &size), QNT_BAD_DATA);
    assert_message_has(ctx, "key tokenizer.ggml.token_type is an array of i32, expected an integer");
    assert_int_equal(qnti_gguf_float(file, "llama.attention.layer_norm_rms_epsilon", &number), QNT_OK);
    assert_true(number == 1e-5f);
    assert_int_equal(qnti_gguf_float(file, "llama.block_count", &number), QNT_BAD_DATA);
    assert_message_has(ctx, "is of type u32, expected f32 or f64");
    assert_int_equal(qnti_gguf_bool(file, "tokenizer.ggml.add_bos_token", &yes), QNT_OK);
    assert_true(yes);
    assert_int_equal(qnti_gguf_bool(file, "llama.block_count", &yes), QNT_BAD_DATA);
    assert_int_equal(qnti_gguf_string(file, "llama.block_count", &string, &bytes), QNT_BAD_DATA);
    value = qnti_gguf_find(file, "tokenizer.ggml.tokens");
    assert_int_equal(value->count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(qnti_gguf_next_string(value, &cursor, &string, &bytes));
        assert_int_equal(bytes, strlen(tokens[i]));
        assert_memory_equal(string, tokens[i], bytes);
    }
    assert_false(qnti_gguf_next_string(value, &cursor, &string, &bytes));
    tensor = qnti_gguf_find_tensor(file, "output.weight");
    assert_true(tensor->rank == 2 && tensor->ne[0] == 32 && tensor->ne[1] == 2 && tensor->ne[3] == 1);
    assert_true(tensor->type == Q8_0 && tensor->bytes == 68 && tensor->data[67] == 67);
    assert_null(qnti_gguf_find_tensor(file, "output"));
    qnti_gguf_close(file);
    qnt_context_destroy(ctx);
}

static qnt_status write_data(void *user, struct qnti_output *output)
{
    const struct qnti_gguf_tensor *tensor = user;
    return qnti_output_write(output, tensor->data, tensor->bytes);
}

static qnt_status put_golden_keys(struct qnti_gguf_writer *w)
{
    static const char *const tokens[] = {"<unk>", "a", "\xe4\xb8\xad"};
    static const size_t lengths[] = {5, 1, 3};
    static const float scores[] = {0, -1, -2.5f};
    static const int32_t kinds[] = {2, 1, 1};
    QNT_TRY(qnti_gguf_put_string(w, "general.architecture", "llama", 5));
    QNT_TRY(qnti_gguf_put_string(w, "general.name", "small", 5));
    QNT_TRY(qnti_gguf_put_string(w, "general.left_out", "", 0));
    QNT_TRY(qnti_gguf_put_u32(w, "llama.block_count", 2));
    QNT_TRY(qnti_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f));
    QNT_TRY(qnti_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true));
    QNT_TRY(qnti_gguf_put_string_array(w, "tokenizer.ggml.tokens", tokens, lengths, 3));
    QNT_TRY(qnti_gguf_put_string_array(w, "tokenizer.ggml.left_out", tokens, lengths, 0));
    QNT_TRY(qnti_gguf_put_f32_array(w, "tokenizer.ggml.scores", scores, 3));
    QNT_TRY(qnti_gguf_put_i32_array(w, "tokenizer.ggml.token_type", kinds, 3));
    QNT_TRY(qnti_gguf_put_u16(w, "split.count", 1));
    return qnti_gguf_put_i32(w, "split.tensors.count", -3);
}

/* Writes the golden file again; its keys by hand, its tensors from itself. */
static qnt_status rewrite_golden(qnt_context *ctx, void *arg)
{
    struct qnti_gguf *file = NULL;
    struct qnti_output *output = NULL;
    struct qnti_gguf_writer w;
    qnt_status status;
    qnti_gguf_writer_init(ctx, &w);
    QNT_CHECK(qnti_gguf_open(ctx, GOLDEN, some_types, &file));
    QNT_CHECK(put_golden_keys(&w));
    for (size_t i = 0; i < file->tensor_count; i++) {
        struct qnti_gguf_tensor *t = &file->tensors[i];
        QNT_CHECK(qnti_gguf_add_tensor(&w, t->name, t->rank, t->ne, t->type, t->bytes, write_data, t));
    }
    QNT_CHECK(qnti_output_create(ctx, arg, &output));
    QNT_CHECK(qnti_gguf_write(&w, output));
    assert_int_equal(qnti_output_position(output), qnti_gguf_bytes(&w));
    status = qnti_output_commit(output);
    output = NULL;
cleanup:
    qnti_output_discard(output);
    qnti_gguf_writer_free(&w);
    qnti_gguf_close(file);
    return status;
}

static void equals_the_package(void **state)
{
    qnt_context *ctx = context_with(NULL);
    (void)state;
    assert_int_equal(rewrite_golden(ctx, "a"), QNT_OK);
    assert_same_files("a", GOLDEN);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void what_is_not_written(void **state)
{
    static const size_t ne[5] = {1, 1, 1, 1, 1};
    struct qnti_gguf_tensor three = {.data = (const unsigned char *)"123", .bytes = 3};
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    struct qnti_gguf_writer w;
    (void)state;
    qnti_gguf_writer_init(ctx, &w);
    assert_int_equal(qnti_gguf_add_tensor(&w, NAME_63 "4", 1, ne, F32, 4, write_data, &three), QNT_INVALID);
    assert_message_has(ctx, "its name has 64 bytes, GGUF allows 63");
    assert_int_equal(qnti_gguf_add_tensor(&w, "t", 5, ne, F32, 4, write_data, &three), QNT_INVALID);
    assert_int_equal(qnti_gguf_add_tensor(&w, "t", 1, ne, F32, 4, write_data, &three), QNT_OK);
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    assert_int_equal(qnti_gguf_write(&w, output), QNT_INVALID);
    assert_message_has(ctx, "tensor t: 3 bytes were written, 4 were announced");
    qnti_output_discard(output);
    qnti_gguf_writer_free(&w);
    qnt_context_destroy(ctx);
}

/* A file with a hole of 5 GiB, which takes no room on the disk. */
static void beyond_4_gib(void **state)
{
    struct spec spec = {.type = F32, .rank = 2, .ne = {1u << 20, 1280}};
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf *file;
    struct image image;
    (void)state;
    build(&spec, &image);
    image.n -= 128;
    put_file("big", image.bytes, image.n);
    assert_int_equal(truncate("big", (off_t)image.n + 64 + 5368709120), 0);
    assert_int_equal(qnti_gguf_open(ctx, "big", some_types, &file), QNT_OK);
    assert_int_equal(qnti_gguf_find_tensor(file, "b")->bytes, 5368709120);
    assert_int_equal(qnti_gguf_find_tensor(file, "b")->data[5368709119], 0);
    qnti_gguf_close(file);
    unlink("big");
    qnt_context_destroy(ctx);
}

static void no_memory(void **state)
{
    (void)state;
    each_allocation_fails(rewrite_golden, "a");
    unlink("a");
}

static void not_there(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf *file;
    (void)state;
    assert_int_equal(qnti_gguf_open(ctx, "none", some_types, &file), QNT_IO);
    put_file("empty", "", 0);
    assert_int_equal(qnti_gguf_open(ctx, "empty", some_types, &file), QNT_BAD_DATA);
    assert_message_has(ctx, "empty: is empty");
    assert_null(file);
    unlink("empty");
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule),         cmocka_unit_test(keys_with_nul),
        cmocka_unit_test(damaged),            cmocka_unit_test(what_a_file_says),
        cmocka_unit_test(equals_the_package), cmocka_unit_test(what_is_not_written),
        cmocka_unit_test(beyond_4_gib),       cmocka_unit_test(no_memory),
        cmocka_unit_test(not_there),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
