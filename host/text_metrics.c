/* ROUGE (Lin 2004) with the definitions of rouge-chinese, BLEU (Papineni et al. 2002) with those of NLTK,
 * distinct-n (Li et al. 2016). */
#include "text_metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef const uint32_t *Ngram; /* its first token, inside the text */

static int compare_ngrams(Ngram a, Ngram b, int n) {
  for (int i = 0; i < n; i++)
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  return 0;
}

static int compare_sorted(const void *a, const void *b, void *n) {
  return compare_ngrams(*(const Ngram *)a, *(const Ngram *)b, *(const int *)n);
}

static int ngram_count(Tokens text, int n) { return text.count >= n ? text.count - n + 1 : 0; }

/* The n-grams of a text, sorted. */
static Ngram *sorted_ngrams(Arena *arena, Tokens text, int n) {
  int count = ngram_count(text, n);
  Ngram *ngram = NEW(arena, Ngram, count ? count : 1);
  for (int i = 0; i < count; i++) ngram[i] = text.id + i;
  qsort_r(ngram, (size_t)count, sizeof *ngram, compare_sorted, &n);
  return ngram;
}

/* Where the run of n-grams equal to ngram[at] ends. */
static int run_end(const Ngram *ngram, int count, int at, int n) {
  int end = at + 1;
  while (end < count && compare_ngrams(ngram[at], ngram[end], n) == 0) end++;
  return end;
}

static int distinct_count(const Ngram *ngram, int count, int n) {
  int distinct = 0;
  for (int i = 0; i < count; i = run_end(ngram, count, i, n)) distinct++;
  return distinct;
}

/* F as rouge-chinese has it, which never divides by zero. */
static Rouge rouge_of(int overlap, int hypothesis, int reference) {
  Rouge rouge = {hypothesis ? (double)overlap / hypothesis : 0, reference ? (double)overlap / reference : 0,
                 0};
  rouge.f = 2.0 * (rouge.precision * rouge.recall / (rouge.precision + rouge.recall + 1e-8));
  return rouge;
}

/* Over the sets of n-grams: a repeated n-gram counts once. */
Rouge rouge_n(Tokens hypothesis, Tokens reference, int n, Arena *scratch) {
  ArenaMark mark = arena_mark(scratch);
  int hypotheses = ngram_count(hypothesis, n), references = ngram_count(reference, n), overlap = 0;
  Ngram *h = sorted_ngrams(scratch, hypothesis, n), *r = sorted_ngrams(scratch, reference, n);
  for (int i = 0, j = 0; i < hypotheses && j < references;) {
    int order = compare_ngrams(h[i], r[j], n);
    overlap += order == 0;
    if (order <= 0) i = run_end(h, hypotheses, i, n);
    if (order >= 0) j = run_end(r, references, j, n);
  }
  Rouge rouge = rouge_of(overlap, distinct_count(h, hypotheses, n), distinct_count(r, references, n));
  arena_reset(scratch, mark);
  return rouge;
}

/* One row of the usual table: row[j] is the longest common subsequence of the hypothesis read so far and
 * the first j tokens of the reference. */
static int longest_common_subsequence(Tokens a, Tokens b, Arena *scratch) {
  ArenaMark mark = arena_mark(scratch);
  int *row = NEW(scratch, int, b.count + 1);
  for (int i = 0; i < a.count; i++) {
    for (int j = 0, diagonal = 0; j < b.count; j++) {
      int above = row[j + 1];
      int skip = above > row[j] ? above : row[j];
      row[j + 1] = a.id[i] == b.id[j] ? diagonal + 1 : skip;
      diagonal = above;
    }
  }
  int length = row[b.count];
  arena_reset(scratch, mark);
  return length;
}

Rouge rouge_l(Tokens hypothesis, Tokens reference, Arena *scratch) {
  return rouge_of(longest_common_subsequence(hypothesis, reference, scratch), hypothesis.count,
                  reference.count);
}

/* The hypothesis' n-grams that occur in the references, each at most as often as in the reference that has
 * most of it. */
static int clipped_matches(Tokens hypothesis, const Tokens *references, int count, int n, Arena *scratch) {
  ArenaMark mark = arena_mark(scratch);
  int ngrams = ngram_count(hypothesis, n), matches = 0;
  Ngram *h = sorted_ngrams(scratch, hypothesis, n);
  int *most = NEW(scratch, int, ngrams ? ngrams : 1); /* at the start of each run of h */
  for (int k = 0; k < count; k++) {
    ArenaMark inner = arena_mark(scratch);
    int others = ngram_count(references[k], n);
    Ngram *r = sorted_ngrams(scratch, references[k], n);
    for (int i = 0, j = 0; i < ngrams && j < others;) {
      int order = compare_ngrams(h[i], r[j], n);
      int end = run_end(r, others, j, n);
      if (order == 0 && end - j > most[i]) most[i] = end - j;
      if (order <= 0) i = run_end(h, ngrams, i, n);
      if (order >= 0) j = end;
    }
    arena_reset(scratch, inner);
  }
  for (int i = 0; i < ngrams;) {
    int end = run_end(h, ngrams, i, n);
    matches += most[i] < end - i ? most[i] : end - i;
    i = end;
  }
  arena_reset(scratch, mark);
  return matches;
}

/* The reference length nearest to the hypothesis'; of two as near, the shorter. */
static int closest_length(int length, const Tokens *references, int count) {
  int closest = references[0].count;
  for (int k = 1; k < count; k++) {
    int distance = abs(references[k].count - length) - abs(closest - length);
    if (distance < 0 || (distance == 0 && references[k].count < closest)) closest = references[k].count;
  }
  return closest;
}

/* BLEU = brevity * exp(1/4 sum log p_n). The k-th order without a match has p_n = 1 / (2^k n-grams). */
double bleu_4(Tokens hypothesis, const Tokens *references, int count, Arena *scratch) {
  if (hypothesis.count == 0 || count == 0) return 0;
  double sum = 0, halved = 1;
  for (int n = 1; n <= 4; n++) {
    int ngrams = ngram_count(hypothesis, n);
    double matches = clipped_matches(hypothesis, references, count, n, scratch);
    if (n == 1 && matches == 0) return 0;
    if (matches == 0) matches = halved /= 2;
    sum += log(matches / (ngrams > 1 ? ngrams : 1));
  }
  int closest = closest_length(hypothesis.count, references, count);
  double brevity = hypothesis.count > closest ? 1 : exp(1 - (double)closest / hypothesis.count);
  return brevity * exp(sum / 4);
}

double distinct_n(const Tokens *texts, int count, int n, Arena *scratch) {
  ArenaMark mark = arena_mark(scratch);
  int64_t total = 0;
  for (int k = 0; k < count; k++) total += ngram_count(texts[k], n);
  if (total == 0) return 0;
  Ngram *ngram = NEW(scratch, Ngram, total);
  int64_t filled = 0;
  for (int k = 0; k < count; k++)
    for (int i = 0; i < ngram_count(texts[k], n); i++) ngram[filled++] = texts[k].id + i;
  qsort_r(ngram, (size_t)total, sizeof *ngram, compare_sorted, &n);
  int64_t distinct = 1;
  for (int64_t i = 1; i < total; i++) distinct += compare_ngrams(ngram[i - 1], ngram[i], n) != 0;
  arena_reset(scratch, mark);
  return (double)distinct / (double)total;
}
