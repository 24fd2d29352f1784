/*
 * packed_layers.c - what all folders of packed layers share: a finished layer in the format's layout, tensor by tensor.
 *
 * A layer is packed when the first of its tensors is written, and stays in
 * hand for the others.
 */
#include "export/packed.h"

#include <string.h>
#include "base/buffer.h"
#include "base/number.h"

qnt_status qnti_packed_begin(struct qnti_folder *f, struct qnti_packed_hand *hand)
{
    hand->target = SIZE_MAX;
    hand->layout = qnti_layout_find(f->e->ctx, f->e->format->layout);
    return hand->layout ? QNT_OK : QNT_NOT_FOUND;
}

void qnti_packed_finish(struct qnti_folder *f, struct qnti_packed_hand *hand)
{
    qnti_free(f->e->ctx, hand->bytes);
}

bool qnti_packed_is_float(const struct qnti_target *t)
{
    return !t->quantized && !t->bias && t->role > QNTI_ATTN_NORM && t->role != QNTI_MLP_NORM;
}

/* Names of the layers that stay float, behind those in *list, which is made where there are some. */
void qnti_packed_list_floats(const struct qnti_folder *f, json_t **list)
{
    for (size_t t = 0; t < f->e->count; t++) {
        const char *name = f->e->targets[t].source->name;
        if (!qnti_packed_is_float(&f->e->targets[t]))
            continue;
        *list = *list ? *list : json_array();
        json_array_append_new(*list, json_stringn(name, strlen(name) - strlen(".weight")));
    }
}

/* --- tensors --- */

/* The type that readers compute in; the embedding has it where the layers are quantized already. */
static qnt_dtype type_of(const struct qnti_export *e, const struct qnti_weight *w)
{
    for (size_t t = 0; !w->plain.data && t < e->count; t++)
        if (e->targets[t].role == QNTI_EMBED)
            w = e->targets[t].source;
    return w->plain.data ? w->plain.dtype : QNT_F32;
}

qnt_status qnti_packed_load(struct qnti_folder *f, size_t t, qnt_qlinear **q)
{
    const struct qnti_weight *w = f->e->targets[t].source;
    QNT_TRY(f->e->layer(f->e->user, t, q));
    (*q)->source_type = type_of(f->e, w);
    if ((*q)->out == w->rows && (*q)->in == w->cols)
        return QNT_OK;
    return qnti_fail(f->e->ctx, QNT_INVALID, "layer %s is (%zu, %zu), expected (%zu, %zu)", w->name, (*q)->out,
                     (*q)->in, w->rows, w->cols);
}

/* A layer's bias is a tensor of the model: it is written in its own turn. */
static bool is_bias(const qnt_packed_tensor *t)
{
    return strcmp(t->name, "bias") == 0;
}

qnt_status qnti_packed_add(struct qnti_folder *f, size_t t, const qnt_packed_tensor *tensors, size_t count)
{
    const char *name = f->e->targets[t].source->name;
    for (size_t i = 0; i < count; i++) {
        struct qnti_buffer text = {0};
        qnt_status status;
        if (is_bias(&tensors[i]))
            continue;
        status = qnti_buffer_print(f->e->ctx, &text, "%.*s%s", (int)(strlen(name) - strlen("weight")), name,
                                   tensors[i].name);
        if (status == QNT_OK)
            status = qnti_folder_add(f, t, i, text.data, qnti_dtype_name(tensors[i].dtype), tensors[i].rank,
                                     tensors[i].shape, tensors[i].bytes);
        qnti_buffer_free(f->e->ctx, &text);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* Packs the layer into `bytes`, unless it is there already. */
static qnt_status take_in_hand(struct qnti_folder *f, size_t t)
{
    struct qnti_packed_hand *p = f->state;
    qnt_qlinear *q = NULL;
    size_t count, bytes;
    qnt_status status;
    if (p->target == t)
        return QNT_OK;
    p->target = SIZE_MAX;
    qnti_free(f->e->ctx, p->bytes);
    p->bytes = NULL;
    QNT_CHECK(qnti_packed_load(f, t, &q));
    QNT_CHECK(qnti_layout_tensors(p->layout, q, p->tensors, &count, &bytes));
    QNT_CHECK(qnti_alloc_raw(f->e->ctx, bytes, 1, &p->bytes));
    QNT_CHECK(qnti_layout_pack(p->layout, q, p->bytes, bytes));
    p->target = t;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

qnt_status qnti_packed_write(struct qnti_folder_entry *entry, struct qnti_output *output)
{
    const struct qnti_packed_hand *p = entry->folder->state;
    const qnt_packed_tensor *t = &p->tensors[entry->part];
    QNT_TRY(take_in_hand(entry->folder, entry->target));
    return qnti_folder_emit(entry, output, (const char *)p->bytes + t->offset, t->bytes);
}
