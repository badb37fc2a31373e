/* Named settings: the defaults of the keys that a preset changes. "paper" is the table of keys as it stands;
 * "released" is the published code, for what its description and the paper's figure say otherwise. Settings
 * of the released code that only make sense for its 6-billion-parameter model (adapters, their learning
 * rates) have no row. */
#include <string.h>

#include "experiment_keys.h"

const char *const experiment_preset_names[] = {"paper", "released", NULL};

static const struct {
  const char *preset, *path, *value;
} rows[] = {
    {"released", "reward.orient", "\"as_listed\""}, /* text_j is taken for the better one */
    {"released", "reward.input", "\"reply_post\""}, /* the paper's figure has the post first */
    {"released", "reward.epochs", "20"},
    {"released", "ppo.posts_per_step", "4"},
    {"released", "ppo.minibatch", "2"},
    {"released", "ppo.steps", "1257"}, /* 2 passes over the 2514 released posts, 4 a step */
    {"released", "ppo.curriculum.rank.scope", "\"post\""},
    {"released", "ppo.curriculum.pace.absolute", "true"}, /* |R prob| against lambda: very bad samples pass */
};
enum { ROWS = sizeof rows / sizeof *rows };

const char *experiment_preset_value(const char *preset, const char *path) {
  for (int i = 0; i < ROWS; i++)
    if (strcmp(rows[i].preset, preset) == 0 && strcmp(rows[i].path, path) == 0) return rows[i].value;
  return NULL;
}
