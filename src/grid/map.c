/*
 * map.c - which numbers of a matrix share a scale.
 */
#include "grid/grid.h"

static size_t tile_rows(const struct qnti_map *map, size_t rows)
{
    return map->rows ? map->rows : qnti_max(rows, 1);
}

size_t qnti_map_group_rows(const struct qnti_map *map, size_t rows)
{
    if (map->kind == QNTI_MAP_FLAT || map->kind == QNTI_MAP_STRIDED)
        return 1;
    return qnti_ceil_div(rows, tile_rows(map, rows));
}

size_t qnti_map_groups(const struct qnti_map *map, size_t rows, size_t cols)
{
    switch (map->kind) {
    case QNTI_MAP_FLAT:
        return qnti_ceil_div(rows * cols, map->cols);
    case QNTI_MAP_INDEX:
        return map->index_groups;
    case QNTI_MAP_NONE:
        return 0;
    case QNTI_MAP_STRIDED:
        return map->cols;
    case QNTI_MAP_TILES:
        break;
    }
    return map->cols ? qnti_ceil_div(cols, map->cols) : 1;
}

void qnti_map_find(const struct qnti_map *map, size_t cols, size_t r, size_t c, size_t *group_row, size_t *group)
{
    bool flat = map->kind == QNTI_MAP_FLAT || map->kind == QNTI_MAP_STRIDED;
    *group_row = flat || map->rows == 0 ? 0 : r / map->rows;
    switch (map->kind) {
    case QNTI_MAP_FLAT:
        *group = (r * cols + c) / map->cols;
        return;
    case QNTI_MAP_STRIDED:
        *group = (r * cols + c) % map->cols;
        return;
    case QNTI_MAP_INDEX:
        *group = map->index[c];
        return;
    case QNTI_MAP_NONE:
    case QNTI_MAP_TILES:
        *group = map->cols ? c / map->cols : 0;
        return;
    }
}

size_t qnti_map_run(const struct qnti_map *map, size_t cols, size_t r, size_t c)
{
    size_t end = c + 1;
    switch (map->kind) {
    case QNTI_MAP_FLAT:
        return qnti_min(cols - c, map->cols - (r * cols + c) % map->cols);
    case QNTI_MAP_INDEX:
        while (end < cols && map->index[end] == map->index[c])
            end++;
        return end - c;
    case QNTI_MAP_STRIDED:
        return map->cols == 1 ? cols - c : 1;
    case QNTI_MAP_NONE:
    case QNTI_MAP_TILES:
        break;
    }
    return map->cols ? qnti_min(cols - c, map->cols - c % map->cols) : cols - c;
}
