/* Bookkeeping of a decode step: the drawn token goes to its slot's reply, the row's inputs of the next step
 * move on by one. Shapes: [rows] and [slots, max_reply]; a thread a row. Bound by the launch. */
#include "primitives.cuh"

namespace {

const int threads = 128;

/* A finished slot's row keeps all its state: it computes something harmless until the host takes it out. */
__global__ void __launch_bounds__(threads) decode_advance(DecodeAdvance a) {
  int r = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  if (r >= a.rows) return;
  int s = a.slot[r];
  if (a.finished[s]) return;
  int token = a.token[r], length = a.length[s], keys = a.next_reply_len[r];
  size_t reply = static_cast<size_t>(s) * static_cast<size_t>(a.max_reply);
  if (length < a.max_reply) {
    a.reply[reply + static_cast<size_t>(length)] = token;
    a.reply_logprob[reply + static_cast<size_t>(length)] = a.logprob[r];
    a.length[s] = ++length;
  }
  if (keys < a.max_reply) keys++;
  a.next_token[r] = token;
  a.next_position[r]++;
  a.next_index[r]++;
  a.next_reply_len[r] = keys;
  a.next_cache_row[r] = s * a.max_reply + keys - 1;
  if (token == a.eos || length >= a.max_reply) a.finished[s] = 1;
}

}  // namespace

void cuda_decode_advance(Backend *backend, const DecodeAdvance *op) {
  unsigned blocks = static_cast<unsigned>(ceil_div(op->rows, threads));
  launch(cuda_state(backend), {"decode_advance", blocks, threads, 0}, decode_advance, *op);
}
