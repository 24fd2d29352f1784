/*
 * test_safetensors.c - every verdict of a strict reader, and files that equal the format library's byte for byte.
 *
 * tests/golden/containers/mixed.safetensors was written by the format's own library (0.8.0) from 79 tensors of all
 * its types, of rank 0 to 4, some empty, with names full of quotes, control characters and other scripts.
 */
#include "file_support.h"

#include "file/safetensors.h"

#define GOLDEN SOURCE_DIR "/tests/golden/containers/mixed.safetensors"

/* A file image: length, header, `data` zero bytes. */
static unsigned char *image_of(const char *header, size_t header_bytes, size_t data, size_t *n)
{
    unsigned char *image = calloc(1, 8 + header_bytes + data);
    assert_non_null(image);
    for (size_t i = 0; i < 8; i++)
        image[i] = (unsigned char)((uint64_t)header_bytes >> (8 * i));
    memcpy(image + 8, header, header_bytes);
    *n = 8 + header_bytes + data;
    return image;
}

#define U8(name, begin, end, n) \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #n "],\"data_offsets\":[" #begin "," #end "]}"
#define ENTRY(fields) "{\"t\":{" fields "}}"
#define SHAPED(dtype, shape, end) ENTRY("\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[0," #end "]")
#define META(value) "{\"__metadata__\":" value "}"
#define DEEP "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
#define DEEP_END "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"
#define EXTRA(value) "{\"t\":{\"dtype\":\"U8\",\"x\":" value ",\"shape\":[],\"data_offsets\":[0,1]}}"

/* message NULL: valid. */
struct verdict {
    const char *what, *header;
    size_t header_bytes, data;
    const char *message;
};
#define ROW(what, header, data, message) {what, header, sizeof(header) - 1, data, message}

