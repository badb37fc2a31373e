#!/usr/bin/env python3
"""Writes the seeds of fuzz_tokenizer: small tokenizer.json files of each kind, a zero byte, and a text.

    pip install tokenizers==0.23.3
    python3 tests/fuzz/make_tokenizer_seeds.py tests/fuzz/seeds/tokenizer
"""

import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["the cat sat on the mat, isn't it? 12345\r\n\r\n  the end", "今天天气真好,我们去看比赛吧 🎉", "na\u0301ive caf\u00e9 STRASSE"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = r"[!-/][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s+(?!\S)|\s+"


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "prefix": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "llama3": pre_tokenizers.Sequence([split(LLAMA3), BYTES]),
    "qwen2": pre_tokenizers.Sequence([split(LLAMA3.replace("{1,3}", "")), BYTES]),
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "deepseek": pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[一-龥]+"), split(DEEPSEEK), BYTES]),
    "removed": pre_tokenizers.Sequence([split(r"\s+", "removed"), split(r"\p{L}+|\p{N}+", "removed", True), BYTES]),
}


def save(folder, name, tokenizer):
    tokenizer.add_special_tokens([AddedToken("</s>"), AddedToken("<s>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("cat", single_word=True), AddedToken("caf\u00e9", normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    with open(os.path.join(folder, name), "wb") as file:
        file.write(tokenizer.to_str().encode() + b"\0" + "</s> <s> ".join(TEXTS).encode() + b"\xff\xe4\xbb cat")


def byte_level(name, cut):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = [] if name == "smollm2" else pre_tokenizers.ByteLevel.alphabet()[:64]
    tokenizer.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=alphabet))
    return tokenizer


def sentence_piece(normalizer):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=120, show_progress=False, special_tokens=["<unk>", "<0xE4>", "<0xBB>", "<0x41>", "<0xBD>"]))
    return tokenizer


def word_piece(lower):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    if lower:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFC()])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(
        vocab_size=120, show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    return tokenizer


def main():
    folder = sys.argv[1]
    for name, cut in CUTS.items():
        save(folder, name, byte_level(name, cut))
    for name, tokenizer in (("sentencepiece", sentence_piece(True)), ("metaspace", sentence_piece(False)),
                            ("bert", word_piece(False)), ("bert_lower", word_piece(True))):
        save(folder, name, tokenizer)


if __name__ == "__main__":
    main()
