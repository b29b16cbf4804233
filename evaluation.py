"""The loop that eval_PIC.py and eval_PICS.py share: every photograph of a folder -> files, pictures, results.

    python eval_PICS.py --data_root PHOTOS

For each photograph, in `recon_examples/<PIC|PICS>_<preset>_<dataset>/`:

    <name>.pics               the file; its length is the rate
    <name>_recon.png          what was drawn from the file
    <name>_sketch.png         the sketch, and
    <name>_sketch_recon.png   the sketch that the file holds (PICS)
    <name>_caption.yaml       prompt, seed, bytes and bpp of each layer, metrics

and for the run results.csv, summary.json and overview.jpg. A photograph whose caption is there is not done again.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

import bitstream
from codec import LOSSES, PROMPTS_FROM, Encoder, EncoderConfig
from dataloaders import DATASETS, ImageError, Sample, Samples, load_samples
from presets import PRESETS, Preset, PresetError, get_preset
from report import png, write, write_report

PRESET_HELP = f"{', '.join(PRESETS)}, or a folder with preset.json (default: tiny)"
OUTPUT = Path(__file__).parent / "recon_examples"
PICTURES = ("_recon.png", "_sketch.png", "_sketch_recon.png")


def parser(description: str) -> argparse.ArgumentParser:
    """Return the flags of both scripts; those of the paper's scripts keep their names."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data_root", help="folder of photographs (default: samples of scikit-image and -learn)")
    flags.add_argument("--dataset", choices=sorted(DATASETS), help="a known layout below --data_root")
    flags.add_argument("--preset", type=preset, default="tiny", help=PRESET_HELP)
    add_encoding_flags(flags)
    flags.add_argument("--batch_size", type=positive, default=8, help="photographs that share a prompt search")
    flags.add_argument("--output", type=Path, default=OUTPUT, help="where the run's folder is made")
    flags.add_argument("--overwrite", action="store_true", help="do photographs again that are done")
    flags.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    return flags


def add_encoding_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of prompt and candidates; `encoder_config` reads them."""
    flags.add_argument("--N", type=positive, help="candidates drawn; the best one's seed is sent")
    flags.add_argument("--loss", default="clip", choices=LOSSES, help="what chooses the candidate")
    prompt = flags.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="a text of your own, for every photograph")
    prompt.add_argument("--prompt_from", default="search", choices=PROMPTS_FROM, help="what finds a prompt otherwise")
    length = flags.add_mutually_exclusive_group()
    length.add_argument("--prompt_len", type=positive, help="tokens of a searched prompt (default: the preset's)")
    length.add_argument("--prompt_bytes", type=positive, help="bytes of a searched prompt, at most")
    flags.add_argument("--prompt_bits", type=positive, help="search 2^K frequent words only, at K bits each: 5 to 16")
    flags.add_argument("--prompt_ascending", action="store_true", help="search ids in ascending order: fewer bytes")
    flags.add_argument("--prompt_steps", type=positive, help="of the prompt search (default: the preset's)")
    flags.add_argument("--prompt_seconds", type=seconds, help="of the prompt search, for photographs searched together")
    flags.add_argument("--seed", type=int, default=0, help="of the prompt search")


def encoder_config(args: argparse.Namespace, sketch: bool) -> EncoderConfig:
    """Return what the flags say about encoding."""
    return EncoderConfig(
        sketch=sketch,
        lam_sketch=getattr(args, "lam_sketch", None),
        candidates=args.N,
        loss=args.loss,
        prompt=args.prompt,
        prompt_from=args.prompt_from,
        prompt_len=args.prompt_len,
        prompt_bytes=args.prompt_bytes,
        prompt_bits=args.prompt_bits,
        prompt_ascending=args.prompt_ascending,
        prompt_steps=args.prompt_steps,
        prompt_seconds=args.prompt_seconds,
        seed=args.seed,
    )


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds above 0")
    return value


def preset(text: str) -> Preset:
    """Parse `--preset`."""
    try:
        return get_preset(text)
    except PresetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rate(text: str) -> float | str:
    """Parse `--lam_sketch`: a lambda or a codec file."""
    try:
        return float(text)
    except ValueError:
        return text


def choose_device(name: str | None) -> str:
    """Return the device asked for, else a GPU where there is one. Raises ValueError for one that is not there."""
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    there = ["cpu", *["cuda"][: len(gpus)], *gpus]
    if name is None:
        return "cuda" if gpus else "cpu"
    if name not in there:
        raise ValueError(f"device {name!r} is not there: this machine has {', '.join(there)}")
    return name


def evaluate(args: argparse.Namespace, method: str) -> int:
    """Run `method` ("PIC" or "PICS") over the photographs of `args` and return the exit status."""
    try:
        samples = load_samples(args.data_root, args.dataset, args.preset.short_side)
        folder = args.output / f"{method}_{args.preset.name}_{samples.name}"
        settings = settings_of(args, method)
        if not args.overwrite:
            compare_settings(folder, settings)
        encoder = build_encoder(args, method)
        claim(folder, settings, args.overwrite)
    except (PresetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failures = {}
    try:
        failures.update(run(samples, encoder, folder, args.batch_size))
    except KeyboardInterrupt:
        print("stopped: start it again to go on", file=sys.stderr)
        return 130
    finally:
        summary = write_report(folder, samples, method, failures)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    print(json.dumps(summary))
    return 1 if failures else 0


def build_encoder(args: argparse.Namespace, method: str) -> Encoder:
    """Load the encoder that the arguments describe."""
    return Encoder(args.preset, encoder_config(args, method == "PICS"), choose_device(args.device))


def settings_of(args: argparse.Namespace, method: str) -> dict:
    """Return what decides the results of a run, for settings.json."""
    names = [field.name for field in dataclasses.fields(EncoderConfig) if field.name.startswith("prompt")]
    names = ("N", "loss", *names, "seed")
    settings = {"method": method, "preset": args.preset.name} | {name: getattr(args, name) for name in names}
    if method == "PICS":
        settings["lam_sketch"] = args.lam_sketch
    return settings


def compare_settings(folder: Path, settings: dict) -> None:
    """Raise ValueError where `folder` holds a run with other settings."""
    path = folder / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    differing = [
        f"{name} {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing)}): "
            "add --overwrite to do it again, or --output for another place"
        )


def claim(folder: Path, settings: dict, overwrite: bool) -> None:
    """Make the run's folder, or go on with it; `overwrite` forgets what is done."""
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for done in folder.glob("*_caption.yaml"):
            done.unlink()
    write(folder / "settings.json", json.dumps(settings, indent=1).encode())


