#!/usr/bin/env python3
"""What tokenizer_bench prints, for HuggingFace's `tokenizers` (pip install tokenizers): one thread, CPU time.

    huggingface.py --tokenizer DIR [--piece-bytes N] [--rounds N] TEXT...
"""
import argparse
import os
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402  (reads the setting when it is imported)


def cut(data, piece_bytes):
    pieces, begin = [], 0
    while begin < len(data):
        end = min(len(data), begin + piece_bytes)
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(data[begin:end].decode())
        begin = end
    return pieces


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="models/demo")
    parser.add_argument("--piece-bytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("texts", nargs="+")
    options = parser.parse_args()
    start = time.thread_time()
    tokenizer = Tokenizer.from_file(os.path.join(options.tokenizer, "tokenizer.json"))
    print(f"load {time.thread_time() - start:.3f} s (CPU)")
    for file in options.texts:
        data = open(file, "rb").read().decode(errors="replace").encode()
        best_encode = best_decode = 1e9
        for _ in range(options.rounds):
            pieces = cut(data, options.piece_bytes)
            begin = time.thread_time()
            ids = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]
            middle = time.thread_time()
            for some in ids:
                tokenizer.decode(some, skip_special_tokens=False)
            best_decode = min(best_decode, time.thread_time() - middle)
            best_encode = min(best_encode, middle - begin)
        mega = len(data) / 1e6
        print(f"{file:40} {mega:8.3f} MB {sum(map(len, ids)):9} ids  encode {mega / best_encode:7.2f} MB/s  decode {mega / best_decode:7.2f} MB/s")


if __name__ == "__main__":
    main()
