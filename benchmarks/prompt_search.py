"""Prompt search: time a step against the published loop, cosine against work and seconds, bytes
against cosine.

    python benchmarks/prompt_search.py --data_root KODAK --output /tmp/prompt_search
    python benchmarks/prompt_search.py --shapes tiny ViT-B/32 --batches 1 8 --quick

Shapes are text towers of random weights (transformers' configs), which take the time that trained
ones take. The published loop is restated below from its description (Wen et al. 2023, arXiv
2302.03668): one photograph at a time, all 77 positions, two forward passes, the vocabulary
normalized at every step, hits as Python lists. Both run in turns, so that a busy machine slows
both; times are the least of the repeats. Cosines are of the bundled CLIP. Plots are written to
--output; the last line on stdout is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).parent.parent
SHAPES = {  # width, layers, heads, features, words, positions, activation
    "tiny": (192, 2, 4, 192, 2048, 32, "quick_gelu"),
    "ViT-B/32": (512, 12, 8, 512, 49408, 77, "quick_gelu"),
    "ViT-L/14": (768, 12, 12, 768, 49408, 77, "quick_gelu"),
    "ViT-H/14": (1024, 24, 16, 1024, 49408, 77, "gelu"),
}
LENGTH = 16  # tokens
# (bits of the sub-vocabulary or None, ascending, tokens)
RATES = [(None, False, n) for n in (8, 11, 14, 16)] + [(None, True, n) for n in (10, 13, 16)]
RATES += [(10, True, n) for n in (14, 18)] + [(8, False, n) for n in (10, 13, 16)]
RATES += [(8, True, n) for n in (14, 20, 26)] + [(7, True, n) for n in (12, 16, 20, 26)]
RATES += [(6, True, n) for n in (12, 18, 24, 30)]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes",
        nargs="*",
        choices=SHAPES,
        default=list(SHAPES),
        help="text towers to time, or none",
    )
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 8, 32], help="photographs at a time"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="timings of each, of which the least counts"
    )
    parser.add_argument(
        "--data_root", help="photographs for the cosines (default: scikit-image's and -learn's)"
    )
    parser.add_argument(
        "--published_steps", type=int, default=3000, help="of the published search, for the cosines"
    )
    parser.add_argument("--output", type=Path, help="folder for the plots (default: none are made)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny shapes, three photographs, few steps: does it run?",
    )
    return parser.parse_args(argv)


def random_clip(shape: str, device: str):
    """A Clip whose text tower has random weights and whose photographs are random features."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from prompt_inversion import Clip

    width, layers, heads, features, words, positions, activation = SHAPES[shape]
    tokens = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    text |= {
        "num_attention_heads": heads,
        "hidden_act": activation,
        "max_position_embeddings": positions,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    config = CLIPConfig(text_config=text | {"vocab_size": words, **tokens}, vision_config=vision)
    config.projection_dim = features
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float16 if device.startswith("cuda") else torch.float32)
        model = CLIPModel(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    return Clip(model, _AnyTokenizer(words), None)


class _AnyTokenizer:
    """As much of a tokenizer as a search asks of one; every word but start and end is printable."""

    def __init__(self, words: int):
        self.words, self.bos_token_id, self.eos_token_id = words, words - 2, words - 1
        self.all_special_ids = [words - 2, words - 1]

    def __len__(self) -> int:
        return self.words

    def batch_decode(self, ids, **_) -> list[str]:
        return ["word"] * len(ids)

    def decode(self, ids, **_) -> str:
        return " ".join(map(str, ids))


class PublishedLoop:
    """The published search of one photograph; `step()` returns its ids before the step, and their
    cosine.
    """

    def __init__(self, target, clip, seed: int = 0):
        import torch

        text, self.clip, self.target = clip.model.text_model, clip, target
        self.positions = text.config.max_position_embeddings
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(len(clip.words), (LENGTH,), generator=generator).to(target.device)
        self.embedding = text.embeddings.token_embedding
        soft = self.embedding.weight[clip.words[start]].float()[None]
        self.soft = soft.clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.soft], lr=0.1, weight_decay=0.1)
        ids = [clip.tokenizer.bos_token_id, *[0] * LENGTH, clip.tokenizer.eos_token_id]
        ids += [0] * (self.positions - len(ids))
        self.dummy = self.embedding(torch.tensor([ids], device=target.device))

    def step(self) -> tuple[list[int], float]:
        """Project, judge the words by a forward pass, then a second forward and a backward pass,
        and AdamW.
        """
        import torch

        ids = self._project()
        embedded = self.embedding(torch.tensor([ids], device=self.target.device))
        with torch.no_grad():
            cosine = (self._features(embedded) * self.target).sum().item()
        hard = embedded.clone().requires_grad_()
        loss = 1 - (self._features(hard) * self.target).sum(dim=-1).mean()
        self.soft.grad = torch.autograd.grad(loss, [hard])[0].float()
        self.optimizer.step()
        self.clip.tokenizer.decode(ids)
        return ids, cosine

    def _project(self) -> list[int]:
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            # The published loop lets special words through; they are kept out here, so that the ids
            # are the same.
            rows = F.normalize(self.embedding.weight.float(), dim=-1)
            scores = F.normalize(self.soft[0], dim=-1) @ rows.T
            scores[:, self.clip.tokenizer.all_special_ids] = -torch.inf
            if len(self.clip.words) < scores.shape[1] - 2:  # a trained CLIP: unprintable words too
                barred = torch.ones_like(scores[0], dtype=torch.bool)
                barred[self.clip.words] = False
                scores[:, barred] = -torch.inf
            values, places = scores.topk(1, dim=-1)
            hits = [
                [{"corpus_id": i, "score": v} for i, v in zip(*row, strict=True)]
                for row in zip(places.tolist(), values.tolist(), strict=True)
            ]
        return [hit[0]["corpus_id"] for hit in hits]

    def _features(self, embedded):
        import torch
        import torch.nn.functional as F

        text = self.clip.model.text_model
        whole = torch.cat([self.dummy[:, :1], embedded, self.dummy[:, LENGTH + 1 :]], dim=1)
        causal = torch.full(
            (self.positions, self.positions), -torch.inf, device=whole.device, dtype=whole.dtype
        )
        hidden = text.embeddings(inputs_embeds=whole)
        hidden = text.encoder(hidden, attention_mask=causal.triu(1)[None, None]).last_hidden_state
        pooled = text.final_layer_norm(hidden)[:, LENGTH + 1]
        return F.normalize(self.clip.model.text_projection(pooled).float(), dim=-1)