def run(samples: Samples, encoder, folder: Path, batch_size: int) -> Iterator[tuple[str, str]]:
    """Do every photograph that is not done, a batch at a time; yield (name, reason) of those that fail."""
    from tqdm import tqdm

    pending = [i for i, name in enumerate(samples.names) if not (folder / f"{name}_caption.yaml").exists()]
    with tqdm(total=len(samples.names), initial=len(samples.names) - len(pending), unit="photo") as bar:
        for start in range(0, len(pending), batch_size):
            batch = []
            for i in pending[start : start + batch_size]:
                try:
                    batch.append(samples[i])
                except ImageError as error:
                    bar.update()
                    yield samples.names[i], str(error)
            for sample in compress(batch, encoder, folder):
                bar.set_postfix_str(sample.name)
                bar.update()


def compress(batch: Sequence[Sample], encoder, folder: Path) -> Iterator[Sample]:
    """Encode a batch, decode each file again and write what belongs to it; yield each photograph when done."""
    if not batch:
        return
    sizes = [(sample.source_height, sample.source_width) for sample in batch]
    for sample, encoded in zip(batch, encoder.encode_all([s.image for s in batch], sizes), strict=True):
        decoded = encoder.decoder.decode(encoded.data)
        pictures = (decoded.image, encoded.sketch, decoded.sketch)
        for ending, picture in zip(PICTURES, pictures, strict=True):
            if picture is not None:
                write(folder / f"{sample.name}{ending}", png(picture))
        write(folder / f"{sample.name}.pics", encoded.data)
        caption = describe(sample, encoded, decoded, encoder.clip)
        text = yaml.safe_dump(caption, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write(folder / f"{sample.name}_caption.yaml", text.encode())
        yield sample


def describe(sample: Sample, encoded, decoded, clip) -> dict:
    """Return what <name>_caption.yaml says of one photograph; every rate is 8 * bytes / coded pixels."""
    from metrics import ms_ssim, psnr

    height, width = sample.image.shape[:2]
    sizes = bitstream.layer_sizes(decoded.stream)
    return {
        "name": sample.name,
        "prompt": decoded.text,
        "ids": list(decoded.prompt),
        "seed": decoded.stream.seed,
        "source_size": [sample.source_width, sample.source_height],
        "coded_size": [width, height],
        "bytes": {**sizes, "total": len(encoded.data)},
        "bpp": {
            **{layer: 8 * count / (height * width) for layer, count in sizes.items()},
            "total": bitstream.bits_per_pixel(encoded.data, height, width),
        },
        "metrics": {
            "psnr": round(psnr(sample.image, decoded.image), 4),
            "ms_ssim": round(ms_ssim(sample.image, decoded.image), 5),
            "clip": round(clip.similarity(sample.image, [decoded.image])[0], 5),
            "prompt_cosine": round(encoded.cosine, 5),
        },
        "scores": [round(score, 5) for score in encoded.scores],
    }
