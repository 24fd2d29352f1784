/*
 * packed.h - what folders of packed layers share (packed_layers.c): GPTQ, AWQ, bitsandbytes, compressed-tensors.
 */
#ifndef QNTI_EXPORT_PACKED_H
#define QNTI_EXPORT_PACKED_H

#include "export/folder.h"
#include <quant/quant.h>

/* The first member of a packed folder's state: the packed layer in hand. */
struct qnti_packed_hand {
    const struct qnti_layout *layout;    /* of all layers */
    size_t target;                       /* SIZE_MAX: none is in hand */
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    void *bytes;
};
qnt_status qnti_packed_begin(struct qnti_folder *f, struct qnti_packed_hand *hand);
void qnti_packed_finish(struct qnti_folder *f, struct qnti_packed_hand *hand);

/* The finished layer of a target, of the target's shape; the caller destroys it. */
qnt_status qnti_packed_load(struct qnti_folder *f, size_t target, qnt_qlinear **q);
/* Adds its tensors to the folder, but for a bias, which is a tensor of the model. */
qnt_status qnti_packed_add(struct qnti_folder *f, size_t target, const qnt_packed_tensor *tensors, size_t count);
/* Rules of folders: emits one of them. */
qnt_status qnti_packed_write(struct qnti_folder_entry *entry, struct qnti_output *output);

/* Whether a target is a block's linear that stays float. */
bool qnti_packed_is_float(const struct qnti_target *t);
/* Names of those, behind the ones in *list, which is made where there are some. */
void qnti_packed_list_floats(const struct qnti_folder *f, json_t **list);

#endif
