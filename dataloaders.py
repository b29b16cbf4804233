"""Folders of photographs -> `Sample(name, image)`, upright RGB at the coded size.

    python -c "import dataloaders; print(dataloaders.load_samples('photos', None, 512).names)"

Accepted under `--data_root`: a plain folder of pictures; an ImageFolder (class folders, to any depth); with
`--dataset`, the paper's folders (`DATASETS`). Without `--data_root`: the sample photographs inside the
installed scikit-image and scikit-learn (those of `SAMPLE_PHOTOGRAPHS` that are there; nothing is downloaded).
"""

import os
import re
import struct
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".avif", ".jp2", ".j2k"}
)
# Pillow would also hand a file to readers that start other programs (EPS); only these may look at one.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "AVIF", "JPEG2000")

MULTIPLE = 64  # both coded sides are multiples of this
MAX_CODED_SIDE = 4096  # pixels, a limit of the stream
MAX_SOURCE_SIDE = 65535  # pixels, a limit of the stream
MAX_NAME_BYTES = 200  # leaves room for "_sketch_recon.png" in a file system's 255

# dataset: (its folders below --data_root, its test split's folders), in order of preference, in any case.
DATASETS = {
    "CLIC2020": (("CLIC/2020", "CLIC2020"), ("test", "valid")),
    "CLIC2021": (("CLIC/2021", "CLIC2021"), ("test", "valid")),
    "DIV2K": (("DIV2K",), ("val", "valid", "DIV2K_valid_HR", "test")),
    "Kodak": (("Kodak",), ()),
}
LAYOUTS = (
    "accepted are a folder of pictures, class folders with pictures, or with --dataset the folders "
    "CLIC2020/test, CLIC2021/test, DIV2K/val, Kodak"
)

