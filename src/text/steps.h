/*
 * steps.h - what happens to text on its way to and from tokens.
 *
 * Normalizer, pre-tokenizer and decoder are lists of steps; a step turns a list of pieces of text into another one.
 * The parts of a tokenizer.json are one or a few of these steps each.
 */
#ifndef QNTI_STEPS_H
#define QNTI_STEPS_H

#include "text/pattern.h"

/* Pieces of text, one behind the other. */
struct qnti_pieces {
    struct qnti_buffer text;
    struct qnti_buffer ends;           /* size_t: where each piece ends in text */
    bool at_start;                     /* the first piece starts the whole text */
};

static inline size_t qnti_pieces_count(const struct qnti_pieces *p)
{
    return p->ends.bytes / sizeof(size_t);
}

const char *qnti_piece(const struct qnti_pieces *p, size_t i, size_t *bytes);
qnt_status qnti_pieces_add(qnt_context *ctx, struct qnti_pieces *p, const char *text, size_t bytes);
/* Ends a piece that was written to p->text. */
qnt_status qnti_pieces_end(qnt_context *ctx, struct qnti_pieces *p);
void qnti_pieces_free(qnt_context *ctx, struct qnti_pieces *p);

enum qnti_step_kind {
    QNTI_STEP_PREFIX,                  /* put `content` in front of pieces that are not empty */
    QNTI_STEP_REPLACE,                 /* matches of `pattern` by `content` */
    QNTI_STEP_COMPOSE,                 /* NFC, or NFKC if `compatible` */
    QNTI_STEP_SPLIT,                   /* cut at matches of `pattern`; drops empty pieces */
    QNTI_STEP_BYTES,                   /* bytes to characters of the byte-level alphabet */
    QNTI_STEP_UNBYTES,                 /* and back, all pieces into one */
    QNTI_STEP_BYTE_PIECES,             /* runs of "<0xXX>" to text */
    QNTI_STEP_FUSE,                    /* all pieces into one */
    QNTI_STEP_TRIM,                    /* up to `start` times `content` from the start, `stop` times from the end */
    QNTI_STEP_COUNT
};

enum qnti_cut {
    QNTI_CUT_ISOLATED, QNTI_CUT_REMOVED, QNTI_CUT_PREVIOUS, QNTI_CUT_NEXT, QNTI_CUT_CONTIGUOUS
};

struct qnti_step {
    enum qnti_step_kind kind;
    struct qnti_pattern pattern;
    char *content;
    size_t content_bytes;
    bool first_only;                   /* PREFIX: the start of the whole text; REPLACE, TRIM: the first piece */
    bool until_text;                   /* TRIM, first_only: as long as nothing is left of the pieces before */
    bool unless_there;                 /* PREFIX: not if the piece starts with it */
    bool compatible;
    enum qnti_cut cut;
    bool invert;                       /* SPLIT: gaps for matches */
    bool each_byte;                    /* BYTE_PIECES: keep what is valid in a run, U+FFFD for each other byte */
    size_t start, stop;
};

enum { QNTI_MAX_STEPS = 32 };

struct qnti_steps {
    struct qnti_step list[QNTI_MAX_STEPS];
    size_t count;
};

/*
 * Appends a step; `pattern` (NULL: none) is compiled, `content` (NULL: none) copied into it. `where` names the file.
 */
qnt_status qnti_steps_add(qnt_context *ctx, const char *where, struct qnti_steps *steps, const struct qnti_step *step,
                          const char *pattern, size_t pattern_bytes, const char *content, size_t content_bytes);
void qnti_steps_free(qnt_context *ctx, struct qnti_steps *steps);
/* Whether a list has a step of the kind. */
bool qnti_steps_have(const struct qnti_steps *steps, enum qnti_step_kind kind);
/* Exchanges the pieces for what the steps make of them. */
qnt_status qnti_steps_run(qnt_context *ctx, const struct qnti_steps *steps, struct qnti_pieces *pieces);

typedef qnt_status (*qnti_step_fn)(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                                   struct qnti_pieces *out);
qnt_status qnti_step_bytes(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                           struct qnti_pieces *out);
qnt_status qnti_step_unbytes(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                             struct qnti_pieces *out);
qnt_status qnti_step_byte_pieces(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                                 struct qnti_pieces *out);

#endif