static const struct verdict verdicts[] = {
    ROW("no tensors", "{}", 0, NULL),
    ROW("one", "{" U8("t", 0, 3, 3) "}", 3, NULL),
    ROW("blanks everywhere",
        "{ \"t\" :\n{\t\"shape\":[ ],\"data_offsets\":[0 , 1],\r\"dtype\" : \"U8\" } } \n\t\r ", 1, NULL),
    ROW("order of the header is free", "{" U8("b", 2, 3, 1) "," U8("a", 0, 2, 2) "}", 3, NULL),
    ROW("empty tensors at one place", "{" U8("a", 1, 1, 0) "," U8("b", 0, 1, 1) "," U8("c", 1, 1, 0) "}", 1, NULL),
    ROW("empty name", "{" U8("", 0, 1, 1) "}", 1, NULL),
    ROW("metadata null", META("null"), 0, NULL),
    ROW("metadata empty", META("{}"), 0, NULL),
    ROW("metadata", META("{\"b\":\"1\",\"a\":\"\"}"), 0, NULL),
    ROW("unknown field, a number", EXTRA("-1.5e+3"), 1, NULL),
    ROW("unknown field, nested", EXTRA("[{},[],{\"a\":[1,{\"b\":null}],\"c\":true},false,\"\"]"), 1, NULL),
    ROW("unknown field, 128 levels", EXTRA(DEEP DEEP DEEP DEEP DEEP_END DEEP_END DEEP_END DEEP_END), 1, NULL),
    ROW("F4", SHAPED("F4", "[3,2]", 3), 3, NULL),
    ROW("F6", SHAPED("F6_E2M3", "[4]", 3), 3, NULL),

    ROW("header of no bytes", "", 0, "byte 0: expected '{'"),
    ROW("leading blank", " {}", 0, "byte 0: expected '{'"),
    ROW("byte order mark", "\xef\xbb\xbf{}", 0, "byte 0: expected '{'"),
    ROW("not an object", "[]", 0, "byte 0: expected '{'"),
    ROW("not closed", "{", 0, "byte 1: expected a string"),
    ROW("NUL behind", "{}\0", 0, "byte 2: expected nothing"),
    ROW("junk behind", "{} x", 0, "byte 3: expected nothing"),
    ROW("two objects", "{}{}", 0, "byte 2: expected nothing"),
    ROW("trailing comma", "{" U8("t", 0, 1, 1) ",}", 1, "expected a string"),
    ROW("no comma", "{" U8("a", 0, 1, 1) U8("b", 1, 2, 1) "}", 2, "expected ','"),
    ROW("no colon", "{\"t\" {}}", 0, "expected ':'"),
    ROW("entry null", "{\"t\":null}", 0, "\"t\": header byte 5: expected '{'"),
    ROW("entry a list", "{\"t\":[]}", 0, "expected '{'"),
    ROW("UTF-8: stray byte", "{\"\x80\":{}}", 0, "byte 2: expected valid UTF-8"),
    ROW("UTF-8: overlong", "{\"\xc0\x80\":{}}", 0, "expected valid UTF-8"),
    ROW("UTF-8: overlong, three", "{\"\xe0\x9f\xbf\":{}}", 0, "expected valid UTF-8"),
    ROW("UTF-8: surrogate", "{\"\xed\xa0\x80\":{}}", 0, "expected valid UTF-8"),
    ROW("UTF-8: beyond Unicode", "{\"\xf4\x90\x80\x80\":{}}", 0, "expected valid UTF-8"),
    ROW("UTF-8: cut at the end", "{}\xe4\xb8", 0, "byte 2: expected valid UTF-8"),
    ROW("string: control character", "{\"\n\":{}}", 0, "no control character"),
    ROW("string: not closed", "{\"abc", 0, "the end of a string"),
    ROW("string: lone high surrogate", "{\"\\ud800\":{}}", 0, "second half"),
    ROW("string: high and no low", "{\"\\ud800\\u0041\":{}}", 0, "second half"),
    ROW("string: lone low surrogate", "{\"\\udc00\":{}}", 0, "no lone surrogate"),
    ROW("string: U+0000", "{\"\\u0000\":{}}", 0, "no U+0000"),
    ROW("string: hexadecimal", "{\"\\u12g4\":{}}", 0, "four hexadecimal digits"),
    ROW("string: cut escape", "{\"\\u12", 0, "four hexadecimal digits"),
    ROW("string: unknown escape", "{\"\\x\":{}}", 0, "behind a backslash"),
    ROW("string: backslash at the end", "{\"\\", 0, "behind a backslash"),

    ROW("tensor twice", "{" U8("a", 0, 1, 1) "," U8("b", 1, 2, 1) "," U8("a", 2, 3, 1) "}", 3, "\"a\" stands twice"),
    ROW("tensor twice, by an escape", "{" U8("a", 0, 1, 1) "," U8("\\u0061", 1, 2, 1) "}", 2, "\"a\" stands twice"),
    ROW("field twice",
        ENTRY("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]"), 1, "\"t\" has dtype twice"),
    ROW("metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ stands twice"),
    ROW("metadata twice, one null", "{\"__metadata__\":null,\"__metadata__\":{}}", 0, "__metadata__ stands twice"),
    ROW("metadata key twice", META("{\"k\":\"1\",\"j\":\"2\",\"k\":\"1\"}"), 0, "key \"k\" twice"),
    ROW("metadata number", META("{\"k\":1}"), 0, "expected a string"),
    ROW("metadata list", META("[]"), 0, "expected '{'"),
    ROW("metadata nonsense", META("nil"), 0, "expected a value"),

    ROW("no dtype", ENTRY("\"shape\":[],\"data_offsets\":[0,1]"), 1, "\"t\" has no dtype"),
    ROW("no shape", ENTRY("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, "\"t\" has no shape"),
    ROW("no offsets", ENTRY("\"dtype\":\"U8\",\"shape\":[]"), 1, "\"t\" has no data_offsets"),
    ROW("one offset", ENTRY("\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0]"), 1, "expected two data_offsets"),
    ROW("three offsets", ENTRY("\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1,1]"), 1, "more than 2"),
    ROW("nine dimensions", SHAPED("U8", "[1,1,1,1,1,1,1,1,1]", 1), 1, "more than 8"),
    ROW("unknown dtype", SHAPED("F12", "[]", 1), 1, "unknown dtype \"F12\""),
    ROW("dtype in small letters", SHAPED("u8", "[]", 1), 1, "unknown dtype"),
    ROW("dtype null", ENTRY("\"dtype\":null,\"shape\":[],\"data_offsets\":[0,1]"), 1, "expected a string"),
    ROW("negative", SHAPED("U8", "[-1]", 1), 1, "expected an integer from 0"),
    ROW("minus zero", SHAPED("U8", "[-0]", 0), 0, "expected an integer from 0"),
    ROW("fraction", SHAPED("U8", "[1.0]", 1), 1, "expected an integer from 0"),
    ROW("exponent", SHAPED("U8", "[1e0]", 1), 1, "expected an integer from 0"),
    ROW("leading zero", SHAPED("U8", "[01]", 1), 1, "expected an integer from 0"),
    ROW("a string for a number", SHAPED("U8", "[\"1\"]", 1), 1, "expected an integer from 0"),
    ROW("2^64", SHAPED("U8", "[18446744073709551616]", 1), 1, "expected an integer from 0"),
    ROW("10^20", SHAPED("U8", "[100000000000000000000]", 1), 1, "expected an integer from 0"),
    ROW("no number", SHAPED("U8", "[,1]", 1), 1, "expected an integer from 0"),
    ROW("2^64 - 1 elements", SHAPED("U8", "[18446744073709551615]", 1), 1, "exceeds 2^64 bits"),
    ROW("overflow before a zero", SHAPED("U8", "[1099511627776,1099511627776,0]", 0), 0, "exceeds 2^64 bits"),
    ROW("no overflow behind a zero", SHAPED("U8", "[0,1099511627776,1099511627776]", 0), 0, NULL),
    ROW("bits overflow", SHAPED("U64", "[288230376151711744]", 0), 0, "exceeds 2^64 bits"),
    ROW("half a byte", SHAPED("F4", "[3]", 2), 2, "are 12 bits, not whole bytes"),
    ROW("F6 not whole", SHAPED("F6_E3M2", "[3]", 3), 3, "are 18 bits, not whole bytes"),

    ROW("begin behind end",
        ENTRY("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,0]"), 1, "offsets 1 to 0 in 1 bytes"),
    ROW("end behind the data", SHAPED("U8", "[4]", 4), 3, "offsets 0 to 4 in 3 bytes"),
    ROW("end far behind", SHAPED("U8", "[1]", 18446744073709551615), 1, "in 1 bytes"),
    ROW("size and shape", SHAPED("F16", "[2]", 2), 2, "\"t\" has 2 bytes, expected 4 for 2 elements of F16"),
    ROW("scalar too long", SHAPED("F32", "[]", 8), 8, "has 8 bytes, expected 4"),
    ROW("overlap", "{" U8("a", 0, 2, 2) "," U8("b", 1, 3, 2) "}", 3, "\"b\" begins at byte 1 of the data, not 2"),
    ROW("the same bytes twice",
        "{" U8("a", 0, 2, 2) "," U8("b", 0, 2, 2) "}", 2, "begins at byte 0 of the data, not 2"),
    ROW("hole at the start", "{" U8("a", 1, 2, 1) "}", 2, "\"a\" begins at byte 1 of the data, not 0"),
    ROW("hole between", "{" U8("a", 0, 1, 1) "," U8("b", 2, 3, 1) "}", 3, "\"b\" begins at byte 2 of the data, not 1"),
    ROW("bytes behind", "{" U8("a", 0, 1, 1) "}", 2, "has 2 bytes of data, its tensors 1"),
    ROW("bytes and no tensors", "{}", 1, "has 1 bytes of data, its tensors 0"),

    ROW("unknown field, 129 levels",
        EXTRA("[" DEEP DEEP DEEP DEEP DEEP_END DEEP_END DEEP_END DEEP_END "]"), 1, "128 nested"),
    ROW("unknown field, brackets crossed", EXTRA("[{]}"), 1, "expected a string"),
    ROW("unknown field, bracket missing", EXTRA("[[]"), 1, "expected ','"),
    ROW("unknown field, no value", EXTRA(""), 1, "expected a value"),
    ROW("unknown field, 01", EXTRA("01"), 1, "expected ','"),
    ROW("unknown field, 1.", EXTRA("1."), 1, "expected a digit"),
    ROW("unknown field, 1e", EXTRA("1e"), 1, "expected a digit"),
    ROW("unknown field, +1", EXTRA("+1"), 1, "expected a value"),
    ROW("unknown field, NaN", EXTRA("NaN"), 1, "expected a value"),
};

static void every_verdict(void **state)
{
    qnt_context *ctx = context_with(NULL);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(verdicts); i++) {
        const struct verdict *v = &verdicts[i];
        struct qnti_safetensors *file;
        size_t n;
        unsigned char *image = image_of(v->header, v->header_bytes, v->data, &n);
        qnt_status status = qnti_safetensors_open_memory(ctx, "x.safetensors", image, n, &file);
        if (status != (v->message ? QNT_BAD_DATA : QNT_OK))
            fail_msg("%s: %s, %s", v->what, qnt_status_text(status), qnt_context_message(ctx));
        if (v->message) {
            assert_null(file);
            assert_message_has(ctx, v->message);
            assert_message_has(ctx, "x.safetensors: ");
        }
        qnti_safetensors_close(file);
        assert_int_equal(qnt_context_bytes(ctx, NULL), held);
        free(image);
    }
    qnt_context_destroy(ctx);
}

