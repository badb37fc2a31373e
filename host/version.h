/* What this program was built from; written into build/version.c at build time (cmake/version.cmake). */
#ifndef POPALM_VERSION_H
#define POPALM_VERSION_H

extern const char popalm_version[]; /* "0.1.0" */
extern const char
    popalm_commit[]; /* "1a2b3c4d5e6f", "-dirty" after it with changes not committed; "unknown" */
extern const char popalm_build[]; /* "Release, gcc 12.2.0, cpu" */

#endif
