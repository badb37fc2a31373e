#include "cpu/cpu.h"

/* A finished slot's row keeps all its state; its next_* stay what they were, so that it computes
 * something harmless until the host takes it out. */
void cpu_decode_advance(Backend *backend, const DecodeAdvance *a) {
  (void)backend;
  for (int r = 0; r < a->rows; r++) {
    int s = a->slot[r];
    if (a->finished[s]) continue;
    int at = a->length[s];
    if (at < a->max_reply) {
      a->reply[(size_t)s * a->max_reply + at] = a->token[r];
      a->reply_logprob[(size_t)s * a->max_reply + at] = a->logprob[r];
      a->length[s] = ++at;
    }
    a->next_token[r] = a->token[r];
    a->next_position[r]++;
    a->next_index[r]++;
    if (a->next_reply_len[r] < a->max_reply) a->next_reply_len[r]++;
    a->next_cache_row[r] = s * a->max_reply + a->next_reply_len[r] - 1;
    if (a->token[r] == a->eos || at >= a->max_reply) a->finished[s] = 1;
  }
}