static void lengths(void **state)
{
    static const struct {
        unsigned char bytes[10];
        size_t n;
        const char *message;
    } rows[] = {
        {{0}, 0, "has 0 bytes"},
        {{2, 0, 0, 0, 0, 0, 0}, 7, "has 7 bytes"},
        {{0}, 8, "expected '{'"},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "a header of 3 bytes, expected at most 2"},
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10, "a header of 18446744073709551615 bytes"},
        {{0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10, "expected at most 2"},
    };
    qnt_context *ctx = context_with(NULL);
    struct qnti_safetensors *file;
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        unsigned char *image = exact_copy(rows[i].bytes, rows[i].n);
        assert_int_equal(qnti_safetensors_open_memory(ctx, "x", image, rows[i].n, &file), QNT_BAD_DATA);
        assert_message_has(ctx, rows[i].message);
        free(image);
    }
    put_file("big", "\x01\xe1\xf5\x05\0\0\0\0{", 9);
    assert_int_equal(truncate("big", 200000000), 0); /* 100,000,001 bytes of header, and they are there */
    assert_int_equal(qnti_safetensors_open(ctx, "big", &file), QNT_BAD_DATA);
    assert_message_has(ctx, "a header of 100000001 bytes, expected at most 100000000");
    unlink("big");
    qnt_context_destroy(ctx);
}

