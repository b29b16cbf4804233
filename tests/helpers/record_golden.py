"""Record golden streams: files of this version, and the conditions that they must decode to.

    python tests/helpers/record_golden.py
    python tests/helpers/record_golden.py --output tests/expected/streams_base.json

Writes tests/expected/streams.json, for tests/test_golden.py; the second one, with base layers and
sketches of the second network, is for tests/test_golden_base.py. To be run once, when a version of
the stream, and what of preset `tiny` the conditions depend on (vocabulary, ranking of words, sketch
codec, color tables, base codec), are final; an existing record is never overwritten, for files like
those are out in the world. The generator may still change.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RECORD = ROOT / "tests" / "expected" / "streams.json"
NOISE = 16  # values of the noise that are recorded, from its beginning


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RECORD)
    return parser.parse_args(argv)


def conditions(decoder, data: bytes) -> dict:
    """Return what a file decodes to before the generator runs, as JSON can hold it: ids, hashes of
    pictures, some noise.
    """
    import bitstream
    from diffusion.generator import initial_noise

    stream = bitstream.unpack(data)
    prompt, *pictures = decoder.conditions(stream, force=True)  # whichever generator comes after
    noise = initial_noise(stream.seed, 4, stream.height // 8, stream.width // 8)
    return {
        "ids": list(prompt.ids),
        "pictures": [described(picture) for picture in pictures],
        "noise": noise.flatten()[:NOISE].tolist(),
    }


def described(picture) -> list | None:
    """Return the shape and a hash of a picture."""
    if picture is None:
        return None
    return [*picture.shape, hashlib.sha256(picture.tobytes()).hexdigest()]


def streams(decoder) -> list[bytes]:
    """Return the fuzzers' well-formed streams, and sketches and colors of three sample images."""
    from fuzz.streams import stream, well_formed

    import bitstream
    import color_codec
    from annotator import load_annotator
    from dataloaders import load_samples
    from models_ntc import load_sketch_codec

    preset, found = decoder.preset, well_formed(decoder)
    annotator = load_annotator(preset.annotator, "cpu")
    for number, sample in enumerate(load_samples(None, None, preset.short_side)[:3]):
        rate = preset.lam_sketch * (1, 0.5, 2)[number % 3]
        payload = load_sketch_codec(rate, "cpu", preset.sketch_codec).encode(
            annotator(sample.image)
        )
        size = sample.image.shape[:2]
        colors = color_codec.encode(sample.image, 50 * (number + 1))
        found.append(bitstream.pack(stream(decoder, size, None, payload, number, colors)))
        base = decoder.base_codec.fit(sample.image, 200 * (number + 1)).payload
        found.append(bitstream.pack(stream(decoder, size, None, payload, number, None, base)))
    return found


def main(argv: list[str] | None = None) -> int:
    """Record, and return the exit status."""
    args = parse_args(argv)
    if args.output.exists():
        print(
            f"error: {args.output} is there, and what it holds must decode for ever",
            file=sys.stderr,
        )
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import bitstream
    from codec import Decoder
    from presets import get_preset

    decoder = Decoder(get_preset("tiny"))
    recorded = [{"file": data.hex(), **conditions(decoder, data)} for data in streams(decoder)]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(
        json.dumps({"version": bitstream.VERSION, "preset": "tiny", "streams": recorded}, indent=1)
    )
    print(json.dumps({"streams": len(recorded), "output": str(args.output)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
