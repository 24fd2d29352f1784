/*
 * layout.h - the table of layouts: what a format can hold of a quantized layer.
 */
#ifndef QNTI_LAYOUT_H
#define QNTI_LAYOUT_H

#include "pack/ggml.h"
#include "qlinear/qlinear.h"

struct qnti_layout {
    const char *name, *title;
    const char *ggml;                    /* name of a ggml type; NULL: parts of any kind (native) */
    qnt_dtype scale_type;                /* of scales that the method chooses */
    const char *preferred;               /* "key=value,...": parameters where the user says nothing; or NULL */
};

/* NULL, with a message that lists the known ones: unknown. "gguf:q4_0", "native"; case is ignored. */
const struct qnti_layout *qnti_layout_find(qnt_context *ctx, const char *name);
const struct qnti_layout *qnti_layout_at(size_t index);
/* Whether the layout prescribes a grid, and which. */
bool qnti_layout_grid(const struct qnti_layout *layout, const struct qnti_kernels *kernels, struct qnti_grid *grid);
/* QNT_UNSUPPORTED with what does not fit. */
qnt_status qnti_layout_holds(const struct qnti_layout *layout, const qnt_qlinear *q);
/* QNT_UNSUPPORTED where blocks do not divide the width. */
qnt_status qnti_layout_width(qnt_context *ctx, const struct qnti_layout *layout, const char *layer, size_t in);

#endif
