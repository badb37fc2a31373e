"""What the comparisons with other trainers share: an experiment that popalm runs, and what the other side needs of it
(token ids, a Hugging Face folder)."""
import argparse
import json
import os
import resource
import subprocess

TOKENS_PER_BATCH = 4096
EXPERIMENT = {
    "name": "compare",
    "data": {"synth": {"train_posts": 600, "dev_posts": 40}, "max_post_tokens": 96, "max_reply_tokens": 32},
    "tokenizer": {"train": {"vocab_size": 4096}},
    "model": {"preset": "gpt2-6m"},
    "sft": {"epochs": 1, "tokens_per_batch": TOKENS_PER_BATCH, "lr": 1e-3},
    "reward": {"epochs": 1, "pairs_per_batch": 16},
    "ppo": {"posts_per_step": 16, "samples_per_post": 3, "minibatch": 8, "critic": "reward", "curriculum": None,
            "steps": 20, "sampling": {"temperature": 0.95, "top_p": 1.0}},
    "evaluate": {"posts": 8, "replies": [1]},
}


def arguments(what):
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("folder", help="an empty folder to work in")
    parser.add_argument("--popalm", default="build/bin/popalm")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=20, help="steps of each side")
    parser.add_argument("--data", help="a folder with train.json, dev.json and pairs.json instead of the synthetic world")
    return parser.parse_args()


def run(options, *more):
    """Runs the experiment. Seconds of every stage, and the peak resident set of the process in bytes."""
    experiment = json.loads(json.dumps(EXPERIMENT))
    if options.data:
        del experiment["data"]["synth"]
        for name in ("train", "dev", "pairs"):
            experiment["data"][name] = os.path.join(os.path.abspath(options.data), name + ".json")
    path = os.path.join(options.folder, "compare.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(experiment, file)
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), OMP_WAIT_POLICY="passive")
    command = [options.popalm, "run", path, "--device", "cpu", "--out", options.folder, *more]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    with open(os.path.join(options.folder, "compare", "timing.json"), encoding="utf-8") as file:
        return json.load(file), usage.ru_maxrss * 1024


def stage(folder, name):
    """The folder of a finished stage."""
    stages = os.path.join(folder, "stages")
    return next(os.path.join(stages, entry) for entry in sorted(os.listdir(stages)) if entry.startswith(name + "-"))


def stage_peak_bytes(folder, name):
    """The peak resident set of popalm up to the end of a finished stage, as it has measured it."""
    with open(os.path.join(stage(folder, name), "stage.json"), encoding="utf-8") as file:
        return json.load(file)["memory"]["process_peak"]


def export(options, model, name):
    """The model as a Hugging Face folder of this name."""
    folder = os.path.join(options.folder, name)
    subprocess.run([options.popalm, "export", model, folder, "--format", "hf"], check=True, stdout=subprocess.DEVNULL)
    return folder


def posts(options):
    """(post, replies) of every training post that the run read."""
    train = options.data or stage(options.folder, "world")
    with open(os.path.join(train, "train.json"), encoding="utf-8") as file:
        for line in file:
            post = json.loads(line)
            yield post["weibo"], post["resp"]


def prompt_ids(options, tokenizer, post):
    """instruction, post, separator, as host/prompt.c makes them."""
    with open(os.path.join(stage(options.folder, "sft"), "prompt.json"), encoding="utf-8") as file:
        prompt = json.load(file)
    ids = tokenizer.encode(post).ids[: prompt["max_post_tokens"]]
    return tokenizer.encode(prompt["instruction"]).ids + ids + [tokenizer.token_to_id("<sep>")]


def examples(options, tokenizer):
    """(prompt, reply) of every training example as token ids."""
    most = EXPERIMENT["data"]["max_reply_tokens"]
    out = []
    for post, replies in posts(options):
        prompt = prompt_ids(options, tokenizer, post)
        out += [(prompt, (tokenizer.encode(reply).ids + [tokenizer.token_to_id("<eos>")])[:most]) for reply in replies]
    return out


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
