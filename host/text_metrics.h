/* ROUGE, BLEU and distinct-n on token sequences, equal to rouge-chinese and NLTK. All are pure functions
 * of ids, so they work on any script. */
#ifndef POPALM_TEXT_METRICS_H
#define POPALM_TEXT_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

/* What a text is cut into before it is compared. */
typedef struct Tokens {
  const uint32_t *id; /* code points, or hashes of words */
  int count;
} Tokens;

typedef enum Segmentation { SEGMENT_CHARACTERS, SEGMENT_WORDS } Segmentation;

/* A word list for SEGMENT_WORDS: UTF-8, one "word [frequency]" a line. */
typedef struct Dictionary Dictionary;
Status dictionary_load(Arena *arena, const char *path, Dictionary **out) CHECKED;

/* SEGMENT_CHARACTERS: each code point that is not white space; runs of ASCII letters or digits count as
 * one token. SEGMENT_WORDS: the most probable cut by the dictionary (unknown characters alone). */
Tokens text_tokens(Arena *arena, const char *text, size_t length, Segmentation segmentation, const Dictionary *dictionary);

typedef struct Rouge {
  double precision, recall, f;
} Rouge;

Rouge rouge_n(Tokens hypothesis, Tokens reference, int n, Arena *scratch);
Rouge rouge_l(Tokens hypothesis, Tokens reference, Arena *scratch); /* longest common subsequence, F1 */
/* Sentence BLEU-4 with NLTK's smoothing method 3, against several references. */
double bleu_4(Tokens hypothesis, const Tokens *references, int count, Arena *scratch);
/* Distinct n-grams over all n-grams of all texts (Li et al. 2016); 0 without n-grams. */
double distinct_n(const Tokens *texts, int count, int n, Arena *scratch);

#endif
