#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/demo.jsonl and variants.json with the `tokenizers` library as oracle.

    make_tokenizer_golden.py --texts ENCODE_JSONL [--repo DIR]      needs `pip install tokenizers`

ENCODE_JSONL is encode.jsonl of tests/golden/tokenizer/deepseek.tar.xz: its texts are encoded again here.
demo.jsonl: {"text", "ids", "decoded"} by models/demo/tokenizer.json. variants.json: changes to that file (JSON merge
patches) that other published tokenizers make, and what the changed tokenizer gives.
"""
import argparse
import json
import os
import random
from importlib.metadata import version

from tokenizers import Tokenizer

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def split(regex):
    return dict(SPLIT, pattern={"Regex": regex})


def added(i, content, **options):
    token = {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return dict(token, **options)


def variants(demo):
    letters = "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿʀ-ʓʕ-ʯͰ-ͳͶͷΑ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ"
    v2 = sequence(split("[\r\n]"), split(r"\s?[" + letters + "]+"), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                  split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}, BYTE_LEVEL)
    gpt2 = dict(BYTE_LEVEL, use_regex=True)
    tokens = demo["added_tokens"]
    strip = [added(2048, "<l>", lstrip=True), added(2049, "<r>", rstrip=True),
             added(2050, "<lr>", lstrip=True, rstrip=True, special=True), added(2051, "<n>", normalized=True),
             added(2052, "<l><n>"), added(2053, "Ġé", special=True), added(2054, "a b")]
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<｜begin▁of▁sentence｜>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "<｜end▁of▁sentence｜>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]}
                                   for i, t in enumerate(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])}}
    merges = demo["model"]["merges"]
    return {
        "v2_splits": {"pre_tokenizer": v2},
        "digits_together": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, BYTE_LEVEL)},
        "gpt2_regex": {"pre_tokenizer": gpt2},
        "prefix_space": {"pre_tokenizer": sequence(split(r"\p{N}+"), dict(gpt2, add_prefix_space=True))},
        "no_splits": {"pre_tokenizer": BYTE_LEVEL},
        "foreign_regex": {"pre_tokenizer": sequence(split(r"(?<=[a-z])(?=[A-Z])|[^\s\p{L}]{2,3}|\S+?e|.{4}$"), BYTE_LEVEL)},
        "string_split": {"pre_tokenizer": sequence(dict(SPLIT, pattern={"String": "e."}), BYTE_LEVEL)},
        "strip": {"added_tokens": tokens + strip},
        "template": {"post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template]}},
        "ignore_merges": {"model": {"ignore_merges": True, "merges": merges[:400] + merges[900:]}},
        "reversed_string_merges": {"model": {"merges": [" ".join(m) for m in reversed(merges)]}},
    }


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def case(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--repo", default=os.path.join(os.path.dirname(__file__), ".."))
    options = parser.parse_args()
    rng = random.Random(7)
    texts = [json.loads(line)["text"] for line in open(options.texts, encoding="utf-8")]
    demo = json.load(open(os.path.join(options.repo, "models/demo/tokenizer.json"), encoding="utf-8"))
    out = os.path.join(options.repo, "tests/golden/tokenizer")

    tokenizer = Tokenizer.from_str(json.dumps(demo))
    with open(os.path.join(out, "demo.jsonl"), "w", encoding="ascii") as f:
        for text in texts:
            if len(text.encode()) <= 300:
                f.write(json.dumps(case(tokenizer, text)) + "\n")

    marks = ["<l>", "<r>", "<lr>", "<n>", "<l><n>", " ", "  ", "\n", "\u00a0", "a b", "Ġé", "x", "<", "<｜User｜>"]
    short = [t for t in texts if 0 < len(t.encode()) <= 120]
    result = {"oracle": f"tokenizers {version('tokenizers')}", "base": "models/demo/tokenizer.json", "variants": []}
    for name, patch in variants(demo).items():
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(demo, patch)))
        chosen = rng.sample(short, 45)
        chosen += ["".join(rng.choice(marks + short[:40]) for _ in range(rng.randint(2, 9))) for _ in range(25)]
        chosen += ["".join(rng.choice(marks[:9]) for _ in range(rng.randint(2, 9))) for _ in range(15 if name == "strip" else 0)]
        cases = [dict(case(tokenizer, t), with_special=tokenizer.encode(t).ids) for t in chosen]
        for c in cases:
            c["skipped"] = tokenizer.decode(c["ids"], skip_special_tokens=True)
            for key, same in (("with_special", "ids"), ("skipped", "decoded")):
                if c[key] == c[same]:
                    del c[key]
        result["variants"].append({"name": name, "patch": patch, "cases": cases})
    with open(os.path.join(out, "variants.json"), "w", encoding="ascii") as f:
        json.dump(result, f, indent=None, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
