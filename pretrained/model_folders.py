"""Model folders of strangers: what is checked before a library reads one.

    check_folder(Path("weights/sd21"))                       # its files
    check_size(Path("weights/sd21/unet"), build)             # its configuration
    with one_error("weights/sd21"):                          # what a library raises all the same
        ...

A folder holds data only: JSON and tokenizer files of a bounded size, and weights. The sizes that a
configuration asks for are compared with the weights that are there before a model is made.
"""

import json
import math
import os
import reprlib
import stat
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pretrained.libraries import without_memory

MAX_FILES = 2000  # of a folder and the folders in it
MAX_CONFIG_BYTES = 1_000_000  # of a JSON file
MAX_TOKENIZER_BYTES = 20_000_000  # of one file of a tokenizer; CLIP's take 2 MB, Qwen's 11 MB
MAX_HEADER_BYTES = 4_000_000  # of a .safetensors file; 1,700 tensors take 0.2 MB
MAX_PROCESSOR_SIDE = 1024  # pixels of the images that a CLIP or a captioner sees
MAX_DEPTH = 50  # of lists and objects inside one another
MOST_IN_CONFIG = 10_000_000  # of the whole numbers in a model's configuration: sizes and counts
READ_FILES = (".jinja", ".model", ".txt")  # that the libraries read whole, beside JSON
# Characters whose UTF-8 has every byte: a tokenizer that lacks one fails on some texts only.
_CODES = [*range(33, 256), *range(256, 2048, 64), *range(2048, 0xD800, 4096)]
_CODES += [0xD000, 0xE000, 0xF000, *range(0x10000, 0x100000, 0x40000), 0x100000]
EVERY_BYTE = "".join(map(chr, _CODES))
CODE = (".py", ".pyc", ".pyo", ".pyd", ".so")
# What makes transformers load other things than the folder's weights: an adapter's base model,
# kernels of the hub, packages that unpack weights.
REFUSED_FILE = "adapter_config.json"
REFUSED_KEY = "quantization_config"
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")


class Held(NamedTuple):
    """What weight files hold."""

    tensors: int
    numbers: int  # of all tensors together


# Of a model that is not on this machine yet: twice the largest that the presets know.
HUB = Held(10_000, 40_000_000_000)


def read_json(file: Path, most_bytes: int) -> object:
    """Return the content of a JSON file in UTF-8.

    Raises OSError, and ValueError for another file, one of more bytes, or one nested too deep.
    """
    with file.open("rb") as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"over {most_bytes:,} bytes")
    try:
        content = json.loads(data.decode())
    except RecursionError:
        raise ValueError(f"over {MAX_DEPTH} levels deep") from None
    inside: list[object] = [content]
    for _ in range(MAX_DEPTH):
        inside = _inside(inside)
        if not inside:
            return content
    raise ValueError(f"over {MAX_DEPTH} levels deep")


def _inside(values: Iterable[object]) -> list[object]:
    """Return the lists and objects that lie directly in some values."""
    found: list[object] = []
    for value in values:
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list):
            continue
        found += [member for member in value if isinstance(member, dict | list)]
    return found


def check_folder(folder: Path) -> None:
    """Raise ValueError, which names the file, if a model folder holds what it must not.

    That is: code; a pipe or a device; a JSON or tokenizer file that is too large, damaged or nested
    too deep; a configuration that names code elsewhere. OSError for what cannot be read.
    """
    if not folder.is_dir():
        raise ValueError("not a folder")
    for file in _files(folder):
        try:
            _check_file(file)
        except ValueError as error:
            raise ValueError(f"{file.relative_to(folder)}: {error}") from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, without hidden ones."""
    count = 0
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += len(folders) + len(names)
        if count > MAX_FILES:
            raise ValueError(f"over {MAX_FILES:,} files: this is no model folder")
        for name in names:
            if not name.startswith("."):
                yield Path(place, name)


def _check_file(file: Path) -> None:
    """Raise ValueError for a file that a model folder must not hold."""
    if file.name.lower().endswith(CODE):
        raise ValueError("a model folder must hold no code: remove it")
    if file.name == REFUSED_FILE:
        raise ValueError("adapters are not supported: remove it, or merge it into the weights")
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("not a file")
    tokenizer = file.name.startswith(("tokenizer.", "vocab."))
    most = MAX_TOKENIZER_BYTES if tokenizer else MAX_CONFIG_BYTES
    if file.suffix == ".json":
        content = read_json(file, most)
        _check_objects(content)
        if file.name.endswith(".index.json"):
            _check_shards(content)
    elif file.suffix in READ_FILES and file.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"over {MAX_TOKENIZER_BYTES:,} bytes")


def _check_shards(index: object) -> None:
    """Raise ValueError if an index of weight files names one that is not beside it."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(map(_is_name, shards.values())):
        raise ValueError("it must name files of its folder")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and Path(value).name == value


