"""Tokenizer: one token per caption word, anything else spelt out, through transformers' own CLIPTokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from demo.model_config import MODEL_DIR
from demo.scenes import caption
from demo.vocabulary import ALL_WORDS, MAX_LENGTH, STYLE_WORDS, WORDS, build_merges, build_vocabulary, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("word", ALL_WORDS)
def test_each_word_is_one_token(tokenizer: CLIPTokenizer, word: str) -> None:
    assert tokenizer.tokenize(word) == [f"{word}</w>"]


def test_a_smaller_vocabulary_splits_its_words_alike(tmp_path: Path) -> None:
    """So that known captions keep their tokens when words are added, and words that are not known are spelt."""
    small = write_tokenizer(tmp_path, WORDS)
    for word in WORDS:
        assert small.tokenize(word) == [f"{word}</w>"]
    assert not set(WORDS) & set(STYLE_WORDS)
    assert len(small.tokenize(STYLE_WORDS[0])) > 1


def test_unknown_words_are_spelt(tokenizer: CLIPTokenizer) -> None:
    pieces = tokenizer.tokenize("Zebra-9")
    assert "".join(pieces).replace("</w>", "") == "zebra-9"
    assert tokenizer.unk_token not in pieces
    assert len(pieces) > 3


def test_captions_fit_and_are_framed(tokenizer: CLIPTokenizer) -> None:
    text = caption("mushroom", "orange", "yellow", "watercolour")
    ids = tokenizer(text, padding="max_length").input_ids
    assert len(ids) == MAX_LENGTH == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id
    assert ids[len(text.split()) + 1 :] == [tokenizer.eos_token_id] * (MAX_LENGTH - len(text.split()) - 1)


def test_vocabulary_has_no_gaps() -> None:
    vocabulary = build_vocabulary(build_merges())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


@pytest.mark.skipif(not (MODEL_DIR / "tokenizer").exists(), reason="the model is not in this checkout")
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_the_shipped_tokenizer_is_the_one_the_code_writes(tokenizer: CLIPTokenizer, tmp_path: Path, name: str) -> None:
    write_tokenizer(tmp_path)
    assert (MODEL_DIR / "tokenizer" / name).read_bytes() == (tmp_path / name).read_bytes()
