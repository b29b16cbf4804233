"""One file at a time: a photograph to a .pics file, and back.

    python pics.py encode photo.jpg photo.pics
    python pics.py encode photo.jpg photo.pics --bytes 240          # at most, the whole file
    python pics.py encode photo.jpg photo.pics --layers text --prompt "a red barn in the snow"
    python pics.py decode photo.pics photo.png
    python pics.py info photo.pics                          # or --json
    python pics.py drop photo.pics color smaller.pics       # remove the color layer (or base)
    python pics.py edit photo.pics new.pics --prompt "a red barn in the snow" --seed 3

Folders work too: `encode PHOTOS FILES` and `decode FILES PICTURES`, side by side on the cores of a
CPU. What is done is not done again: started again, a stopped run goes on; the last line on stdout
is a JSON summary. Decoding needs the file and the models of the preset that wrote it, nothing else.
"""

import argparse
import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import bitstream
import text_codec
from allocation import load_encoder
from bitstream import BitstreamError
from common.device import choose_device
from common.files import complain, load_gray, load_image, png, printable, reason_of, say, write
from common.weights import UnavailableError
from dataloaders import ImageError, load_sample, load_samples
from diffusion.execution import PLAIN, check
from evaluation.cluster import add_engine_flags
from evaluation.conversion import FAILURES, SPEAKING, Conversion, Job, Made, converting, file_digest
from evaluation.edit_flags import EDITS, add_edit_flags, asked_for, local
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
    row_of,
)
from evaluation.processes import leave, one_thread
from models_ntc.bundled import StreamLayers, layers_of
from presets import PRESETS, Preset, PresetError, writer_of

if TYPE_CHECKING:
    from codec import Decoder, Encoder


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; wrong usage exits with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    encode = commands.add_parser("encode", help="compress an image or a folder of images")
    encode.add_argument("photo", type=local, help="an image, or a folder of images")
    encode.add_argument("file", type=local, help="the .pics file to write, or a folder for them")
    encode.add_argument("--preset", type=preset, default="tiny", help=PRESET_HELP)
    encode.add_argument("--lam_sketch", type=rate, help=LAM_SKETCH_HELP)
    add_encoding_flags(encode)
    decode = commands.add_parser(
        "decode", help="reconstruct the image of a file or of a folder of files"
    )
    decode.add_argument("file", type=local, help="a .pics file, or a folder of them")
    decode.add_argument("photo", type=local, help="the PNG file to write, or a folder for them")
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
        command.add_argument(
            "--overwrite", action="store_true", help="do finished files of a folder again"
        )
        add_engine_flags(command)
    drop = commands.add_parser("drop", help="remove a layer from a file")
    drop.add_argument("file", type=Path, help="the .pics file")
    drop.add_argument("layer", choices=("color", "base"), help="the layer to remove")
    drop.add_argument("smaller", type=Path, help="the .pics file to write")
    info = commands.add_parser("info", help="print what a file holds")
    info.add_argument("file", type=Path, help="the .pics file")
    info.add_argument("--json", action="store_true", help="print one line of JSON instead")
    add_edit_flags(commands.add_parser("edit", help="make a new file from an old one"))
    args = parser.parse_args(argv)
    if args.command == "edit" and not asked_for(args):
        commands.choices["edit"].error(f"nothing to change: name one of {', '.join(EDITS)}")
    return args


def encode(args: argparse.Namespace) -> int:
    """Encode an image or a folder."""
    folder = args.file if args.photo.is_dir() else None
    jobs = photo_jobs(args)
    with converting(folder, args.overwrite, args.engine, args.address) as conversion:
        encoder, device = encoder_of(args, progress=folder is None)
        todo = conversion.unfinished(jobs, partial(origin_of, encoder))
        parameters = encoder.decoder.generator.parameters
        if args.engine == "ray":
            conversion.work_on_cluster(todo, partial(load_to_encode, args), args.device)
        else:
            conversion.work(todo, partial(encode_photo, encoder), device, parameters)
    return conversion.finish()


def encoder_of(args: argparse.Namespace, progress: bool = False) -> "tuple[Encoder, str]":
    """Load what encodes; return it and its device. progress: whether it shows a bar of its own."""
    config, device = encoder_config(args, sketch=True), choose_device(args.device)
    check(config.execution, device)
    with one_thread(device == "cpu"):
        encoder = load_encoder(row_of(args, args.preset), config, device)
    if not progress:
        encoder.prompter.search = dataclasses.replace(encoder.prompter.search, progress=False)
    return encoder, device


def load_to_encode(args: argparse.Namespace) -> Callable[[Job], Made]:
    """Return what encodes one image, in an actor."""
    return partial(encode_photo, encoder_of(args)[0])


