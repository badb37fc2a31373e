/* Draws the synthetic world and writes it as data files; reads it back for the evaluator.
 *
 * Likes of a reply:  1 + floor(exp(log 20 + 4 popularity + noise)),
 *   noise = exposure_noise (2 z_post + z_reply) + author_noise z_author + early_bird / (1 + rank of arrival)
 * with standard normal z, so the counts are log-normal: a heavy tail. With probability flip a reply then
 * swaps its count with another one of the post. */
#include "world.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/philox.h"
#include "world_grammar.h"

enum { FORMAT_VERSION = 1, PAIRS_PER_POST = 4, MOST_REPLIES = 64 };
/* Streams of random numbers: what a step of the key stands for. */
enum { STREAM_EVENTS, STREAM_REPLIES, STREAM_LIKES, STREAM_PAIRS };

static const double log_base_likes = 2.995732273553991, likes_slope = 4;

const WorldSettings world_defaults = {.seed = 1,
                                      .train_posts = 2000,
                                      .dev_posts = 200,
                                      .replies_per_post = 6,
                                      .exposure_noise = 0.35,
                                      .early_bird = 0.7,
                                      .author_noise = 0.25,
                                      .flip = 0.02};

struct World {
  WorldSettings settings;
};

/* The numbers of one stream for one post, one after the other. */
typedef struct Draw {
  RandomKey key;
  uint32_t post, used;
} Draw;

static Draw draw_from(uint64_t seed, uint32_t stream, uint32_t post) {
  return (Draw){{seed, RANDOM_WORLD, stream}, post, 0};
}
static double draw_uniform(Draw *draw) { return random_double(draw->key, draw->post, draw->used++); }
static int draw_below(Draw *draw, int n) {
  return (int)random_below(draw->key, draw->post, draw->used++, (uint32_t)n);
}
static double draw_normal(Draw *draw) { return random_normal(draw->key, draw->post, draw->used++); }

typedef struct Candidate {
  char *text;
  double popularity;
  int64_t likes;
} Candidate;

/* One post with all its replies; sums over posts for world.json. */
typedef struct Thread {
  char *post;
  Candidate candidate[2 * MOST_REPLIES];
  int count;
} Thread;

typedef struct Facts {
  double candidates, kept, agreeing; /* sums */
  int64_t candidate_count, kept_count, pair_count;
} Facts;

static void draw_target(Draw *draw, const Event *event, Reply *reply) {
  double u = draw_uniform(draw);
  if (u < 0.4) return; /* the best one */
  reply->target = u < 0.6    ? (reply->target == TARGET_SUBJECT ? TARGET_PROP : TARGET_SUBJECT)
                  : u < 0.75 ? TARGET_TOPIC
                             : TARGET_GENERIC;
  reply->target_index = reply->target == TARGET_SUBJECT ? event->subject
                        : reply->target == TARGET_PROP  ? event->prop
                        : reply->target == TARGET_TOPIC ? event_topic(event)
                                                        : 0;
}

/* None with probability none, the fitting one with probability fitting, else any. */
static int draw_part(Draw *draw, double none, double fitting, int fit, int count) {
  double u = draw_uniform(draw);
  int any = draw_below(draw, count);
  return u < none ? 0 : u < none + fitting ? fit : any;
}

/* What people write: each part is right now and then, independently of the others. */
static Reply draw_reply(Draw *draw, const Event *event) {
  Reply reply = reply_best(event);
  double u = draw_uniform(draw);
  int any = draw_below(draw, STANCES);
  reply.stance = u < 0.3 ? reply.stance : u < 0.55 ? second_stance(event->mood) : (Stance)any;
  reply.form = draw_below(draw, FORMS);
  draw_target(draw, event, &reply);
  reply.opener = draw_part(draw, 0.5, 0.15, reply.opener, OPENERS);
  reply.tail = draw_part(draw, 0.5, 0.1, witty_tail(event, reply.stance), TAILS);
  reply.punctuation = draw_part(draw, 0.25, 0.35, fitting_punctuation(reply.stance), PUNCTUATIONS);
  reply.emoji = draw_part(draw, 0.5, 0.2, fitting_emoji(reply.stance), EMOJIS);
  return reply;
}

/* Half of a reply: the words before or after one of its spaces. */
static void write_fragment(Draw *draw, const Reply *reply, Text *text) {
  Text whole = {.arena = text->arena};
  reply_text(reply, &whole);
  int spaces = 0;
  for (size_t i = 0; i < whole.length; i++) spaces += whole.data[i] == ' ';
  size_t at = 0;
  for (int left = draw_below(draw, spaces); whole.data[at] != ' ' || left-- > 0;) at++;
  if (draw_uniform(draw) < 0.5)
    text_add(text, whole.data, at);
  else
    text_add(text, whole.data + at + 1, whole.length - at - 1);
}

