"""Train the bundled tokenizer: CLIP's kind of byte-pair vocabulary, of any size.

tokenizer = train_tokenizer(lines, Path("tiny/bundle/clip"), vocab_size=2048, positions=32)
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
END_OF_WORD = "</w>"
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # CLIP's


def train_tokenizer(
    lines: list[str], folder: Path, vocab_size: int, positions: int
) -> CLIPTokenizer:
    """Learn a vocabulary from lines of text; write it as CLIPTokenizer's files and return it.

    vocab_size: number of tokens. positions: maximum number of tokens of a text.
    """
    learned = learn(lines, vocab_size - 2)
    tokens = [*sorted(learned["vocab"], key=learned["vocab"].get), BOS, EOS]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in learned["merges"])]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=positions,
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def learn(lines: list[str], vocab_size: int) -> dict:
    """Return {"vocab": {token: id}, "merges": pairs} of byte-pair encoding."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())["model"]
