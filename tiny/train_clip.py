"""Train the bundled tokenizer and CLIP: byte-pair tokens, then contrastive learning.

    python -m tiny.train_clip --photos runs/tiny/photos --captions DIR/captions.txt.gz

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, with
transformers' CLIPModel at 3.7 million parameters. The texts are those of tiny/facts.py.
"""

import argparse
import gzip
import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from einops import rearrange
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tiny.data import Photos
from tiny.facts import COLUMNS, NAMES, ROWS, color_grid, describe
from tiny.train_tokenizer import train_tokenizer
from tiny.training import Run, averaged, optimizer_step, parser, set_learning_rate

OUT = Path(__file__).parent / "bundle" / "clip"
VOCAB_SIZE = 2048  # tokens
POSITIONS = 32
SIDE = 96  # pixels of the images
MARGIN = 16  # pixels, from which crops are taken
BATCH = 128
LEARNING_RATE = 1e-3
# Fraction of a batch with human captions, if there are such images: captions tell of scenes, which
# labels of objects do not describe.
CAPTIONED = 1 / 3
FEWEST_SEEN = 5  # texts of a training epoch that a known word is in


def corpus(photos: Photos, captions: Path) -> list[str]:
    """Return the lines that the vocabulary is learned from: captions, labels and color words."""
    with gzip.open(captions, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    labels = [row["label"] for row in photos.rows if row["label"]]
    colors = " ".join(NAMES + ROWS + COLUMNS)
    return [*lines, *labels * 10, *[colors] * 20000]


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return the untrained model."""
    transformer = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4}
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"num_hidden_layers": 5, "image_size": SIDE, "patch_size": 16}
    config = CLIPConfig(
        text_config=transformer | text, vision_config=transformer | vision, projection_dim=192
    )
    return CLIPModel(config)


def make_processor() -> CLIPImageProcessor:
    """Return a processor that resizes the whole image to a square and crops nothing."""
    return CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)


# ---- batches


def recolor(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return uint8 (H, W, 3) with random brightness and white balance.

    Otherwise CLIP would learn that some kinds of things always have certain colors.
    """
    gain = [rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15) for _ in range(3)]
    levels = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.75, 1.33) * gain
    table = np.clip(255 * levels, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.LUT(np.ascontiguousarray(image), table[None]))


class Pairs:
    """Random batches of images and texts.

    Images are flipped, cropped and recolored; their texts describe the result.

    squares: all images, uint8 (n, SIDE + MARGIN, SIDE + MARGIN, 3).
    """

    def __init__(
        self, photos: Photos, processor: CLIPImageProcessor, tokenizer: CLIPTokenizer, seed: int
    ):
        self.photos = photos
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        size = SIDE + MARGIN
        self.squares = np.empty((len(photos), size, size, 3), np.uint8)
        for i in tqdm(range(len(photos)), desc="images"):
            self.squares[i] = cv2.resize(photos[i], (size, size), interpolation=cv2.INTER_AREA)
        self.captioned = [i for i in photos.training if photos.rows[i]["captions"]]
        self.mean = rearrange(torch.tensor(processor.image_mean), "c -> c 1 1")
        self.std = rearrange(torch.tensor(processor.image_std), "c -> c 1 1")

    def cut(self, i: int, augmented: bool) -> np.ndarray:
        """Return image i, uint8 (SIDE, SIDE, 3): a random crop, or all of it."""
        if not augmented:
            return cv2.resize(self.squares[i], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        y = self.rng.randint(0, MARGIN)
        x = self.rng.randint(0, MARGIN)
        return self.squares[i, y : y + SIDE, x : x + SIDE]

    def sample(self) -> list[int]:
        """Return the images of a training batch; CAPTIONED of them have human captions."""
        count = min(round(BATCH * CAPTIONED), len(self.captioned))
        captioned = self.rng.sample(self.captioned, count)
        return captioned + self.rng.sample(self.photos.training, BATCH - count)

    def text(self, i: int, image: np.ndarray) -> str:
        """Return a random text of image i, as it looks in `image`."""
        row = self.photos.rows[i]
        return describe(color_grid(image), row["label"], row["captions"], self.rng)

    def batch(self, indices: list[int], augmented: bool = True) -> tuple[torch.Tensor, dict]:
        """Return pixel values (n, 3, SIDE, SIDE) and tokenized texts (n, length)."""
        images, texts = [], []
        for i in indices:
            image = self.cut(i, augmented)
            if augmented:
                image = recolor(image[:, :: self.rng.choice((1, -1))], self.rng)
            images.append(image)
            texts.append(self.text(i, image))
        pixels = rearrange(torch.from_numpy(np.stack(images)), "n h w c -> n c h w") / 255
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt"
        )
        return (pixels - self.mean) / self.std, tokens