def photo_jobs(args: argparse.Namespace) -> list[Job]:
    """Return a job for the image, or for each of the folder."""
    if not args.photo.is_dir():
        return [Job(args.photo.stem, args.photo, args.file)]
    samples = load_samples(args.photo, None, args.preset.short_side)
    jobs = []
    for name, path in zip(samples.names, samples.paths, strict=True):
        jobs.append(Job(name, Path(path), args.file / f"{name}.pics"))
    return jobs


def encode_photo(encoder: "Encoder", job: Job) -> Made:
    """Encode one image. Raises ImageError, and what the models raise."""
    origin = origin_of(encoder, job)  # before it is read, lest a newer photograph be taken for it
    sample = load_sample(job.source, encoder.preset.short_side)
    data = encoder.encode([sample.image], [(sample.source_height, sample.source_width)])[0]
    height, width = sample.image.shape[:2]
    bpp = bitstream.bits_per_pixel(data, height, width)
    return Made(data, origin, f"{len(data)} bytes, {bpp:.5f} bpp at {width}x{height}")


def origin_of(encoder: "Encoder", job: Job) -> str:
    """Return the SHA-256 of an image's file and of the settings and models that encode it, or ""
    if the file cannot be read.
    """
    photo = file_digest(job.source)
    config = dataclasses.replace(encoder.config, execution=PLAIN)  # it changes no file
    settings = (encoder.preset, config, encoder.fingerprint)
    return hashlib.sha256(f"{photo} {settings}".encode()).hexdigest() if photo else ""


def decode(args: argparse.Namespace) -> int:
    """Decode a file or a folder; each file with the preset that wrote it unless one is named."""
    if execution(args) != PLAIN:  # broken files are refused without PyTorch
        args.device = choose_device(args.device)
        check(execution(args), args.device)
    folder = args.photo if args.file.is_dir() else None
    jobs = file_jobs(args)
    again = args.overwrite or args.force
    with converting(folder, again, args.engine, args.address) as conversion:
        todo = conversion.unfinished(jobs, lambda job: file_digest(job.source))
        groups = by_models(conversion, todo, args.preset)
        if groups:
            decode_groups(conversion, groups, args)
    return conversion.finish()


def file_jobs(args: argparse.Namespace) -> list[Job]:
    """Return a job for the file, or for each of the folder. Raises ValueError if it has none."""
    if not args.file.is_dir():
        return [Job(args.file.stem, args.file, args.photo)]
    paths = sorted(args.file.glob("*.pics"))
    if not paths:
        raise ValueError(f"{args.file} holds no .pics file")
    return [Job(path.stem, path, args.photo / f"{path.stem}.png") for path in paths]


def by_models(
    conversion: Conversion, jobs: Sequence[Job], row: Preset | None
) -> dict[tuple[Preset, StreamLayers], list[Job]]:
    """Return {(preset, layers): files}, by the preset's name.

    row: the preset of all files; None: each file's own. Files that are broken fail.
    """
    groups = defaultdict(list)
    for job in jobs:
        try:
            stream = bitstream.unpack(read_file(job.source))
            own = row or writer(stream)
        except FAILURES as error:
            conversion.fail([job], error)
            continue
        groups[own, layers_of(stream)].append(job)
    return dict(sorted(groups.items(), key=lambda group: group[0][0].name))


def decode_groups(
    conversion: Conversion,
    groups: dict[tuple[Preset, StreamLayers], list[Job]],
    args: argparse.Namespace,
) -> None:
    """Decode files; the models of one preset are loaded, once, and then those of the next."""
    from codec import Decoder

    device, decoder = choose_device(args.device), None
    for (written, layers), jobs in groups.items():
        row = row_of(args, written)
        try:
            with one_thread(device == "cpu"):
                if decoder is None or decoder.preset != row:
                    decoder = Decoder(row, device, args.lam_sketch, execution(args))
                decoder.fingerprint(layers)  # loads what these layers need, before any fork
        except FAILURES as error:
            conversion.fail(jobs, error)
            continue
        if args.engine == "ray":
            conversion.work_on_cluster(jobs, partial(load_to_decode, row, args), args.device)
            continue
        make = partial(decode_file, decoder, args.force)
        conversion.work(jobs, make, device, decoder.generator.parameters)


def load_to_decode(row: Preset, args: argparse.Namespace) -> Callable[[Job], Made]:
    """Return what decodes one file with the models of `row`, in an actor."""
    from codec import Decoder

    decoder = Decoder(row, choose_device(args.device), args.lam_sketch, execution(args))
    return partial(decode_file, decoder, args.force)