/* Mistakes, most of popularity 0: a wrong name, the same again, two replies in one, half a reply. A reward
 * model that has never seen them likes some of them, and PPO finds out which. */
static void write_mistake(Draw *draw, const Event *event, Reply *reply, Text *text) {
  double u = draw_uniform(draw);
  if (u < 0.3) {
    write_fragment(draw, reply, text);
    return;
  }
  if (u < 0.8) {
    bool prop = reply->target == TARGET_PROP;
    int own = prop ? event->prop : event->subject, count = prop ? PROPS : SUBJECTS;
    reply->target = prop ? TARGET_PROP : TARGET_SUBJECT;
    reply->target_index = (own + 1 + draw_below(draw, count - 1)) % count;
  } else {
    Reply other = u < 0.9 ? *reply : draw_reply(draw, event);
    reply_core_text(&other, text);
    text_print(text, " ");
  }
  reply_text(reply, text);
}

static double popularity_of(const Event *event, const char *text) {
  Reply reply;
  int words;
  if (!reply_parse(text, &reply, &words)) return 0;
  Factors factors = reply_factors(event, &reply, words);
  return factors_popularity(&factors);
}

static bool said_before(const Thread *thread, const char *text) {
  for (int i = 0; i < thread->count; i++)
    if (strcmp(thread->candidate[i].text, text) == 0) return true;
  return false;
}

static void draw_candidates(const WorldSettings *settings, uint32_t number, const Event *event, Arena *arena,
                            Thread *thread) {
  Draw draw = draw_from(settings->seed, STREAM_REPLIES, number);
  while (thread->count < 2 * settings->replies_per_post) {
    Text text = {.arena = arena};
    Reply reply = draw_reply(&draw, event);
    if (draw_uniform(&draw) < 0.2)
      write_mistake(&draw, event, &reply, &text);
    else
      reply_text(&reply, &text);
    if (said_before(thread, text.data)) continue;
    thread->candidate[thread->count++] = (Candidate){text.data, popularity_of(event, text.data), 0};
  }
}

static void draw_likes(const WorldSettings *settings, uint32_t number, Thread *thread) {
  Draw draw = draw_from(settings->seed, STREAM_LIKES, number);
  double post = 2 * draw_normal(&draw);
  int rank[2 * MOST_REPLIES] = {0};
  for (int i = 0; i < thread->count; i++) {
    int at = draw_below(&draw, i + 1); /* inside-out shuffle */
    rank[i] = rank[at];
    rank[at] = i;
  }
  for (int i = 0; i < thread->count; i++) {
    double exposure = settings->exposure_noise * (post + draw_normal(&draw));
    double author = settings->author_noise * draw_normal(&draw);
    double early = settings->early_bird / (1 + rank[i]);
    double logarithm =
        log_base_likes + likes_slope * thread->candidate[i].popularity + exposure + author + early;
    thread->candidate[i].likes = 1 + (int64_t)exp(logarithm < 34 ? logarithm : 34);
  }
  for (int i = 0; i < thread->count; i++) {
    bool flipped = draw_uniform(&draw) < settings->flip;
    int other = draw_below(&draw, thread->count);
    if (!flipped) continue;
    int64_t likes = thread->candidate[i].likes;
    thread->candidate[i].likes = thread->candidate[other].likes;
    thread->candidate[other].likes = likes;
  }
}

/* Stable: of replies with as many likes the earlier written stays first. */
static void sort_by_likes(Thread *thread) {
  for (int i = 1; i < thread->count; i++) {
    Candidate moved = thread->candidate[i];
    int at = i;
    for (; at > 0 && thread->candidate[at - 1].likes < moved.likes; at--)
      thread->candidate[at] = thread->candidate[at - 1];
    thread->candidate[at] = moved;
  }
}

/* Post number of the world: events are distinct, since a permutation numbers them. */
static Thread *draw_thread(const WorldSettings *settings, uint32_t number, Arena *arena) {
  RandomKey key = {settings->seed, RANDOM_WORLD, STREAM_EVENTS};
  Event event = event_from_number(random_permutation(key, event_space(), number));
  Text post = {.arena = arena};
  post_text(&event, &post);
  Thread *thread = NEW(arena, Thread, 1);
  thread->post = post.data;
  draw_candidates(settings, number, &event, arena, thread);
  draw_likes(settings, number, thread);
  sort_by_likes(thread);
  return thread;
}