SAMPLE_PHOTOGRAPHS = {
    "skimage": ("data", ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


class DataError(ValueError):
    """There is nothing to read: the message says where it was looked for and which layouts are accepted."""


class ImageError(ValueError):
    """One picture cannot be used: the message is one line that begins with its path or its size."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One photograph, ready for the encoder."""

    name: str  # unique in its folder, fit for a file name
    image: np.ndarray  # uint8, coded height x coded width x 3, RGB, upright
    source_width: int  # pixels of the upright original
    source_height: int
    path: str  # of the original


@dataclass(frozen=True)
class Samples(Sequence):
    """The photographs of one folder; each is read when it is asked for and not kept.

    `samples[i]` raises `ImageError` for a picture that cannot be used and leaves the others readable, so a
    run that must survive one loops over `range(len(samples))`. `samples[a:b]` is a `Samples` too.
    """

    name: str  # of the data set, for the run's folder
    names: tuple[str, ...]
    paths: tuple[str, ...]
    short_side: int  # of the coded size, pixels

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Samples(self.name, self.names[index], self.paths[index], self.short_side)
        return load_sample(self.paths[index], self.short_side, self.names[index])


def load_samples(data_root: str | os.PathLike | None, dataset: str | None, short_side: int) -> Samples:
    """The photographs that `--data_root` and `--dataset` name, in natural order, to be read one by one.

    data_root: a folder, or None for the sample photographs. dataset: a key of `DATASETS`, or None for
    everything in the folder. short_side: of the coded size, pixels, a multiple of 64.
    Raises DataError when there is no such folder or no picture in it, ValueError for a wrong short_side.
    """
    check_short_side(short_side)
    if data_root is None:
        if dataset is not None:
            raise DataError(f"--dataset {dataset} needs --data_root, the folder that holds it")
        name, named = "samples", name_paths(sample_photographs())
    else:
        folder = find_dataset(data_root, dataset)
        name, named = dataset or _tidy(folder.resolve().name) or "root", list_images(folder)
    names, paths = zip(*named, strict=True)
    return Samples(name, names, paths, short_side)


def load_sample(path: str | os.PathLike, short_side: int, name: str | None = None) -> Sample:
    """Read one picture and bring it to the coded size; the name is the file's stem unless given.

    Raises ImageError.
    """
    image = load_image(path)
    height, width = image.shape[:2]
    try:
        resized = resize(image, short_side)
    except ImageError as error:
        raise ImageError(f"{_show(path)}: {error}") from None
    return Sample(name or _tidy(Path(path).stem), resized, width, height, os.fspath(path))


# ---- sizes


def check_short_side(short_side: int) -> None:
    """Raise ValueError unless short_side is a multiple of 64 between 64 and 4096 pixels."""
    if short_side % MULTIPLE or not MULTIPLE <= short_side <= MAX_CODED_SIDE:
        raise ValueError(
            f"short side {short_side}: must be a multiple of {MULTIPLE} from {MULTIPLE} to {MAX_CODED_SIDE}"
        )


def coded_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) of the picture that is coded, both multiples of 64, pixels.

    The short side becomes short_side, the long side keeps the proportion to the nearest multiple of 64 (a tie
    goes to the even multiple, as numpy.round in the paper's code). Raises ImageError when the long side would
    pass 4096 or the picture has a side of 0 or over 65535 pixels, ValueError for a wrong short_side.
    """
    check_short_side(short_side)
    _check_source(width, height)
    short, long = sorted((height, width))
    long_side = MULTIPLE * round(Fraction(long * short_side, short * MULTIPLE))
    if long_side > MAX_CODED_SIDE:
        raise ImageError(
            f"{width}x{height} pixels is too long and thin: with a short side of {short_side} the long side "
            f"would be {long_side}, at most {MAX_CODED_SIDE} can be coded; crop it"
        )
    return (short_side, long_side) if height <= width else (long_side, short_side)


def _check_source(width: int, height: int) -> None:
    if not (1 <= height <= MAX_SOURCE_SIDE and 1 <= width <= MAX_SOURCE_SIDE):
        raise ImageError(f"{width}x{height} pixels: each side must be 1 to {MAX_SOURCE_SIDE}")


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """Bring uint8 HxWx3 straight to its coded size by Pillow's Lanczos filter. Raises as `coded_size`."""
    height, width = coded_size(*image.shape[:2], short_side)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


# ---- one picture

# What Pillow's readers raise on damaged files.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read one picture file: uint8 HxWx3, RGB, upright by its EXIF orientation, the first frame of several.

    Gray, palette, CMYK and the like become RGB; what is transparent shows white; 16-bit samples are scaled to
    8 bits. Colour profiles are ignored. Raises ImageError, one line with the path: not a regular file, not in
    one of `FORMATS`, damaged or cut off, over Pillow's limit of 179 million pixels, no known white.
    """
    if not Path(path).is_file():  # a pipe would be waited on for ever
        state = "not a file" if os.path.lexists(path) else "no such file"
        raise ImageError(f"{_show(path)}: {state}")
    try:
        with Image.open(path, formats=_readable_formats()) as file:
            _check_source(*file.size)  # before anything is decoded
            ImageOps.exif_transpose(file, in_place=True)
            return np.array(_to_rgb(file))
    except Image.UnidentifiedImageError:
        message = f"not a picture in {', '.join(FORMATS)}, or its header is damaged"
        raise ImageError(f"{_show(path)}: {message}") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{_show(path)}: cannot be read as a picture: {reason}") from error


def _readable_formats() -> list[str]:
    """FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow -> RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_gray_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_gray_to_8_bits(gray: np.ndarray) -> np.ndarray:
    """HxW of more than 8 bits -> uint8: white is 65535 for integers, 1.0 for floats; else ValueError."""
    white = 1.0 if gray.dtype.kind == "f" else 65535
    low, high = gray.min(), gray.max()
    if not (low >= 0 and high <= white):
        raise ValueError(f"gray from {low} to {high}, expected 0 to {white}; save it with 8 or 16 bits")
    if gray.dtype.kind == "f":
        return np.rint(gray * np.float32(255)).astype(np.uint8)
    return np.rint(np.arange(65536) * (255 / 65535)).astype(np.uint8)[gray]


# ---- folders


def find_dataset(data_root: str | os.PathLike, dataset: str | None) -> Path:
    """The folder whose pictures are meant: data_root itself, or the test split of a data set in or below it.

    data_root itself serves as the data set when it holds the split folder or the pictures, unless it has a
    training split or a folder of any known data set: taking everything would put a wrong name on the results.
    Raises DataError.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        raise DataError(f"{_show(root)}: {'not a folder' if root.exists() else 'no such folder'}; {LAYOUTS}")
    if dataset is None:
        return root
    if dataset not in DATASETS:
        raise DataError(f"unknown data set {dataset!r}; known are {', '.join(DATASETS)}; or leave it out")
    homes, splits = DATASETS[dataset]
    places = [home for name in homes if (home := _child(root, name))] + [root]
    for home in places:
        for split in splits:
            if folder := _child(home, split):
                return folder
    others = ["train", "DIV2K_train_HR", *(name for names, _ in DATASETS.values() for name in names)]
    for home in places:
        if not any(_child(home, name) for name in others):
            return home
    expected = ", ".join(f"{home}/{split}" for home in homes for split in splits) or homes[0]
    raise DataError(f"{_show(root)}: no {dataset} there; expected below it {expected}")


def _child(folder: Path, relative: str) -> Path | None:
    """The folder at a relative path, the case of its letters aside; None where there is none."""
    for part in relative.split("/"):
        try:
            same = [entry for entry in sorted(folder.iterdir()) if entry.name.lower() == part.lower()]
        except OSError as error:
            raise DataError(f"{_show(folder)}: cannot be listed: {error.strerror}") from None
        same = [entry for entry in same if entry.is_dir()]
        if not same:
            return None
        folder = next((entry for entry in same if entry.name == part), same[0])
    return folder


def sample_photographs() -> list[str]:
    """Paths of the photographs that lie inside the installed scikit-image and scikit-learn; or DataError."""
    paths = []
    for package, (folder, files) in SAMPLE_PHOTOGRAPHS.items():
        spec = find_spec(package)  # finds the package's folder and does not import it
        homes = spec.submodule_search_locations if spec else []
        paths += [Path(home, folder, file) for home in homes for file in files]
    paths = [str(path) for path in paths if path.is_file()]
    if not paths:
        cure = "pip install scikit-image scikit-learn, or name a folder with --data_root"
        raise DataError(f"no sample photographs: {cure}")
    return paths


def list_images(root: str | os.PathLike) -> list[tuple[str, str]]:
    """(name, path) of every picture in the folder and those below it, in natural order (img2 before img10).

    Chosen by `EXTENSIONS`, any case; nothing is opened. Names that begin with a dot are passed over. Links
    are followed, but each folder is entered once and none above root. Raises DataError: no folder, a folder
    that cannot be listed, no picture.
    """
    root = os.fspath(root)
    if not Path(root).is_dir():
        raise DataError(f"{_show(root)}: no such folder; {LAYOUTS}")
    paths = sorted(_walk(root), key=lambda path: (_natural(path), path))
    if not paths:
        raise DataError(f"{_show(root)}: no pictures ({' '.join(sorted(EXTENSIONS))}); {LAYOUTS}")
    return name_paths(paths, root)


def _walk(root: str) -> list[str]:
    """Paths of all picture files below root; links to folders come last, so none takes a folder's place."""
    paths, folders = [], [root]
    seen = {_identity(folder) for folder in Path(root).resolve().parents}
    while folders:
        folder = folders.pop()
        try:
            if (identity := _identity(folder)) in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{_show(folder)}: cannot be listed: {error.strerror}") from None
        entries.sort(key=lambda entry: entry.name, reverse=True)
        for entry in entries:
            if _is_folder(entry):
                folders.insert(0 if entry.is_symlink() else len(folders), entry.path)
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                paths.append(entry.path)
    return paths


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    state = Path(folder).stat()
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _natural(path: str) -> str:
    """Sort key in which numbers compare by value: each is written with its count of digits before it."""
    text = path.replace(os.sep, "\0").casefold()
    return re.sub("[0-9]+", lambda match: f"{len(digits := match[0].lstrip('0')):03}{digits}", text)


def name_paths(paths: Sequence[str], root: str = "/") -> list[tuple[str, str]]:
    """(name, path) in the same order; no two names are equal, not even where a file system ignores case.

    A name is the file's stem. Pictures that share a stem take their path below root with "/" as "_"; those
    that still share it (a.png, a.jpg) add the extension ("a_png"); what is left is numbered. In a name,
    unprintable characters become "_".
    """
    forms: list[Callable[[str], str]] = [
        lambda path: Path(path).stem,
        lambda path: os.path.relpath(path, root).rpartition(".")[0],
        lambda path: "_".join(os.path.relpath(path, root).rsplit(".", 1)),
    ]
    names: dict[str, str] = {}
    taken: set[str] = set()
    waiting = list(paths)
    for form in forms:
        candidates = [_tidy(form(path)) for path in waiting]
        count = Counter(name.casefold() for name in candidates)
        free = {name for name in candidates if count[name.casefold()] == 1 and name.casefold() not in taken}
        names |= {path: name for path, name in zip(waiting, candidates, strict=True) if name in free}
        taken |= {name.casefold() for name in free}
        waiting = [path for path in waiting if path not in names]
    for path in waiting:
        name, number = _tidy(forms[-1](path)), 2
        while f"{name}-{number}".casefold() in taken:
            number += 1
        names[path] = f"{name}-{number}"
        taken.add(names[path].casefold())
    return [(names[path], path) for path in paths]


def _tidy(name: str) -> str:
    """A part of a path -> a file name that prints on one line, at most 200 bytes of UTF-8."""
    composed = unicodedata.normalize("NFC", name)  # some file systems take both spellings for one name
    printable = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in composed)
    return printable.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _show(path: str | os.PathLike) -> str:
    """A path on one line, for messages."""
    return "".join(c if c.isprintable() else "?" for c in os.fspath(path))