static void what_a_file_says(void **state)
{
    static const char header[] =
        "{\"__metadata__\":{\"z\":\"last\",\"format\":\"pt\"},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,0,3],\"data_offsets\":[4,4]},"
        "\"\\u00e9\\n\\\"\\/\\\\\\b\\f\\r\\t\\u4e2d\\ud83d\\uDE00\":"
        "{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"c\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[4,5]}}";
    qnt_context *ctx = context_with(NULL);
    struct qnti_safetensors *file;
    const struct qnti_tensor *t;
    qnt_dtype dtype = QNT_U8;
    size_t n;
    unsigned char *image = image_of(header, sizeof header - 1, 5, &n);
    (void)state;
    assert_int_equal(qnti_safetensors_open_memory(ctx, "x", image, n, &file), QNT_OK);
    assert_int_equal(file->count, 3);
    assert_string_equal(qnti_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(qnti_safetensors_metadata(file, "z"), "last");
    assert_null(qnti_safetensors_metadata(file, "y"));
    t = qnti_safetensors_find(file, "\xc3\xa9\n\"/\\\b\f\r\t\xe4\xb8\xad\xf0\x9f\x98\x80");
    assert_non_null(t);
    assert_int_equal(t->elements, 1);
    assert_ptr_equal(t->data, image + n - 5);
    assert_true(qnti_tensor_dtype(t, &dtype));
    assert_int_equal(dtype, QNT_F32);
    t = qnti_safetensors_find(file, "b");
    assert_true(t->rank == 3 && t->shape[0] == 2 && t->shape[1] == 0 && t->shape[2] == 3);
    assert_true(t->elements == 0 && t->bytes == 0);
    assert_true(qnti_tensor_dtype(t, &dtype) && dtype == QNT_BF16);
    assert_false(qnti_tensor_dtype(qnti_safetensors_find(file, "c"), &dtype));
    assert_null(qnti_safetensors_find(file, "a"));
    assert_null(qnti_safetensors_find(file, ""));
    qnti_safetensors_close(file);
    free(image);
    qnt_context_destroy(ctx);
}