def step_times(args: argparse.Namespace) -> list[dict]:
    """Return a row for each shape and batch: seconds a photograph and step, of the published loop
    and of ours.
    """
    rows = []
    for shape in args.shapes:
        clip = random_clip(shape, args.device)
        for n in args.batches:
            rows.append({"shape": shape, "batch": n, **_compare(clip, n, args.repeats)})
            print(
                " ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in rows[-1].items()
                )
            )
    return rows


def _compare(clip, n: int, repeats: int) -> dict:
    import torch
    import torch.nn.functional as F

    from prompt_inversion import PromptConfig, search

    features = torch.randn(
        n, clip.model.config.projection_dim, generator=torch.Generator().manual_seed(1)
    )
    targets = F.normalize(features, dim=-1).to(clip.model.device)
    steps = repeats + 1
    with torch.enable_grad():
        loop = PublishedLoop(targets[:1], clip)
        published, found = [], []
        for _ in range(steps):
            begun = time.perf_counter()
            found.append(loop.step())
            published.append(time.perf_counter() - begun)
    config = PromptConfig(steps=steps, descent=steps, progress=False)
    prompt = search(targets, clip, config)[0]
    seconds = [b[1] - a[1] for a, b in zip(prompt.history, prompt.history[1:], strict=False)]
    ours = min(seconds) / n
    row = {
        "published_s": min(published[1:]),
        "ours_s": ours,
        "times_faster": min(published[1:]) / ours,
    }
    row["same_ids"] = prompt.ids == tuple(max(found, key=lambda each: each[1])[0])
    row["published_per_minute"] = 60 / (3000 * row["published_s"])
    row["ours_per_minute"] = 60 / (PromptConfig.steps * ours)
    return row


def mean_curve(prompts) -> list[tuple[float, float, float]]:
    """Return (steps' work, seconds of the whole batch, mean best cosine) after each move."""
    return [
        (at[0][0], at[0][1], fmean(a[2] for a in at))
        for at in zip(*(p.history for p in prompts), strict=True)
    ]


def cosines(args: argparse.Namespace, clip, targets) -> dict:
    """Return the curves of the published search and of ours, and the work at which ours passes the
    other's end.
    """
    import torch

    from prompt_inversion import PromptConfig, search

    with torch.enable_grad():
        loop = PublishedLoop(targets[:1], clip)
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            loop.step()
            times.append(time.perf_counter() - begun)
    steps = args.published_steps
    # Descent alone finds the published loop's ids; all photographs at once, so that 3,000 steps
    # take a minute.
    published = mean_curve(search(targets, clip, PromptConfig(steps=steps, descent=steps)))
    ours = mean_curve(search(targets, clip, PromptConfig()))
    goal = published[-1][2]
    passed = [at for at in ours if at[2] >= goal]
    each = len(targets)
    return {
        "photographs": each,
        "published_cosine": goal,
        "published_steps": steps,
        "published_s_per_photograph": steps * min(times),
        "ours_cosine": ours[-1][2],
        "ours_steps_to_published": passed[0][0] if passed else None,
        "ours_s_per_photograph_to_published": passed[0][1] / each if passed else None,
        "ours_s_per_photograph": ours[-1][1] / each,
        "curves": {
            "published": [(work, work * min(times), cosine) for work, _, cosine in published],
            "ours": [(work, seconds / each, cosine) for work, seconds, cosine in ours],
        },
    }


