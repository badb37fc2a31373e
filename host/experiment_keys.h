/* THE table of an experiment file's keys. Reading, --set, the defaults, the JSON schema, the reference page
 * and "did you mean" all come from it. */
#ifndef POPALM_EXPERIMENT_KEYS_H
#define POPALM_EXPERIMENT_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "experiment.h"

typedef enum KeyType {
  KEY_SECTION, /* an object of further keys; nullable: null switches it off */
  KEY_BOOL,    /* bool */
  KEY_INT,     /* int */
  KEY_SEED,    /* uint64_t, at most 2^53 because JSON numbers are doubles */
  KEY_NUMBER,  /* double */
  KEY_TEXT,    /* const char * */
  KEY_FILE,    /* const char *, a path: from the folder of the file that says it, or for --set from here */
  KEY_MODEL,   /* const char *, a preset's name, or a KEY_FILE when it holds a '/' or ends in .json */
  KEY_ENUM,    /* int, index into names */
  KEY_TOPS,    /* int[MAX_TOPS] and, right behind it, their count */
  KEY_SEEDS,   /* list of seeds; only in "ablate" */
  KEY_ARMS,    /* {arm: {dotted path: value}}; only in "ablate" */
  KEY_GRID,    /* {dotted path: [value, ...]}; only in "ablate" */
  KEY_WORDS    /* {name: text}; only in "ablate" */
} KeyType;

typedef enum KeyPlace {
  PLACE_EXPERIMENT, /* part of a resolved experiment */
  PLACE_PRESET,     /* chooses defaults and disappears in them */
  PLACE_FILE        /* of the file as a whole: cannot stand in an arm */
} KeyPlace;

#define NO_OFFSET ((size_t)-1)

typedef struct ExperimentKey {
  const char *path; /* dotted */
  KeyType type;
  const char *fallback; /* the default, as JSON; NULL: no fixed one, help says which */
  const char *help;     /* one sentence, with the unit */
  size_t offset;        /* in Experiment; of a nullable section: of the bool that says it is there */
  double least, most;   /* of numbers, both allowed unless above */
  bool above;           /* least itself is not allowed */
  bool nullable;
  const char *const *names; /* of KEY_ENUM, NULL-terminated, in the order of the C enumeration */
  KeyPlace place;
} ExperimentKey;

extern const ExperimentKey experiment_keys[]; /* a section stands before its keys */
extern const int experiment_key_count;

/* The names of the presets, NULL-terminated, and the default (JSON) that one gives a key; NULL: the table's
 * own (experiment_presets.c). */
extern const char *const experiment_preset_names[];
const char *experiment_preset_value(const char *preset, const char *path);

/* Index into experiment_keys, or -1. */
int experiment_key_find(const char *path);
/* "a number above 0, at most 1", "\"likes\" or \"as_listed\"": what a value must be. */
void experiment_key_expects(const ExperimentKey *key, Text *out);

#endif
