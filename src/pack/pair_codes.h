/*
 * pair_codes.h - codes of a grid of pairs as they are stored (olive.md, "Storage").
 */
#ifndef QNTI_PAIR_CODES_H
#define QNTI_PAIR_CODES_H

#include "grid/grid.h"

/* Levels of numbers 2k, 2k + 1 to their two codes of `bits` bits; false: no such pair can be stored. */
bool qnti_pair_encode(const struct qnti_grid *grid, const uint16_t level[2], uint16_t code[2]);
/* And back; false: no pair has these codes. */
bool qnti_pair_decode(const struct qnti_grid *grid, const uint16_t code[2], uint16_t level[2]);

/* All codes of a matrix: pair after pair, the first code of each in the lower bits; a row begins with a pair. */
size_t qnti_pair_codes_bytes(const struct qnti_numbers *q);
bool qnti_pair_codes_write(const struct qnti_numbers *q, uint8_t *bytes);
bool qnti_pair_codes_read(struct qnti_numbers *q, const uint8_t *bytes);

#endif
