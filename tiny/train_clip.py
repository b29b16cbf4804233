"""Train the bundled tokenizer and CLIP: byte-pair words, then contrastive learning on photographs and facts.

    python -m tiny.train_clip --photos runs/tiny/photos --captions DIR/captions.txt.gz --seconds 1200

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, with
transformers' CLIPModel at 3.7 million parameters. The texts are those of tiny/facts.py.
"""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tiny.data import Photos
from tiny.facts import COLUMNS, NAMES, ROWS, colour_grid, describe
from tiny.training import Average, Run, cosine, descend, parser, set_rate

OUT = Path(__file__).parent / "bundle" / "clip"
WORDS, POSITIONS, SIDE = 2048, 32, 96
BATCH, RATE = 128, 1e-3
CAPTIONED = 1 / 3  # of a batch, where there are such photographs: scenes, which labels of objects do not describe
FEWEST_SEEN = 5  # texts of a training epoch that a word must be in to be known
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(lines: list[str], folder: Path) -> CLIPTokenizer:
    """Learn CLIP's kind of byte-pair vocabulary with `WORDS` words and write it as CLIPTokenizer files."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    words = [*sorted(learnt["vocab"], key=learnt["vocab"].get), BOS, EOS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in learnt["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    made = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=POSITIONS
    )
    made.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def corpus(photos: Photos, captions: Path) -> list[str]:
    """Return the lines that the vocabulary is learnt from: human captions, labels and colour words."""
    with gzip.open(captions, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    labels = [row["label"] for row in photos.rows if row["label"]]
    return [*lines, *labels * 10, *[" ".join(NAMES + ROWS + COLUMNS)] * 20000]


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the untrained model."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=192))


def make_processor() -> CLIPImageProcessor:
    """Squeeze the whole picture into a square: nothing of it is cropped away."""
    return CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)


def recolour(picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """Change brightness and white balance at random, so that colours do not hang on kinds: uint8 (H, W, 3)."""
    gain = [rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15) for _ in range(3)]
    levels = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.75, 1.33) * gain
    table = np.clip(255 * levels, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.LUT(np.ascontiguousarray(picture), table[None]))


class Pairs:
    """Random batches of (pixel values, texts), flipped, cropped and recoloured together with their facts."""

    def __init__(self, photos: Photos, processor: CLIPImageProcessor, tokenizer: CLIPTokenizer, seed: int):
        self.photos, self.tokenizer, self.rng = photos, tokenizer, random.Random(seed)
        size = SIDE + 16
        self.squares = np.empty((len(photos), size, size, 3), np.uint8)
        for i in tqdm(range(len(photos)), desc="photographs"):
            self.squares[i] = cv2.resize(photos[i], (size, size), interpolation=cv2.INTER_AREA)
        self.captioned = [i for i in photos.training if photos.rows[i]["captions"]]
        self.mean = torch.tensor(processor.image_mean).view(3, 1, 1)
        self.std = torch.tensor(processor.image_std).view(3, 1, 1)

    def cut(self, i: int, augmented: bool) -> np.ndarray:
        """Return photograph i as (SIDE, SIDE, 3) uint8."""
        if not augmented:
            return cv2.resize(self.squares[i], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        y, x = self.rng.randint(0, 16), self.rng.randint(0, 16)
        return self.squares[i, y : y + SIDE, x : x + SIDE]

    def sample(self) -> list[int]:
        """Draw the photographs of a training batch, a share of them with human captions."""
        count = min(round(BATCH * CAPTIONED), len(self.captioned))
        return self.rng.sample(self.captioned, count) + self.rng.sample(self.photos.training, BATCH - count)

    def texts(self, indices: list[int]) -> list[str]:
        """Draw a text of each photograph as it is."""
        rows = [self.photos.rows[i] for i in indices]
        grids = [colour_grid(self.squares[i]) for i in indices]
        return [describe(g, row["label"], row["captions"], self.rng) for g, row in zip(grids, rows, strict=True)]

    def batch(self, indices: list[int], augmented: bool = True) -> tuple[torch.Tensor, dict]:
        """Return pixel values (n, 3, SIDE, SIDE) and tokenised texts (n, length)."""
        pictures, texts = [], []
        for i in indices:
            picture, row = self.cut(i, augmented), self.photos.rows[i]
            if augmented:
                picture = recolour(picture[:, :: self.rng.choice((1, -1))], self.rng)
            pictures.append(picture)
            texts.append(describe(colour_grid(picture), row["label"], row["captions"], self.rng))
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt")
        return (pixels - self.mean) / self.std, tokens


def contrastive(model: CLIPModel, pixels: torch.Tensor, tokens: dict) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of a batch."""
    with torch.autocast(model.device.type, torch.bfloat16):
        out = model(pixel_values=pixels, **tokens)
    logits = out.logits_per_image.float()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def known_words(tokenizer: CLIPTokenizer, pairs: Pairs) -> list[str]:
    """Return the whole words, of three letters or more, that `FEWEST_SEEN` texts of one epoch hold."""
    texts = tokenizer(pairs.texts(pairs.photos.training), add_special_tokens=False, truncation=True)
    seen = Counter()
    for tokens in map(tokenizer.convert_ids_to_tokens, texts["input_ids"]):
        starts = [True, *(token.endswith("</w>") for token in tokens)]
        seen.update({token for token, first in zip(tokens, starts, strict=False) if first and token.endswith("</w>")})
    words = [token.removesuffix("</w>") for token, count in seen.items() if count >= FEWEST_SEEN]
    return sorted(word for word in words if word.isalpha() and len(word) > 2)


