/* The tokenizer: learned from the training posts and replies, or a given one taken over. */
#include <string.h>

#include "dataset.h"
#include "stage.h"
#include "tokenizer.h"

/* Walks through the instruction, then each post and its replies. */
typedef struct TextWalk {
  const char *instruction; /* NULL once it was given */
  Dataset data;
  Arena scratch; /* of the post */
  Post post;
  int64_t next_post;
  int next_reply;
  Status status;
} TextWalk;

static bool next_text(void *state, const char **text, size_t *length) {
  TextWalk *walk = state;
  *text = walk->instruction;
  walk->instruction = NULL;
  if (!*text && walk->next_reply < walk->post.replies) *text = walk->post.reply[walk->next_reply++];
  if (!*text) {
    if (walk->next_post >= walk->data.count || interrupted) return false;
    arena_free(&walk->scratch);
    walk->next_reply = 0;
    walk->status = dataset_post(&walk->data, walk->next_post++, &walk->scratch, &walk->post);
    if (walk->status != OK) return false;
    *text = walk->post.text;
  }
  *length = strlen(*text);
  return true;
}

static Status train(const StageContext *context, Tokenizer **out) {
  const TokenizerSettings *settings = &context->experiment->tokenizer;
  TextWalk walk = {.instruction = context->experiment->data.instruction};
  TRY(dataset_open(context->arena, context->train, DATASET_POSTS, &walk.data));
  TokenizerTraining training = {settings->vocab_size, settings->min_frequency, next_text, &walk};
  Status status = tokenizer_train(context->arena, &training, out);
  if (walk.status != OK) status = walk.status;
  if (interrupted) status = fail(INTERRUPTED, "interrupted while the tokenizer was trained; run again");
  arena_free(&walk.scratch);
  dataset_close(&walk.data);
  return status;
}

Status stage_tokenizer(const StageContext *context) {
  Tokenizer *tokenizer;
  const char *path = context->experiment->tokenizer.path;
  if (path)
    TRY(tokenizer_load(context->arena, path, &tokenizer));
  else
    TRY(train(context, &tokenizer));
  return tokenizer_save(tokenizer, path_join(context->arena, context->folder, "tokenizer.json"));
}