# ---- loss and measures


def contrastive_loss(model: CLIPModel, pixels: torch.Tensor, tokens: dict) -> torch.Tensor:
    """Return the symmetric InfoNCE loss of a batch."""
    with torch.autocast(model.device.type, torch.bfloat16):
        out = model(pixel_values=pixels, **tokens)
    logits = out.logits_per_image.float()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def recall_at_10(model: CLIPModel, pairs: Pairs) -> float:
    """Return the fraction of held-out texts whose image is among the ten nearest, 0..1.

    Chance is 10 / number of images.
    """
    pixels, tokens = pairs.batch(pairs.photos.validation, augmented=False)
    logits = model(pixel_values=pixels, **tokens).logits_per_text
    best = logits.topk(min(10, len(logits)), dim=1).indices
    return (best == torch.arange(len(logits))[:, None]).any(1).float().mean().item()


def known_words(tokenizer: CLIPTokenizer, pairs: Pairs) -> list[str]:
    """Return the words of three letters or more that are one token and that CLIP has seen.

    They are in FEWEST_SEEN texts of one epoch.
    """
    texts = [pairs.text(i, pairs.squares[i]) for i in pairs.photos.training]
    seen = Counter()
    for ids in tokenizer(texts, add_special_tokens=False, truncation=True)["input_ids"]:
        seen.update(whole_words(tokenizer.convert_ids_to_tokens(ids)))
    words = []
    for word, count in seen.items():
        if count >= FEWEST_SEEN and word.isalpha() and len(word) > 2:
            words.append(word)
    return sorted(words)


def whole_words(tokens: list[str]) -> set[str]:
    """Return those words of a text that are one token each."""
    words = set()
    begins = True
    for token in tokens:
        ends = token.endswith("</w>")
        if begins and ends:
            words.add(token.removesuffix("</w>"))
        begins = ends
    return words


# ---- training


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    flags = parser(__doc__, "runs/tiny/clip", 1200)
    add = flags.add_argument
    photos = Path("runs/tiny/photos")
    add("--photos", type=Path, default=photos, help="folder written by tiny.data")
    add("--captions", type=Path, required=True, help="gzip file with one caption in each line")
    add("--out", type=Path, default=OUT, help="folder of the model")
    return flags.parse_args(argv)


def train(run: Run, model: CLIPModel, pairs: Pairs) -> CLIPModel:
    """Train and log; return the model with averaged weights."""
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.98)
    )
    average = EMAModel(model.parameters(), decay=0.998)

    def train_step(progress: float) -> dict:
        set_learning_rate(optimizer, LEARNING_RATE, progress, warmup=0.05)
        pixels, tokens = pairs.batch(pairs.sample())
        loss = contrastive_loss(model, pixels.to(model.device), tokens.to(model.device))
        optimizer_step(loss, optimizer)
        model.logit_scale.data.clamp_(max=4.6)
        average.step(model.parameters())
        return {"loss": loss.item()}

    def measure() -> dict:
        return {"recall@10": recall_at_10(averaged(model, average), pairs)}

    parts = {"model": model, "optimizer": optimizer, "average": average}
    run.loop(train_step, parts, {200: measure})
    return averaged(model, average)


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    args = parse_args(argv)
    run = Run(args.run, args.seconds, args.seed, args.device)
    photos = Photos(args.photos)
    processor = make_processor()
    tokenizer = train_tokenizer(corpus(photos, args.captions), args.out, VOCAB_SIZE, POSITIONS)
    pairs = Pairs(photos, processor, tokenizer, args.seed)
    model = make_clip(tokenizer).to(args.device)
    # On a CPU, training is three times faster with it than with the fused kernel.
    model.set_attn_implementation("eager")
    final = train(run, model, pairs)
    recall = recall_at_10(final, pairs)
    count = len(photos.validation)
    print(f"held-out text-to-image recall@10: {recall:.3f} of {count} images")
    final.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)
    words = "\n".join(known_words(tokenizer, pairs))
    (args.run / "words.txt").write_text(words + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
