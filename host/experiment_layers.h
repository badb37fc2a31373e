/* Where an experiment's values come from: layers (extended files, the file, --set, an arm), each laid over
 * the ones before. Every value remembers its source, so that an error can say file:line:column. */
#ifndef POPALM_EXPERIMENT_LAYERS_H
#define POPALM_EXPERIMENT_LAYERS_H

#include "experiment_keys.h"

/* One file, or one --set. */
typedef struct Source {
  Json json;
  const char *folder;   /* relative paths start here */
  const char *override; /* "--set ppo.lr=1"; NULL: a file */
  struct Source *next;
} Source;

typedef struct Setting {
  const Source *source;
  const cJSON *value; /* NULL: nothing was said */
} Setting;

/* Settings of all layers so far; copied for each arm. */
typedef struct Layers {
  Arena *arena;
  Source **sources; /* of all, to be freed */
  const Source *main;
  Setting *settings; /* [experiment_key_count] */
} Layers;

/* Lays path (which may name a section) over the settings. */
Status layers_apply(Layers *layers, const Source *source, const char *path, const cJSON *value) CHECKED;
/* A file with everything that it extends. */
Status layers_apply_file(Layers *layers, const char *path) CHECKED;
Status layers_apply_override(Layers *layers, const Override *override) CHECKED;
Layers layers_copy(const Layers *layers);
void layers_free(Layers *layers);

/* Whether the section or key is there: no section around it is null. */
bool layers_on(const Layers *layers, int key);

/* INVALID at a value (or at its key), and at the setting of a key or, if nothing was said, at the file. */
Status refuse_value(const Source *source, const cJSON *value, bool at_key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
Status refuse_setting(const Layers *layers, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* An arm of "ablate": a named one, or a combination of the grid's values. */
typedef struct ArmChange {
  const char *path;
  const cJSON *value, *at; /* at: where a message about it points */
} ArmChange;

typedef struct Arm {
  const char *name;
  const Source *source;
  ArmChange *changes;
  int count;
} Arm;

/* The named arms, then the grid's cells, the first path changing slowest (experiment_arms.c). */
Status experiment_arms(const Layers *layers, Arm **out, int *count) CHECKED;
/* Fills base_of from "ablate.baseline" and "ablate.baselines". */
Status experiment_baselines(const Layers *layers, const Arm *arms, ExperimentFile *out) CHECKED;
/* Whether an evaluation of this experiment has a metric of that name; if not, a message at "ablate.metric".
 */
Status experiment_check_metric(const Layers *layers, const Experiment *experiment,
                               const char *metric) CHECKED;

/* Cross checks of a resolved experiment (experiment_check.c). */
Status experiment_check(const Layers *layers, const Experiment *experiment) CHECKED;
/* A name that can be a folder: letters, digits, '.', '_', '-'. */
bool experiment_name_ok(const char *name);

#endif