/* The texts of the grammar hold nothing that JSON would escape. */
static void write_post(const Thread *thread, int kept, Text *out) {
  text_print(out, "{\"weibo\": \"%s\", \"resp\": [", thread->post);
  for (int i = 0; i < kept; i++) text_print(out, "%s\"%s\"", i ? ", " : "", thread->candidate[i].text);
  text_print(out, "], \"like\": [");
  for (int i = 0; i < kept; i++) text_print(out, "%s%" PRId64, i ? ", " : "", thread->candidate[i].likes);
  text_print(out, "]}\n");
}

/* Pairs of replies with different counts; as in files found in the wild, the one that is listed first is
 * the more liked one only most of the time. */
static void write_pairs(const WorldSettings *settings, uint32_t number, const Thread *thread, Text *out,
                        Facts *facts) {
  Draw draw = draw_from(settings->seed, STREAM_PAIRS, number);
  for (int pair = 0, tries = 0; pair < PAIRS_PER_POST && tries < 100; tries++) {
    int first = draw_below(&draw, thread->count), second = draw_below(&draw, thread->count);
    bool inverted = draw_uniform(&draw) < 0.4;
    const Candidate *more = &thread->candidate[first < second ? first : second];
    const Candidate *less = &thread->candidate[first < second ? second : first];
    if (more->likes == less->likes) continue;
    const Candidate *j = inverted ? less : more, *k = inverted ? more : less;
    text_print(out,
               "{\"weibo\": \"%s\", \"text_j\": \"%s\", \"text_k\": \"%s\", \"text_j_like\": %" PRId64
               ", \"text_k_like\": %" PRId64 "}\n",
               thread->post, j->text, k->text, j->likes, k->likes);
    facts->agreeing += more->popularity > less->popularity    ? 1
                       : more->popularity == less->popularity ? 0.5
                                                              : 0;
    facts->pair_count++;
    pair++;
  }
}

static void count_replies(const Thread *thread, int kept, Facts *facts) {
  for (int i = 0; i < thread->count; i++) {
    facts->candidates += thread->candidate[i].popularity;
    if (i < kept) facts->kept += thread->candidate[i].popularity;
  }
  facts->candidate_count += thread->count;
  facts->kept_count += kept;
}

static Status check_settings(const WorldSettings *s) {
  if (s->train_posts < 1 || s->dev_posts < 1)
    return fail(INVALID, "data.synth: %d train and %d dev posts; give at least one of each", s->train_posts,
                s->dev_posts);
  uint64_t posts = (uint64_t)s->train_posts + (uint64_t)s->train_posts / 2 + (uint64_t)s->dev_posts;
  if (posts > event_space())
    return fail(INVALID,
                "data.synth: %" PRIu64 " posts, but the world has %" PRIu64 " events; ask for fewer posts",
                posts, event_space());
  if (s->replies_per_post < 2 || s->replies_per_post > MOST_REPLIES)
    return fail(INVALID, "data.synth.replies_per_post: %d; give 2 to %d", s->replies_per_post, MOST_REPLIES);
  if (!(s->exposure_noise >= 0 && s->author_noise >= 0 && s->early_bird >= 0))
    return fail(INVALID, "data.synth: a noise strength is negative; give 0 or more");
  if (!(s->flip >= 0 && s->flip <= 1))
    return fail(INVALID, "data.synth.flip: %g; give a probability", s->flip);
  return OK;
}

/* The seed is text, because not every reader of JSON keeps 64 bits of a number. */
static void write_world(const WorldSettings *s, const Facts *facts, Text *out) {
  text_print(out, "{\"format\": \"popalm-world\", \"version\": %d,\n", FORMAT_VERSION);
  text_print(out, " \"settings\": {\"seed\": \"%" PRIu64 "\", \"train_posts\": %d, \"dev_posts\": %d, ",
             s->seed, s->train_posts, s->dev_posts);
  text_print(out, "\"replies_per_post\": %d, \"exposure_noise\": %.10g, \"early_bird\": %.10g, ",
             s->replies_per_post, s->exposure_noise, s->early_bird);
  text_print(out, "\"author_noise\": %.10g, \"flip\": %.10g},\n", s->author_noise, s->flip);
  text_print(out, " \"mean_popularity\": {\"written\": %.6f, \"kept\": %.6f},\n",
             facts->candidates / (double)facts->candidate_count, facts->kept / (double)facts->kept_count);
  text_print(out, " \"pairs_where_likes_agree_with_popularity\": %.6f}\n",
             facts->agreeing / (double)(facts->pair_count ? facts->pair_count : 1));
}

