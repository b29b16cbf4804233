"""Coverage-guided fuzzing of everything that reading a stream does before the generator runs.

    bash scripts/fuzz.sh --seconds 120                       # installs atheris
    python tests/fuzz/harness.py --seconds 120

Inputs are whole files; most mutants get the checksum that belongs to them, so that the inner layers
are reached. The seed corpus is made in --folder and grows there, so that a later run goes on. An
input that ends in an undocumented error, takes over 5 s or brings the process over 3 GiB (PyTorch
and the models take 1) is written to --folder/crash-*, timeout-* or oom-*; the exit status is then
not 0. Read one again: `python tests/fuzz/harness.py --input FILE`.
"""

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_BYTES = 2000  # of an input; the longest of the seed corpus has some 300
MAX_SECONDS = 5  # of an input; the machine may be busy, and the watch is libFuzzer's wall clock
MAX_MEBIBYTES = 3000
REPAIRED = 0.8  # share of the mutants that get their checksum


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=120, help="how long (default: 120)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / "fuzz", help="corpus and findings"
    )
    parser.add_argument("--preset", default="tiny", help="whose models decode")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--input", type=Path, help="read this file only")
    return parser.parse_args(argv)


def load(preset: str):
    """Return a decoder whose modules tell libFuzzer which branches they take."""
    import atheris

    ours = ["bitstream", "text_codec", "models_ntc", "color_codec", "codec", "common"]
    with atheris.instrument_imports(include=ours):
        from fuzz import streams

        from codec import Decoder
    import torch

    from presets import get_preset

    torch.set_num_threads(1)
    return Decoder(get_preset(preset)), streams


def fuzz(args: argparse.Namespace) -> None:
    """Fuzz for args.seconds; libFuzzer ends the process."""
    import atheris

    decoder, streams = load(args.preset)

    def test(data: bytes) -> None:
        streams.read(decoder, data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        mutant = atheris.Mutate(data, most)
        return streams.repaired(mutant) if random.Random(seed).random() < REPAIRED else mutant

    corpus = args.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(streams.well_formed(decoder)):
        (corpus / f"seed{number:02}.pics").write_bytes(data)
    flags = [
        f"-max_total_time={args.seconds}",
        f"-seed={args.seed}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={MAX_SECONDS}",
        f"-rss_limit_mb={MAX_MEBIBYTES}",
        f"-artifact_prefix={args.folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], test, custom_mutator=mutate)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Fuzz, or read one input, and return the exit status: 0 where nothing was found."""
    args = parse_args(argv)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if args.input:
        decoder, streams = load(args.preset)
        print(streams.read(decoder, args.input.read_bytes()))
        return 0
    fuzz(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
