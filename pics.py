"""One file at a time: a photograph to a .pics file, and back.

    python pics.py encode photo.jpg photo.pics
    python pics.py encode photo.jpg photo.pics --prompt "a red barn under a stormy sky"
    python pics.py decode photo.pics photo.png
    python pics.py info photo.pics
    python pics.py drop photo.pics color smaller.pics       # remove the color layer

Folders work too: `encode PHOTOS FILES` and `decode FILES PICTURES`. Decoding needs the file and the
models of the preset that wrote it, nothing else.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import bitstream
import text_codec
from bitstream import BitstreamError
from common.device import choose_device
from common.files import complain, png, printable, say, write
from common.weights import UnavailableError
from dataloaders import ImageError, load_sample, load_samples
from diffusion.execution import check
from evaluation.flags import (
    DEVICE_HELP,
    LAM_SKETCH_HELP,
    PRESET_HELP,
    add_encoding_flags,
    add_execution_flags,
    encoder_config,
    execution,
    preset,
    rate,
)
from presets import PRESETS, Preset, PresetError, writer_of


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; wrong usage exits with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    encode = commands.add_parser("encode", help="compress an image or a folder of images")
    encode.add_argument("photo", type=Path, help="an image, or a folder of images")
    encode.add_argument("file", type=Path, help="the .pics file to write, or a folder for them")
    encode.add_argument("--preset", type=preset, default="tiny", help=PRESET_HELP)
    encode.add_argument(
        "--no_sketch", action="store_true", help="PIC: send the prompt alone, some 30 bytes"
    )
    encode.add_argument("--lam_sketch", type=rate, help=LAM_SKETCH_HELP)
    add_encoding_flags(encode)
    decode = commands.add_parser(
        "decode", help="reconstruct the image of a file or of a folder of files"
    )
    decode.add_argument("file", type=Path, help="a .pics file, or a folder of them")
    decode.add_argument("photo", type=Path, help="the PNG file to write, or a folder for them")
    decode.add_argument(
        "--preset", type=preset, help="models to decode with (default: those that wrote the file)"
    )
    decode.add_argument(
        "--lam_sketch", type=rate, help="the sketch codec's file, if it is not a bundled one"
    )
    decode.add_argument(
        "--force", action="store_true", help="decode with these models whichever wrote the file"
    )
    add_execution_flags(decode)
    for command in (encode, decode):
        command.add_argument("--device", help=DEVICE_HELP)
    drop = commands.add_parser("drop", help="remove a layer from a file")
    drop.add_argument("file", type=Path, help="the .pics file")
    drop.add_argument("layer", choices=("color",), help="the layer to remove")
    drop.add_argument("smaller", type=Path, help="the .pics file to write")
    info = commands.add_parser("info", help="print what a file holds")
    info.add_argument("file", type=Path, help="the .pics file")
    return parser.parse_args(argv)


def encode(args: argparse.Namespace) -> int:
    """Encode an image or a folder."""
    from codec import Encoder

    names, load = images_at(args.photo, args.preset.short_side)
    config = encoder_config(args, sketch=not args.no_sketch)
    device = choose_device(args.device)
    check(config.execution, device)
    encoder = Encoder(args.preset, config, device)

    def encode_one(name: str, target: Path) -> str:
        sample = load(name)
        data = encoder.encode([sample.image], [(sample.source_height, sample.source_width)])[0]
        write(target, data)
        height, width = sample.image.shape[:2]
        bpp = bitstream.bits_per_pixel(data, height, width)
        return f"{len(data)} bytes, {bpp:.5f} bpp at {width}x{height}"

    return each(names, args.photo, args.file, ".pics", encode_one)


def images_at(path: Path, short_side: int) -> tuple[list[str], Callable]:
    """Return the names of the images at `path` and the function that loads one."""
    if not path.is_dir():
        return [path.stem], lambda name: load_sample(path, short_side)
    samples = load_samples(path, None, short_side)
    index = {name: i for i, name in enumerate(samples.names)}
    return list(samples.names), lambda name: samples[index[name]]


def decode(args: argparse.Namespace) -> int:
    """Decode a file or a folder; each file with the preset that wrote it unless one is named."""
    from codec import Decoder

    device, decoders = choose_device(args.device), {}
    check(execution(args), device)
    folder = args.file.is_dir()
    names = sorted(path.stem for path in args.file.glob("*.pics")) if folder else [args.file.stem]
    if not names:
        raise ValueError(f"{args.file} holds no .pics file")

    def decode_one(name: str, target: Path) -> str:
        data = read_file(args.file / f"{name}.pics" if folder else args.file)
        row = args.preset or writer(bitstream.unpack(data))
        if row.name not in decoders:
            decoders[row.name] = Decoder(row, device, args.lam_sketch, execution(args))
        image = decoders[row.name].decode(data, args.force).image
        write(target, png(image))
        return f"{image.shape[1]}x{image.shape[0]} from {len(data)} bytes"

    return each(names, args.file, args.photo, ".png", decode_one)


def read_file(path: Path) -> bytes:
    """Return the bytes of a file, of a long one only as many as show that it is no stream. Raises
    OSError.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a file")  # reading a pipe would wait for ever
    with path.open("rb") as file:
        return file.read(bitstream.MAX_FILE_BYTES + 1)