def rates(args: argparse.Namespace, clip, targets) -> list[dict]:
    """Return a row for each way of writing a prompt: bytes of the text layer and mean cosine of our
    search.
    """
    import text_codec
    from prompt_inversion import PromptConfig, search, sub_vocabulary

    rows = []
    for bits, ascending, length in RATES[:: 4 if args.quick else 1]:
        words = sub_vocabulary(clip.tokenizer, bits) if bits else None
        config = PromptConfig(length=length, ascending=ascending, allowed=words and tuple(words))
        found = search(targets, clip, config)
        size = fmean(len(text_codec.encode(prompt.ids, clip.vocabulary, words)) for prompt in found)
        cosine = fmean(prompt.cosine for prompt in found)
        rows.append(
            {
                "bits": bits,
                "ascending": ascending,
                "tokens": length,
                "bytes": size,
                "cosine": cosine,
            }
        )
        print(
            " ".join(
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()
            )
        )
    return rows


def photographs(args: argparse.Namespace):
    """Return the bundled CLIP and the features of the photographs, brought to its preset's short
    side.
    """
    from dataloaders import load_samples
    from presets import get_preset
    from prompt_inversion import load_clip

    preset = get_preset("tiny")
    samples = load_samples(args.data_root, None, preset.short_side)
    clip = load_clip(preset.clip, args.device)
    count = min(len(samples.names), 3) if args.quick else len(samples.names)
    return clip, clip.image_features([samples[i].image for i in range(count)])


def draw(folder: Path, times: list[dict], cosine: dict, rate: list[dict]) -> None:
    """Write step_time.png, cosine.png and bytes.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(
        {"axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True}
    )

    if times:
        _draw_times(folder / "step_time.png", times)
    figure, sides = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axes, place, label in zip(
        sides, (0, 1), ("work, steps", "seconds a photograph"), strict=True
    ):
        for name, curve in cosine["curves"].items():
            axes.plot([at[place] for at in curve], [at[2] for at in curve], label=name)
        axes.axhline(cosine["published_cosine"], color="gray", lw=0.8, ls="--")
        axes.set(xscale="log", xlabel=label)
    end = max(cosine["published_cosine"], cosine["ours_cosine"])
    sides[0].set(ylabel="mean best cosine", ylim=(end - 0.06, end + 0.005))
    sides[0].legend()
    figure.savefig(folder / "cosine.png", dpi=120)

    figure, axes = plt.subplots(figsize=(6, 4))
    for bits, ascending in dict.fromkeys((row["bits"], row["ascending"]) for row in rate):
        own = [row for row in rate if (row["bits"], row["ascending"]) == (bits, ascending)]
        label = f"{'all words' if bits is None else f'{1 << bits} words'}, {'ascending' if ascending else 'in order'}"
        axes.plot([row["bytes"] for row in own], [row["cosine"] for row in own], "o-", label=label)
    axes.set(xlabel="bytes of the text layer", ylabel="mean cosine")
    axes.legend()
    figure.savefig(folder / "bytes.png", dpi=120)


def _draw_times(file: Path, times: list[dict]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for shape in dict.fromkeys(row["shape"] for row in times):
        own = [row for row in times if row["shape"] == shape]
        axes.plot(
            [row["batch"] for row in own], [row["times_faster"] for row in own], "o-", label=shape
        )
    batches = sorted({row["batch"] for row in times})
    axes.set(
        xscale="log",
        xlabel="photographs at a time",
        ylabel="times faster than the published loop",
        ylim=0,
    )
    axes.set_xticks(batches, labels=batches)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(file, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Print rows as they are measured and everything but the curves as JSON."""
    args = parse_args(argv)
    if args.quick:
        args.shapes, args.batches, args.repeats = args.shapes and args.shapes[:1], [1, 2], 2
        args.published_steps = min(args.published_steps, 30)
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(args.threads or torch.get_num_threads())
    times = step_times(args)
    clip, targets = photographs(args)
    cosine = cosines(args, clip, targets)
    print(f"cosine {cosine['published_cosine']:.4f} published, {cosine['ours_cosine']:.4f} ours")
    rate = rates(args, clip, targets)
    if args.output:
        draw(args.output, times, cosine, rate)
    cosine.pop("curves")
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "step_times": times,
                "cosine": cosine,
                "rates": rate,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