static void describe(const struct qnti_tensor *t, struct qnti_tensor_source *source)
{
    *source = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    memcpy(source->shape, t->shape, sizeof source->shape);
}

/* Opens the golden file and writes it again, from tensors in another order. */
static qnt_status rewrite_golden(qnt_context *ctx, void *arg)
{
    struct qnti_safetensors *file;
    struct qnti_tensor_source *sources;
    qnt_status status;
    QNT_TRY(qnti_safetensors_open(ctx, GOLDEN, &file));
    sources = calloc(file->count, sizeof *sources);
    assert_non_null(sources);
    for (size_t i = 0; i < file->count; i++)
        describe(&file->tensors[i], &sources[(i * 37 + 5) % file->count]);
    status = qnti_safetensors_write(ctx, arg, sources, file->count, NULL, 0);
    free(sources);
    qnti_safetensors_close(file);
    return status;
}

static void equals_the_library(void **state)
{
    qnt_context *ctx = context_with(NULL);
    (void)state;
    assert_int_equal(rewrite_golden(ctx, "a"), QNT_OK);
    assert_same_files("a", GOLDEN);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void damaged(void **state)
{
    static const unsigned char flips[] = {0x01, 0x02, 0x10, 0x20, 0x80, 0xff};
    qnt_context *ctx = context_with(NULL);
    struct qnti_safetensors *file;
    size_t n, header;
    char *bytes;
    (void)state;
    assert_int_equal(qnti_read_file(ctx, GOLDEN, 100000, &bytes, &n), QNT_OK);
    header = 8 + ((size_t)(unsigned char)bytes[1] << 8) + (unsigned char)bytes[0];
    for (size_t cut = 0; cut < n; cut += cut < header ? 1 : 97) {
        unsigned char *image = exact_copy(bytes, cut);
        assert_int_equal(qnti_safetensors_open_memory(ctx, "x", image, cut, &file), QNT_BAD_DATA);
        free(image);
    }
    unsigned char *image = exact_copy(bytes, n);
    for (size_t i = 0; i < header; i++) {
        unsigned char flip = flips[i % COUNT(flips)];
        image[i] ^= flip;
        qnti_safetensors_open_memory(ctx, "x", image, n, &file); /* either verdict, but no harm */
        qnti_safetensors_close(file);
        image[i] ^= flip;
    }
    free(image);
    qnti_free(ctx, bytes);
    qnt_context_destroy(ctx);
}

struct callback {
    size_t bytes;
    qnt_status status;
};

static qnt_status write_callback(void *user, struct qnti_output *output)
{
    const struct callback *callback = user;
    QNT_TRY(qnti_output_zeros(output, callback->bytes));
    return callback->status;
}

static void writing(void **state)
{
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\u0001\"},"
                                   "\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]},"
                                   "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]}}";
    static const char *const pairs[] = {"k", "\x01"};
    struct callback four = {4, QNT_OK};
    struct qnti_tensor_source tensors[] = {
        {.name = "a", .dtype = "U8", .data = "x"},
        {.name = "b", .dtype = "F16", .rank = 2, .shape = {1, 2}, .write = write_callback, .user = &four},
    };
    qnt_context *ctx = context_with(NULL);
    char *bytes;
    size_t n;
    (void)state;
    assert_int_equal(qnti_safetensors_write(ctx, "a", tensors, 2, pairs, 1), QNT_OK);
    assert_int_equal(qnti_read_file(ctx, "a", 1000, &bytes, &n), QNT_OK);
    assert_int_equal((unsigned char)bytes[0] % 8, 0);
    assert_memory_equal(bytes + 8, expected, sizeof expected - 1);
    assert_memory_equal(bytes + n - 5, "\0\0\0\0x", 5);
    qnti_free(ctx, bytes);
    assert_int_equal(qnti_safetensors_write(ctx, "a", NULL, 0, NULL, 0), QNT_OK); /* replaced, by an empty one */
    assert_int_equal(qnti_read_file(ctx, "a", 1000, &bytes, &n), QNT_OK);
    assert_int_equal(n, 8 + 32);
    assert_memory_equal(bytes + 8, "{\"__metadata__\":{\"format\":\"pt\"}}", 32);
    qnti_free(ctx, bytes);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void what_is_not_written(void **state)
{
    struct callback three = {3, QNT_OK}, cancelled = {4, QNT_CANCELLED};
    struct qnti_tensor_source good = {.name = "a", .dtype = "U8", .data = "x"};
    static const char *const twice[] = {"k", "1", "k", "2"};
    struct {
        struct qnti_tensor_source bad;
        qnt_status status;
        const char *message;
    } rows[] = {
        {{.name = "a", .dtype = "F16", .data = "xx"}, QNT_INVALID, "two tensors are named \"a\""},
        {{.name = "b", .dtype = "Q4"}, QNT_INVALID, "\"b\": safetensors has no dtype \"Q4\""},
        {{.name = "b", .dtype = "U8", .rank = 9}, QNT_INVALID, "\"b\": 9 dimensions, at most 8"},
        {{.name = "__metadata__", .dtype = "U8", .data = "x"}, QNT_INVALID, "cannot be named __metadata__"},
        {{.name = "b", .dtype = "F4", .rank = 1, .shape = {1}}, QNT_BAD_DATA, "4 bits, not whole bytes"},
        {{.name = "b", .dtype = "U8", .rank = 2, .shape = {SIZE_MAX, 2}}, QNT_BAD_DATA, "exceeds 2^64 bits"},
        {{.name = "b", .dtype = "F32", .write = write_callback, .user = &three}, QNT_INVALID,
         "\"b\": 3 bytes were written, its shape needs 4"},
        {{.name = "b", .dtype = "F32", .write = write_callback, .user = &cancelled}, QNT_CANCELLED, ""},
        {{.name = "\xff", .dtype = "U8", .data = "x"}, QNT_BAD_DATA, "valid UTF-8"},
    };
    qnt_context *ctx = context_with(NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct qnti_tensor_source tensors[] = {good, rows[i].bad};
        assert_int_equal(qnti_safetensors_write(ctx, "a", tensors, 2, NULL, 0), rows[i].status);
        assert_message_has(ctx, rows[i].message);
    }
    assert_int_equal(qnti_safetensors_write(ctx, "a", &good, 1, twice, 2), QNT_BAD_DATA);
    assert_message_has(ctx, "key \"k\" twice");
    assert_false(qnti_path_exists("a")); /* nor a temporary: the folder is removed at the end */
    qnt_context_destroy(ctx);
}

/* A file with a hole of 5 GiB, which takes no room on the disk. */
static void beyond_4_gib(void **state)
{
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[5,1073741824],\"data_offsets\":[0,5368709120]},"
                                 "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[5368709120,5368709123]}}";
    qnt_context *ctx = context_with(NULL);
    struct qnti_safetensors *file;
    size_t n;
    unsigned char *image = image_of(header, sizeof header - 1, 0, &n);
    FILE *big;
    (void)state;
    put_file("big", image, n);
    free(image);
    big = fopen("big", "r+b");
    assert_non_null(big);
    assert_int_equal(fseeko(big, (off_t)n + 5368709120, SEEK_SET), 0);
    assert_int_equal(fwrite("end", 1, 3, big), 3);
    assert_int_equal(fclose(big), 0);
    assert_int_equal(qnti_safetensors_open(ctx, "big", &file), QNT_OK);
    assert_int_equal(file->tensors[0].bytes, 5368709120);
    assert_memory_equal(qnti_safetensors_find(file, "b")->data, "end", 3);
    qnti_safetensors_close(file);
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
    struct qnti_safetensors *file;
    (void)state;
    assert_int_equal(qnti_safetensors_open(ctx, "none", &file), QNT_IO);
    assert_int_equal(qnti_safetensors_open(ctx, ".", &file), QNT_IO);
    put_file("empty", "", 0);
    assert_int_equal(qnti_safetensors_open(ctx, "empty", &file), QNT_BAD_DATA);
    assert_message_has(ctx, "empty: has 0 bytes");
    assert_null(file);
    unlink("empty");
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_verdict),      cmocka_unit_test(lengths), cmocka_unit_test(what_a_file_says),
        cmocka_unit_test(equals_the_library), cmocka_unit_test(damaged), cmocka_unit_test(writing),
        cmocka_unit_test(what_is_not_written), cmocka_unit_test(beyond_4_gib), cmocka_unit_test(no_memory),
        cmocka_unit_test(not_there),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