static Status save(const char *folder, const char *name, const Text *text) {
  Arena arena = {0};
  Status status = file_write(path_join(&arena, folder, name), text->data ? text->data : "", text->length);
  arena_free(&arena);
  return status;
}

static Status write_files(const WorldSettings *settings, const char *folder, Arena *arena) {
  Arena scratch = {0};
  Text train = {.arena = arena}, dev = {.arena = arena}, pairs = {.arena = arena}, world = {.arena = arena};
  Facts facts = {0};
  /* Posts in order: train, dev, and half as many as train that only pairs.json has. */
  int train_end = settings->train_posts, dev_end = train_end + settings->dev_posts;
  int end = dev_end + settings->train_posts / 2, kept = settings->replies_per_post;
  for (int number = 0; number < end && !interrupted; number++) {
    ArenaMark mark = arena_mark(&scratch);
    Thread *thread = draw_thread(settings, (uint32_t)number, &scratch);
    if (number < dev_end) write_post(thread, kept, number < train_end ? &train : &dev);
    if (number < train_end || number >= dev_end)
      write_pairs(settings, (uint32_t)number, thread, &pairs, &facts);
    count_replies(thread, kept, &facts);
    arena_reset(&scratch, mark);
  }
  arena_free(&scratch);
  if (interrupted) return INTERRUPTED;
  write_world(settings, &facts, &world);
  TRY(make_folders(folder));
  TRY(save(folder, "train.json", &train));
  TRY(save(folder, "dev.json", &dev));
  TRY(save(folder, "pairs.json", &pairs));
  return save(folder, "world.json", &world);
}

Status world_write(const WorldSettings *settings, const char *folder) {
  TRY(check_settings(settings));
  Arena arena = {0};
  Status status = write_files(settings, folder, &arena);
  arena_free(&arena);
  return status;
}

static Status read_settings(const Json *json, WorldSettings *out) {
  const char *format;
  int64_t version;
  TRY(json_get_string(json, json->root, "format", &format));
  TRY(json_get_int(json, json->root, "version", &version));
  if (strcmp(format, "popalm-world") != 0 || version != FORMAT_VERSION)
    return fail(
        INVALID,
        "%s:1:1: format %s version %d, this program reads popalm-world version %d; make the data again",
        json->path, format, (int)version, FORMAT_VERSION);
  const cJSON *settings = cJSON_GetObjectItemCaseSensitive(json->root, "settings");
  if (!cJSON_IsObject(settings))
    return fail(INVALID, "%s:1:1: settings are missing; make the data again", json->path);
  const char *seed;
  int64_t train_posts, dev_posts, replies;
  TRY(json_get_string(json, settings, "seed", &seed));
  TRY(json_get_int(json, settings, "train_posts", &train_posts));
  TRY(json_get_int(json, settings, "dev_posts", &dev_posts));
  TRY(json_get_int(json, settings, "replies_per_post", &replies));
  TRY(json_get_number(json, settings, "exposure_noise", &out->exposure_noise));
  TRY(json_get_number(json, settings, "early_bird", &out->early_bird));
  TRY(json_get_number(json, settings, "author_noise", &out->author_noise));
  TRY(json_get_number(json, settings, "flip", &out->flip));
  if (sscanf(seed, "%" SCNu64, &out->seed) != 1)
    return fail(INVALID, "%s:1:1: the seed \"%s\" is no number; make the data again", json->path, seed);
  out->train_posts = (int)train_posts;
  out->dev_posts = (int)dev_posts;
  out->replies_per_post = (int)replies;
  return check_settings(out);
}

Status world_load(Arena *arena, const char *path, World **out) {
  Json json;
  TRY(json_read(arena, path, &json));
  World *world = NEW(arena, World, 1);
  Status status = read_settings(&json, &world->settings);
  json_free(&json);
  *out = world;
  return status;
}

/* The grammar is one for all worlds of a format version: a World stands for the version it was checked by. */
double world_popularity(const World *world, const char *post, const char *reply) {
  (void)world;
  Event event;
  return post_parse(post, &event) ? popularity_of(&event, reply) : 0;
}

double world_best_popularity(const World *world, const char *post) {
  Event event;
  if (!post_parse(post, &event)) return 0;
  Arena arena = {0};
  double best = 0;
  for (int form = 0; form < FORMS; form++) {
    Reply reply = reply_best(&event);
    reply.form = form;
    Text text = {.arena = &arena};
    reply_text(&reply, &text);
    best = fmax(best, world_popularity(world, post, text.data));
  }
  arena_free(&arena);
  return best;
}
