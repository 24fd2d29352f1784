/*
 * clock.h - seconds of a clock that only goes forward, for reports and progress; results never depend on it.
 */
#ifndef QNTI_CLOCK_H
#define QNTI_CLOCK_H

double qnti_seconds(void);

#endif
