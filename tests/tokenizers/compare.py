#!/usr/bin/env python3
"""Compares ids, decoded texts and speed with Hugging Face's tokenizers library.

    pip install tokenizers==0.23.3
    ninja -C build encode_lines
    python3 tests/tokenizers/compare.py TOKENIZER.json... --text FILE... [--lines 100000] [--speed]

FILE is text, or JSON lines with posts and replies. To these lines are added, from a fixed seed: code, emoji,
mixed scripts, random code points, random bytes (as their decoding with U+FFFD), special tokens, numbers, runs of
white space, and very long lines without spaces. Exit status 1 if a single id differs.
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402

BLOCKS = [(0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x74F), (0x900, 0xDFF), (0xE00, 0xEFF),
          (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x218F), (0x2460, 0x24FF), (0x2600, 0x27BF),
          (0x3000, 0x30FF), (0x3300, 0x33FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFE6F),
          (0xFF00, 0xFFEF), (0x1D100, 0x1D1FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0x10000, 0x1FFFF)]
PARTS = ["'s", "'S", "'\u017f", "'re", "'LL", "n't", " ", "  ", "\t", "\n", "\r\n", "\u3000", "\u00a0", "\u2028", "\x00",
         "\x1f", "\u180e", "\u200d", "\ufe0f", "\u0301", "\u1161", "\u11a8", "e\u0301", "\uac00", "\u0958", "\u212b",
         "0", "12", "345", "\u0663", "\u2166", "a", "B", "\u00df", "\u0130", "\u4e2d", "\u6587", "\uff0c", "\u3002", "!",
         "?", "...", "##", "_", "-", "'", '"', "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1f3",
         "\u2581", "\ufffd", "<", ">", "|", "[", "]", "hello", " world", "Stra\u00dfe", "na\u00efve"]


def read_lines(path):
    with open(path, "rb") as file:
        data = file.read().decode("utf-8", errors="replace")
    for line in data.split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            yield line
            continue
        for value in row.values():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield text


def made_lines(count, specials):
    r = random.Random(20240607)
    point = lambda: r.choice([c for c in [r.randrange(1, 0x110000)] if not 0xD800 <= c < 0xE000] or [0x41])
    for i in range(count):
        kind = i % 8
        if kind == 0:
            yield "".join(chr(r.randint(*r.choice(BLOCKS))) for _ in range(r.randint(1, 40)))
        elif kind == 1:
            low, high = r.choice(BLOCKS)
            yield "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 30)))
        elif kind == 2:
            yield "".join(r.choice(PARTS) for _ in range(r.randint(1, 30)))
        elif kind == 3:
            yield bytes(r.randrange(256) for _ in range(r.randint(1, 60))).decode("utf-8", errors="replace")
        elif kind == 4:
            yield "".join(chr(point()) for _ in range(r.randint(1, 20)))
        elif kind == 5:
            yield "".join(r.choice(PARTS + specials * 3) for _ in range(r.randint(1, 12)))
        elif kind == 6:
            yield "".join(r.choice("0123456789,. %$") for _ in range(r.randint(1, 40)))
        else:
            yield " ".join("".join(r.choice("etaoinshrdluETAOIN'-") for _ in range(r.randint(1, 14)))
                           for _ in range(r.randint(1, 12)))
    for n in (100, 1000, 20000):
        yield "".join(chr(r.randint(0x4E00, 0x9FFF)) for _ in range(n))
        yield "".join(r.choice("abcdefgh") for _ in range(n))
        yield "a" * n
        yield " " * n
        yield "\u54c8" * n
        yield "\U0001f602" * n
        yield "!" * n + "\n" * n
        yield "e\u0301" * n


def point_lines():
    """Every code point beside letters, spaces, numbers, marks and itself."""
    for c in range(1, 0x110000):
        if not 0xD800 <= c < 0xE000:
            yield "a{0}a {0}{0} 1{0}1\u0301{0}\u0323{0}\n{0}'s".format(chr(c))


def write_records(path, texts):
    with open(path, "wb") as file:
        for text in texts:
            data = text.encode("utf-8")
            file.write(struct.pack("<I", len(data)) + data)


def read_ids(path):
    with open(path, "rb") as file:
        data = file.read()
    at, rows = 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<i", data, at)
        rows.append(list(struct.unpack_from("<%di" % count, data, at + 4)))
        at += 4 + 4 * count
    return rows


def read_texts(path):
    with open(path, "rb") as file:
        data = file.read()
    at, rows = 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        rows.append(data[at + 4 : at + 4 + length].decode("utf-8"))
        at += 4 + length
    return rows


def seconds(function, rounds=3):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(path, lines, options):
    peer = tokenizers.Tokenizer.from_file(path)
    peer.no_padding()
    peer.no_truncation()
    specials = [token.content for token in peer.get_added_tokens_decoder().values()][:6]
    texts = lines + list(made_lines(options.made, specials)) + (list(point_lines()) if options.points else [])
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("texts", "ids", "decoded")]
        write_records(names[0], texts)
        subprocess.run([options.driver, options.ours or path, names[0], names[1]], check=True, stdout=subprocess.DEVNULL)
        ours = read_ids(names[1])
        theirs = [encoding.ids for encoding in peer.encode_batch(texts, add_special_tokens=False)]
        wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        print("%s: %d texts, %d tokens, %d differ" % (path, len(texts), sum(map(len, theirs)), len(wrong)))
        for i in wrong[: options.show]:
            print("  %r\n    theirs %s\n    ours   %s" % (texts[i][:200], theirs[i][:40], ours[i][:40]))
        if options.decode:
            subprocess.run([options.driver, path, names[1], names[2], "decode"], check=True)
            decoded, expected = read_texts(names[2]), peer.decode_batch(theirs, skip_special_tokens=True)
            different = [i for i in range(len(texts)) if decoded[i] != expected[i] and "\x00" not in texts[i]]
            print("  decoded: %d differ" % len(different))
            for i in different[: options.show]:
                print("    theirs %r\n    ours   %r" % (expected[i][:120], decoded[i][:120]))
        if options.speed:
            write_records(names[0], lines)
            result = subprocess.run([options.driver, path, names[0], names[1], "3"], check=True, stdout=subprocess.PIPE)
            mine = float(result.stdout)
            yours = seconds(lambda: peer.encode_batch_fast(lines, add_special_tokens=False))
            size = sum(len(text.encode("utf-8")) for text in lines) / 1e6
            print("  speed: ours %.1f MB/s, theirs %.1f MB/s, ratio %.1f" % (size / mine, size / yours, yours / mine))
    return len(wrong)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", nargs="+")
    parser.add_argument("--text", nargs="+", default=[])
    parser.add_argument("--lines", type=int, default=100000)
    parser.add_argument("--made", type=int, default=20000)
    parser.add_argument("--show", type=int, default=3)
    parser.add_argument("--points", action="store_true", help="every code point too")
    parser.add_argument("--ours", help="the tokenizer as it is given to PopALM, if another file or folder")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--driver", default="build/bin/encode_lines")
    options = parser.parse_args()
    lines = [line for path in options.text for line in read_lines(path)]
    random.Random(1).shuffle(lines)
    lines = lines[: max(0, options.lines - options.made)]
    print("tokenizers %s" % tokenizers.__version__)
    sys.exit(1 if sum([compare(path, lines, options) for path in options.tokenizer]) else 0)


if __name__ == "__main__":
    main()