def decode_file(decoder: "Decoder", force: bool, job: Job) -> Made:
    """Decode one file. Raises as `Decoder.decode`.

    The file is its picture's whole origin, since it names the models that must decode it, unless it
    is decoded by force.
    """
    data = read_file(job.source)
    image = decoder.decode(data, force).image
    origin = "" if force else hashlib.sha256(data).hexdigest()
    return Made(png(image), origin, f"{image.shape[1]}x{image.shape[0]} from {len(data)} bytes")


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


def info(args: argparse.Namespace) -> int:
    """Print what a file holds; the prompt as text if its tokenizer can be had."""
    data = read_file(args.file)
    stream = bitstream.unpack(data)
    if args.json:
        say(json.dumps({"file": str(args.file), **facts_of(data, stream)}))
        return 0
    say(f"file      {printable(args.file)}, {len(data)} bytes, version {bitstream.VERSION}")
    say(f"preset    {writer_of(stream.fingerprint)} (fingerprint {stream.fingerprint:04x})")
    say(f"source    {stream.source_width}x{stream.source_height}")
    bpp = bitstream.bits_per_pixel(data, stream.height, stream.width)
    say(f"coded     {stream.width}x{stream.height}, {bpp:.5f} bpp")
    say(f"seed      {stream.seed}")
    for layer, count in bitstream.layer_sizes(stream).items():
        say(f"{layer:9} {count} bytes")
    if stream.base is not None:
        say("colors    in the base layer: the whole image, coarsely, without a color map")
    if stream.text is not None:
        say(f"prompt    {printable(shown_prompt(stream))}")
        say(f"sent as   {text_codec.coding(stream.text)}")
    return 0


def facts_of(data: bytes, stream: bitstream.Stream) -> dict:
    """Return what `info --json` prints of a file; a prompt that cannot be read here is None."""
    facts = {
        "bytes": len(data),
        "version": bitstream.VERSION,
        "preset": writer_of(stream.fingerprint),
        "fingerprint": f"{stream.fingerprint:04x}",
        "source": [stream.source_width, stream.source_height],
        "coded": [stream.width, stream.height],
        "bpp": bitstream.bits_per_pixel(data, stream.height, stream.width),
        "seed": stream.seed,
        "layers": bitstream.layer_sizes(stream),
    }
    if stream.text is not None:
        facts["sent_as"] = str(text_codec.coding(stream.text))
        facts["prompt"] = None
        with suppress(PresetError, UnavailableError):
            facts["prompt"] = prompt_of(stream)
    return facts


def shown_prompt(stream: bitstream.Stream) -> str:
    """Return the prompt of a stream as text, or why it cannot be read here."""
    try:
        return prompt_of(stream)
    except (PresetError, UnavailableError) as error:
        return f"(not readable here: {str(error).splitlines()[0]})"


def prompt_of(stream: bitstream.Stream) -> str:
    """Return the prompt of a stream as text. Raises PresetError, UnavailableError."""
    if text_codec.coding(stream.text).text:
        return text_codec.decode_text(stream.text)
    from diffusion import load_tokenizer
    from text_codec.prompt import PromptCodec

    return PromptCodec(load_tokenizer(writer(stream)), max_tokens=0).decode(stream.text).text


def drop(args: argparse.Namespace) -> int:
    """Write a file without one of its layers; no model is needed."""
    stream = bitstream.unpack(read_file(args.file))
    if getattr(stream, args.layer) is None:
        raise BitstreamError(f"{args.file} has no {args.layer} layer")
    data = bitstream.pack(dataclasses.replace(stream, **{args.layer: None}))
    write(args.smaller, data)
    say(f"{printable(args.smaller)}: {len(data)} bytes")
    return 0


def edit(args: argparse.Namespace) -> int:
    """Write a new file from an old one, with the models that wrote that."""
    data = read_file(args.file)
    row = args.preset or writer(bitstream.unpack(data))  # a broken file is refused without PyTorch
    from codec import Decoder, Edit
    from codec.editing import edit as edited

    sketch = load_gray(args.sketch) if args.sketch else None
    color = load_image(args.color) if args.color else None
    asked = Edit(args.prompt, sketch, color, args.seed, tuple(args.drop))
    decoder = Decoder(row, choose_device(args.device), args.lam_sketch)
    try:
        new = edited(decoder, data, asked)
    except FAILURES as error:  # wrong usage has been refused before
        complain(f"error: {reason_of(error, SPEAKING)}")
        return 1
    write(args.new, new)
    say(f"{printable(args.new)}: {len(new)} bytes, {len(data)} before")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 work failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    args = parse_args(argv)
    commands = {"encode": encode, "decode": decode, "drop": drop, "edit": edit, "info": info}
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
        complain("stopped: what was done is there; start it again to go on")
        return 130


if __name__ == "__main__":
    leave(main())