@torch.no_grad()
def recall_at_10(model: CLIPModel, pairs: Pairs) -> float:
    """Return the share of held-out texts whose photograph is among the ten nearest (chance: 10 / number)."""
    model.eval()
    pixels, tokens = pairs.batch(pairs.photos.validation, augmented=False)
    logits = model(pixel_values=pixels, **tokens).logits_per_text
    model.train()
    best = logits.topk(min(10, len(logits)), dim=1).indices
    return (best == torch.arange(len(logits))[:, None]).any(1).float().mean().item()


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    flags = parser(__doc__, "runs/tiny/clip", 1200)
    flags.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"))
    flags.add_argument("--captions", type=Path, required=True, help="gzip file with a caption a line")
    flags.add_argument("--out", type=Path, default=OUT)
    args = flags.parse_args(argv)

    run, photos, processor = Run(args.run, args.seconds, args.seed), Photos(args.photos), make_processor()
    tokenizer = train_tokenizer(corpus(photos, args.captions), args.out)
    pairs = Pairs(photos, processor, tokenizer, args.seed)
    model = make_clip(tokenizer).to(args.device)
    model.set_attn_implementation("eager")  # three times faster to train on a CPU than the fused kernel
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.1, betas=(0.9, 0.98))
    average = Average(model, 0.998)

    def train_step(progress: float) -> dict:
        set_rate(optimizer, RATE * cosine(progress, warmup=0.05))
        pixels, tokens = pairs.batch(pairs.sample())
        loss = contrastive(model, pixels.to(args.device), tokens.to(args.device))
        descend(loss, optimizer)
        model.logit_scale.data.clamp_(max=4.6)
        average.update()
        return {"loss": loss.item()}

    def measure() -> dict:
        return {"recall@10": recall_at_10(exported(average, tokenizer), pairs)}

    run.loop(train_step, {"model": model, "optimizer": optimizer, "average": average}, {200: measure})
    final = exported(average, tokenizer)
    print(f"held-out text-to-image recall@10: {recall_at_10(final, pairs):.3f} of {len(photos.validation)} photographs")
    final.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    (args.run / "words.txt").write_text("\n".join(known_words(tokenizer, pairs)) + "\n", encoding="utf-8")


def exported(average: Average, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return the model with the averaged weights."""
    model = make_clip(tokenizer)
    model.load_state_dict(average.shadow)
    return model


if __name__ == "__main__":
    main()
