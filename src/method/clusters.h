/*
 * clusters.h - channels of a site with like ranges as clusters, which share a grid (rptq.md).
 */
#ifndef QNTI_CLUSTERS_H
#define QNTI_CLUSTERS_H

#include "method/method.h"

struct qnti_cluster_rule {
    size_t clusters, head_clusters;   /* at most, of the input or each of its heads; of each head of values in models */
    size_t heads;                     /* of the input, where no producer says what they are */
    uint64_t seed;
};
/*
 * The permutation that puts the channels of a cluster side by side, by k-means of (max, min) within each head; heads
 * that one head of the producer feeds have one order. It stays empty where no tokens were measured.
 */
qnt_status qnti_cluster_channels(struct qnti_job *job, const struct qnti_cluster_rule *rule, struct qnti_transform *t);
/* The map by which the clusters of the site's transform are groups; without any all channels are one. *index: freed. */
qnt_status qnti_cluster_map(const struct qnti_job *job, size_t in, struct qnti_map *map, uint32_t **index);
/*
 * Ranges lo, hi [groups] of the layer's inputs, which the calibration has: over all tokens, or averaged over batches of
 * so many, 0.99 of what was and 0.01 of each.
 */
qnt_status qnti_cluster_ranges(const struct qnti_job *job, const qnt_qlinear *q, const struct qnti_map *map,
                               size_t batch, float *lo, float *hi);

#endif
