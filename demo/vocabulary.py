"""Writes a CLIP tokenizer in which every word of a caption is one token and any other word is spelt out.

It is a real CLIPTokenizer (byte-pair merges), only its vocabulary is ours: `vocab.json` and `merges.txt`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from transformers import CLIPTokenizer

from demo.far_styles import FAR_STYLES
from demo.scenes import BACKGROUNDS, COLOURS, NONCE_STYLES, NONCE_SUBJECT
from demo.style_family import FAMILY_WORDS
from demo.styles import STYLES
from demo.subjects import SUBJECTS

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 32
GRAMMAR = ("a", "an", "photo", "of", "on", "in", "background", "style")
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*GRAMMAR, *SUBJECTS, *COLOURS, *BACKGROUNDS, NONCE_SUBJECT, *NONCE_STYLES, *STYLES))
)
STYLE_WORDS: tuple[str, ...] = tuple(word for word in (*FAMILY_WORDS, *FAR_STYLES) if word not in WORDS)
ALL_WORDS = WORDS + STYLE_WORDS
# Printable ASCII in lower case; CLIP lowers the text before it looks up a token.
CHARACTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]

Merge = tuple[str, str]


def _split(word: str, merges: list[Merge]) -> list[str]:
    """The pieces of `word` under `merges`, earlier merges first, as a BPE tokenizer would find them."""
    rank = {merge: i for i, merge in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = [(rank.get(pair, len(merges)), i) for i, pair in enumerate(itertools.pairwise(pieces))]
        best, i = min(pairs)
        if best == len(merges):
            break
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def build_merges(words: tuple[str, ...] = ALL_WORDS) -> list[Merge]:
    """Merges that join each word into one token.

    A word's missing merges are appended behind those of the words before it, so they can no longer come between an
    earlier word and its single token: earlier merges always win.
    """
    merges: list[Merge] = []
    for word in words:
        while len(pieces := _split(word, merges)) > 1:
            merges.append((pieces[0], pieces[1]))
    return merges


def build_vocabulary(merges: list[Merge]) -> dict[str, int]:
    """Token to index: characters within and at the end of a word, merged pieces, start and end of text."""
    tokens = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    tokens += dict.fromkeys(left + right for left, right in merges)
    return {token: index for index, token in enumerate([*tokens, START, END])}


def write_tokenizer(folder: Path, words: tuple[str, ...] = ALL_WORDS) -> CLIPTokenizer:
    """Writes the files of a tokenizer that knows `words` into `folder` and loads them from there."""
    merges = build_merges(words)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "vocab.json": build_vocabulary(merges),
        "special_tokens_map.json": {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MAX_LENGTH,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "bos_token": START,
            "eos_token": END,
            "pad_token": END,
            "unk_token": END,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)
