/*
 * plot.h - points of two measures as a small picture (SVG).
 */
#ifndef CLI_PLOT_H
#define CLI_PLOT_H

#include <stddef.h>

struct cli_point {
    const char *label;
    double x, y;         /* y is drawn logarithmically; points that are not above 0 are left out */
};

/* The file's text, to be freed. Labels and titles may hold any characters. */
char *cli_plot(const char *title, const char *x_title, const char *y_title, const struct cli_point *points,
               size_t count);

#endif
