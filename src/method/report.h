/*
 * report.h - the figures of a layer's report, once its weights are filled.
 */
#ifndef QNTI_REPORT_H
#define QNTI_REPORT_H

#include "method/method.h"

/* Rows of a weight to the coordinates of the site's transform, in place. */
qnt_status qnti_transform_rows(const struct qnti_job *job, float *rows, size_t n, size_t in);
/* The report knows what the calibration knows, also where the recipe made nothing of it. */
qnt_status qnti_report_hessian(struct qnti_job *job);
/* QNT_NON_FINITE: weights that their grid cannot hold. */
qnt_status qnti_report_fill(const struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q);

#endif