def _check_objects(content: object) -> None:
    """Raise ValueError if an object in JSON names code, or weights that have to be unpacked."""
    inside: list[object] = [content]
    while inside:
        for value in inside:
            if isinstance(value, dict):
                _check_object(value)
        inside = _inside(inside)


def _check_object(config: dict) -> None:
    """Raise ValueError for what one object must not say."""
    if config.get(REFUSED_KEY):
        raise ValueError("quantized weights are not supported")
    for key in KERNEL_KEYS:
        if "/" in str(config.get(key)):
            raise ValueError(f"{key} names code of the hub: remove it")
    if config.get("type") == "Precompiled":  # a normalizer of a tokenizer.json, such as T5's
        from pretrained.charsmap import check_charsmap

        check_charsmap(config.get("precompiled_charsmap"))


def check_config(config: object) -> None:
    """Raise ValueError for a model's configuration that names code or very large sizes."""
    if not isinstance(config, dict):
        raise ValueError("its config is not an object")
    _check_objects(config)
    check_numbers(config, MOST_IN_CONFIG)


def local_folder(source: str) -> Path | None:
    """Return the folder of a local model, checked by `check_folder`; None for a hub id."""
    folder = Path(source)
    if not folder.exists():
        return None
    check_folder(folder)
    return folder


def check_transformers(kind: type, source: str, folder: Path | None, **where) -> None:
    """Check the configuration of a model of transformers before the model is made.

    kind: a subclass of PreTrainedModel. folder: as in `check_size`. where: what its from_pretrained
    takes beside the source. Raises as `check_config` and `check_size`.
    """
    config, _ = kind.config_class.get_config_dict(source, **where)
    check_config(config)
    config = kind.config_class.from_pretrained(source, **where)
    check_size(folder, lambda: kind(config))


def check_size(folder: Path | None, build: Callable[[], object]) -> None:
    """Raise ValueError if a model is larger than its weights.

    folder: that holds its weight files; None: they are on the hub, and only the largest sizes are
        refused. build: makes the model, on the "meta" device, where tensors take no memory; it is
        stopped as soon as the model is too large. Raises what `build` raises, and OSError.
    """
    held = HUB if folder is None else held_by(folder)
    # Tied weights are in the file once; buffers, such as positions, need not be there.
    limit = Held(3 * held.tensors + 100, 2 * held.numbers + 1_000_000)
    with _counted(limit, held), without_memory():
        build()


@contextmanager
def _counted(limit: Held, held: Held) -> Iterator[None]:
    """Stop the making of a model with more tensors, or more numbers in them, than `limit`."""
    from torch.nn.modules import module

    seen = [0, 0]

    def count(_owner, _name, tensor) -> None:
        if tensor is None:
            return
        seen[0] += 1
        seen[1] += tensor.numel()
        if seen[0] > limit.tensors or seen[1] > limit.numbers:
            raise ValueError(
                f"its config asks for a larger model than its weights are: they are "
                f"{held.tensors:,} tensors of {held.numbers:,} numbers"
            )

    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def held_by(folder: Path) -> Held:
    """Return what the weight files of a folder hold: .safetensors, or else PyTorch's .bin.

    Raises ValueError for a damaged file or a folder without weights, and the errors of the
    libraries.
    """
    for ending, read in ((".safetensors", _safetensors), (".bin", _pytorch)):
        held = Held(0, 0)
        for file in sorted(folder.glob(f"*{ending}")):
            with one_error(f"{folder.name}/{file.name}"):
                one = read(file)
            held = Held(held.tensors + one.tensors, held.numbers + one.numbers)
        if held.tensors:
            return held
    raise ValueError(f"{folder.name} holds no weights")


