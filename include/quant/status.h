/*
 * status.h - the result of every call that can fail.
 *
 * Values are stable: they have gaps, are never renumbered, and may be stored.
 * The numbers and names that belong to a failure stand in the context's
 * message (qnt_context_message).
 */
#ifndef QUANT_STATUS_H
#define QUANT_STATUS_H

#if defined(_WIN32)
#define QNT_API
#else
#define QNT_API __attribute__((visibility("default")))
#endif

#define QNT_STATUS_MAP(X)                                            \
    X(QNT_OK, 0, "success")                                          \
    X(QNT_INVALID, 10, "invalid argument")                           \
    X(QNT_NO_MEMORY, 20, "out of memory")                            \
    X(QNT_NOT_FOUND, 30, "not found")                                \
    X(QNT_UNSUPPORTED, 40, "not supported")                          \
    X(QNT_BAD_DATA, 50, "damaged or inconsistent data")              \
    X(QNT_NON_FINITE, 60, "number that is not finite")               \
    X(QNT_SINGULAR, 70, "matrix is not positive definite")           \
    X(QNT_IO, 80, "input or output failed")                          \
    X(QNT_EXISTS, 90, "already there")                               \
    X(QNT_CANCELLED, 100, "cancelled")

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qnt_status {
#define QNT_STATUS_ENUM(name, value, text) name = value,
    QNT_STATUS_MAP(QNT_STATUS_ENUM)
#undef QNT_STATUS_ENUM
} qnt_status;

/* A few words for a status, e.g. "out of memory". Never NULL; static storage. */
QNT_API const char *qnt_status_text(qnt_status status);

#ifdef __cplusplus
}
#endif
#endif