def writer(stream: bitstream.Stream) -> Preset:
    """Return the preset that wrote a stream. Raises PresetError if it is not in the table."""
    name = writer_of(stream.fingerprint)
    if name not in PRESETS:
        raise PresetError(
            f"the file was written with preset {name}: name it with `--preset {name}`"
        )
    return PRESETS[name]


def each(
    names: list[str], source: Path, target: Path, ending: str, work: Callable[[str, Path], str]
) -> int:
    """Do `work(name, target file)` for each name; report what fails and go on with the rest."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in names:
        file = target / f"{name}{ending}" if source.is_dir() else target
        try:
            line = work(name, file)
        except (ValueError, OSError, PresetError, UnavailableError) as error:
            complain(f"failed: {printable(name)}: {error}")
            status = 1
            continue
        say(f"{printable(file)}: {line}")
    return status


def info(args: argparse.Namespace) -> int:
    """Print what a file holds; the prompt as text if its tokenizer can be had."""
    data = read_file(args.file)
    stream = bitstream.unpack(data)
    say(f"file      {printable(args.file)}, {len(data)} bytes, version {bitstream.VERSION}")
    say(f"preset    {writer_of(stream.fingerprint)} (fingerprint {stream.fingerprint:04x})")
    say(f"source    {stream.source_width}x{stream.source_height}")
    bpp = bitstream.bits_per_pixel(data, stream.height, stream.width)
    say(f"coded     {stream.width}x{stream.height}, {bpp:.5f} bpp")
    say(f"seed      {stream.seed}")
    for layer, count in bitstream.layer_sizes(stream).items():
        say(f"{layer:9} {count} bytes")
    if stream.text is not None:
        say(f"prompt    {printable(shown_prompt(stream))}")
        say(f"sent as   {text_codec.coding(stream.text)}")
    return 0


def shown_prompt(stream: bitstream.Stream) -> str:
    """Return the prompt of a stream as text, or why it cannot be read here."""
    if text_codec.coding(stream.text).text:
        return text_codec.decode_text(stream.text)
    from diffusion import load_tokenizer
    from text_codec.prompt import PromptCodec

    try:
        tokenizer = load_tokenizer(writer(stream))
    except (PresetError, UnavailableError) as error:
        return f"(not readable here: {str(error).splitlines()[0]})"
    return PromptCodec(tokenizer, max_tokens=0).decode(stream.text).text


def drop(args: argparse.Namespace) -> int:
    """Write a file without one of its layers; no model is needed."""
    stream = bitstream.unpack(read_file(args.file))
    if getattr(stream, args.layer) is None:
        raise BitstreamError(f"{args.file} has no {args.layer} layer")
    data = bitstream.pack(dataclasses.replace(stream, **{args.layer: None}))
    write(args.smaller, data)
    say(f"{printable(args.smaller)}: {len(data)} bytes")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 work failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    args = parse_args(argv)
    commands = {"encode": encode, "decode": decode, "drop": drop, "info": info}
    try:
        return commands[args.command](args)
    except (
        BitstreamError,
        text_codec.TextError,
        PresetError,
        UnavailableError,
        OSError,
        ImageError,
    ) as error:
        complain(f"error: {error}")
        return 1
    except ValueError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("stopped: what was done is there")
        return 130


if __name__ == "__main__":
    sys.exit(main())