def _safetensors(file: Path) -> Held:
    """Return what a .safetensors file holds. Raises ValueError, SafetensorError."""
    from safetensors import safe_open

    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {header:,} bytes: it is damaged")
    tensors = 0
    numbers = 0
    with safe_open(file, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dict
            tensors += 1
            numbers += math.prod(weights.get_slice(name).get_shape())
    return Held(tensors, numbers)


def _pytorch(file: Path) -> Held:
    """Return what a file of torch.save holds, read without its data and without running code.

    Raises ValueError, and the errors of torch.load.
    """
    import torch

    size = file.stat().st_size
    zipped = zipfile.is_zipfile(file)
    if zipped:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size:
            raise ValueError(f"{size:,} bytes that unpack to {unpacked:,}")
    content = torch.load(file, map_location="meta", weights_only=True, mmap=zipped)
    if not isinstance(content, dict):
        raise ValueError("no named weights")
    tensors = [value for value in content.values() if isinstance(value, torch.Tensor)]
    numbers = sum(tensor.numel() for tensor in tensors)
    if numbers > 2 * size:
        raise ValueError(f"tensors of {numbers:,} numbers in {size:,} bytes")
    return Held(len(tensors), numbers)


def check_numbers(config: object, most: int) -> None:
    """Raise ValueError for a whole number above `most`, or below -`most`, in a configuration.

    Lists and arrays are made of the sizes that it names.
    """
    inside: list[object] = [config]
    while inside:
        for value in inside:
            for member in value.values() if isinstance(value, dict) else value:
                if isinstance(member, int) and abs(member) > most:
                    raise ValueError(f"{reprlib.repr(member)} is too large: at most {most:,}")
        inside = _inside(inside)


def clip_tokenizer(source: str, vocab_size: int | None = None, **where):
    """Return the CLIPTokenizer of a source, with all special tokens.

    vocab_size: number of tokens of its text encoder; None: as many as it has. where: what
    from_pretrained takes beside the source. Raises ValueError for one that does not load or fit.
    """
    from transformers import CLIPTokenizer

    with one_error("tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(source, **where)
        most = len(tokenizer) if vocab_size is None else vocab_size
        if len(tokenizer) > most:
            raise ValueError(f"it does not fit: {len(tokenizer)} tokens, model {most}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token_id = getattr(tokenizer, name)
            if type(token_id) is not int or not 0 <= token_id < most:
                raise ValueError(f"{name} is {token_id}: it must be 0 to {most - 1}")
        length = tokenizer.model_max_length
        if type(length) is not int or length < 3:
            raise ValueError(f"model_max_length is {length!r}")
        tokenizer(f"{EVERY_BYTE} {' '.join(EVERY_BYTE)}", add_special_tokens=False)
    return tokenizer


def check_processor(processor, side: int) -> None:
    """Raise ValueError unless an image processor makes images of the model's side, in pixels."""
    import numpy as np

    check_numbers(processor.to_dict(), MAX_PROCESSOR_SIDE)
    black = np.zeros((60, 60, 3), np.uint8)
    inputs = processor(images=black, return_tensors="pt", input_data_format="channels_last")
    made = tuple(inputs["pixel_values"].shape)
    if made != (1, 3, side, side):
        raise ValueError(f"it makes images of shape {made}, the model takes {(1, 3, side, side)}")


@contextmanager
def one_error(what: str, *passing: type[Exception]) -> Iterator[None]:
    """Turn whatever a library raises, a panic of its Rust code too, into ValueError.

    what: the part or file in question, at the beginning of the message. passing: errors that pass
    through, as OSError and ImportError do.
    """
    try:
        yield
    except (OSError, ImportError, *passing):
        raise
    except BaseException as error:
        # pyo3's PanicException is no subclass of Exception, and has no name to import.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"{what}: {reason}") from error


@contextmanager
def quietly(*libraries) -> Iterator[None]:
    """Show no progress bars and messages of the libraries while a model is loaded.

    What fails is raised. On a terminal the hub's downloads show bars. Afterwards all is as before.
    libraries: the modules `utils.logging` of transformers and diffusers.
    """
    from huggingface_hub import utils as hub

    before = [(logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in libraries]
    hidden = hub.are_progress_bars_disabled()
    restore = hub.disable_progress_bars if hidden else hub.enable_progress_bars
    for logging in libraries:
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)  # a missing .safetensors is an "error" beside .bin
    if sys.stderr.isatty():
        restore()  # transformers hides them with its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logging, (level, shown) in zip(libraries, before, strict=True):
            logging.set_verbosity(level)
            if shown:
                logging.enable_progress_bar()
        restore()
