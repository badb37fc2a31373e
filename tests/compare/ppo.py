"""PPO on the CPU: popalm beside TRL, the same policy, prompts, sizes and threads.

usage: ppo.py FOLDER [--popalm BIN] [--threads N] [--steps N] [--data DIR]

A step samples three replies to each of 16 posts, scores them with a reward model of the policy's size, and updates policy
and critic (a network of its own on both sides) once in minibatches of 8; no curriculum. TRL pads prompts and replies;
its replies are as long as the longest of their batch, and its optimizer waits for the last minibatch of a step.
Seconds a step are the median of TRL's steps and the mean of
popalm's. Needs torch, transformers, tokenizers, datasets and a TRL that still has PPOTrainer (0.23.1 does).
"""
import json
import os
import statistics
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast,
                          TrainerCallback)
from trl import PPOConfig, PPOTrainer

import common

SETTINGS = common.EXPERIMENT["ppo"]
SAMPLES = SETTINGS["posts_per_step"] * SETTINGS["samples_per_post"]


class Clock(TrainerCallback):
    def __init__(self):
        self.at = [time.perf_counter()]

    def on_train_begin(self, *_, **__):
        self.at = [time.perf_counter()]

    def on_step_end(self, *_, **__):
        self.at.append(time.perf_counter())


def prompts(options, tokenizer, count):
    """Every post as often as it gets samples."""
    out = []
    for post, _ in common.posts(options):
        ids = common.prompt_ids(options, tokenizer, post)
        out += [{"input_ids": ids}] * SETTINGS["samples_per_post"]
        if len(out) >= count:
            break
    return Dataset.from_list(out[:count])


def train(options, policy, reward, tokenizer):
    """Seconds of each step but the first two."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    steps = options.steps + 2
    config = PPOConfig(
        output_dir=os.path.join(options.folder, "trl"), report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        per_device_train_batch_size=SETTINGS["minibatch"], gradient_accumulation_steps=SAMPLES // SETTINGS["minibatch"],
        num_mini_batches=SAMPLES // SETTINGS["minibatch"], local_rollout_forward_batch_size=SAMPLES, num_ppo_epochs=1,
        total_episodes=SAMPLES * steps, response_length=common.EXPERIMENT["data"]["max_reply_tokens"], stop_token="eos",
        temperature=SETTINGS["sampling"]["temperature"], num_sample_generations=0, learning_rate=1e-5)

    def network():
        return AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1, dtype=torch.float32)

    data, clock = prompts(options, tokenizer, SAMPLES * steps), Clock()
    trainer = PPOTrainer(
        args=config, processing_class=fast, model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32), reward_model=network(),
        value_model=network(), train_dataset=data, eval_dataset=data.select(range(SAMPLES)), callbacks=[clock])
    if trainer.args.batch_size != SAMPLES or trainer.args.local_mini_batch_size != SETTINGS["minibatch"]:
        raise SystemExit(f"TRL takes {trainer.args.batch_size} samples a step in minibatches of "
                         f"{trainer.args.local_mini_batch_size}")
    trainer.train()
    return [b - a for a, b in zip(clock.at, clock.at[1:])][2:]


def main():
    options = common.arguments(__doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    timing, ours_bytes = common.run(options, "--set", f"ppo.steps={options.steps}")
    policy = common.export(options, common.stage(options.folder, "sft"), "sft-hf")
    tokenizer = Tokenizer.from_file(common.stage(options.folder, "sft") + "/tokenizer.json")
    ours = timing["runs"][0]["seconds"]["ppo"] / options.steps
    theirs = statistics.median(train(options, policy, policy, tokenizer))
    theirs_bytes = common.peak_bytes()
    print(json.dumps({
        "model": common.EXPERIMENT["model"]["preset"], "threads": options.threads, "torch": torch.__version__,
        "seconds_a_step": {"popalm": round(ours, 3), "trl": round(theirs, 3), "ratio": round(theirs / ours, 2)},
        "peak_mib": {"popalm": ours_bytes >> 20, "trl": theirs_bytes >> 20},
    }, indent=2))


main()
