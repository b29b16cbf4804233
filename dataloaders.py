"""Folders of images -> `Sample(name, image)`, upright RGB at the coded size.

    python -c "import dataloaders; print(dataloaders.load_samples('images', None, 512).names)"

Accepted under `--data_root`: a plain folder of images; an ImageFolder (class folders, at any
depth); tar shards of WebDataset and data sets of the hub (`shards/`); with `--dataset`, the paper's
folders (`DATASETS`). Without `--data_root`: the sample
photographs inside the installed scikit-image and scikit-learn (those of `SAMPLE_IMAGES` that
exist; nothing is downloaded).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import product
from operator import index
from pathlib import Path
from typing import overload

import numpy as np

from bitstream import CODED_MULTIPLE, MAX_CODED_SIDE
from common.compact import Strings
from common.files import ImageError, check_source, file_name, load_image, name_paths, printable
from shards import HubRow, Source, list_shards, opened

EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".avif", ".jp2", ".j2k"}
)
LONGEST_NAME = 255  # characters of a name in a file system

# Data set: (its folders below --data_root, the folders of its test split). Both are in order of
# preference; the case of letters is ignored.
DATASETS = {
    "CLIC2020": (("CLIC/2020", "CLIC2020"), ("test", "valid")),
    "CLIC2021": (("CLIC/2021", "CLIC2021"), ("test", "valid")),
    "DIV2K": (("DIV2K",), ("val", "valid", "DIV2K_valid_HR", "test")),
    "Kodak": (("Kodak",), ()),
}
TRAINING_SPLITS = ("train", "DIV2K_train_HR")
LAYOUTS = (
    "accepted are a folder of pictures, class folders with pictures, or with --dataset the folders "
    "CLIC2020/test, CLIC2021/test, DIV2K/val, Kodak"
)

SAMPLE_IMAGES = {
    "skimage": (
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


class DataError(ValueError):
    """There is nothing to read; the message gives the folder and the accepted layouts."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image, ready for the encoder."""

    name: str  # unique in its folder, valid as a file name
    image: np.ndarray  # uint8 (coded height, coded width, 3), RGB, upright
    source_width: int  # pixels of the upright original
    source_height: int
    path: str  # of the original
    index: int = 0  # in its data set


@dataclass(frozen=True)
class Samples(Sequence):
    """The images of one folder; each is read when it is asked for, and not kept.

    `samples[i]` raises `ImageError` for an image that cannot be used. The others can still be read,
    so a run that must survive such an image loops over `range(len(samples))`. `samples[a:b]` is a
    `Samples` too.
    """

    name: str  # of the data set, for the run's folder
    names: Sequence[str]
    paths: Sequence[Source]
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
        return load_sample(self.paths[index], self.short_side, self.names[index], index)

    @property
    def is_stream(self) -> bool:
        """Whether images are read one after another, so that one process should read them."""
        return any(isinstance(path, HubRow) for path in self.paths[:1])


def load_samples(
    data_root: str | os.PathLike | None, dataset: str | None, short_side: int
) -> Samples:
    """Return the images that `--data_root` and `--dataset` name, in natural order.

    data_root: a folder, tar shards ("photos-{000..009}.tar"), "hf:owner/name[:split]", or None for
        the sample images.
    dataset: a key of `DATASETS`, or None for all images in the folder.
    short_side: of the coded size, pixels, a multiple of 64.

    Raises DataError if there is no such folder or no image in it, ValueError for a bad short_side.
    """
    check_short_side(short_side)
    shards = list_shards(data_root, EXTENSIONS)
    if shards:
        name, names, sources = shards
        return Samples(dataset or name or "shards", Strings(names), sources, short_side)
    if data_root is not None:
        folder = find_dataset(data_root, dataset)
        name = dataset or file_name(folder.resolve().name) or "root"
        named = list_images(folder)
    elif dataset is not None:
        raise DataError(f"--dataset {dataset} needs --data_root, the folder that holds it")
    else:
        name = "samples"
        named = name_paths(sample_images())
    names, paths = zip(*named, strict=True)
    return Samples(name, Strings(names), Strings(paths), short_side)


def load_sample(
    path: Source | os.PathLike, short_side: int, name: str | None = None, number: int = 0
) -> Sample:
    """Read one image and resize it to the coded size. Raises ImageError.

    name: of the sample; None: the file's stem. number: in its data set.
    """
    place = os.fspath(path) if isinstance(path, str | os.PathLike) else str(name)
    try:
        image = load_image(opened(path))
    except OSError as error:  # of a shard or the network
        raise ImageError(f"{printable(place)}: cannot be read: {error}") from error
    height, width = image.shape[:2]
    try:
        resized = resize(image, short_side)
    except ImageError as error:
        raise ImageError(f"{printable(place)}: {error}") from None
    return Sample(name or file_name(Path(place).stem), resized, width, height, place, number)


# ---- sizes


def check_short_side(short_side: int) -> None:
    """Raise ValueError unless short_side is a multiple of 64 between 64 and 4096 pixels."""
    if short_side % CODED_MULTIPLE or not CODED_MULTIPLE <= short_side <= MAX_CODED_SIDE:
        raise ValueError(
            f"short side {short_side}: must be a multiple of {CODED_MULTIPLE} "
            f"from {CODED_MULTIPLE} to {MAX_CODED_SIDE}"
        )


def coded_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) of the coded image in pixels, both multiples of 64.

    The short side becomes short_side. The long side keeps the proportion to the nearest multiple of
    64 (a tie goes to the even multiple, as numpy.round in the paper's code).

    Raises ImageError if the long side would be over 4096, or if the image has a side of 0 or over
    65535 pixels; ValueError for a bad short_side.
    """
    check_short_side(short_side)
    check_source(width, height)
    short, long = sorted((height, width))
    long_side = CODED_MULTIPLE * round(Fraction(long * short_side, short * CODED_MULTIPLE))
    if long_side > MAX_CODED_SIDE:
        raise ImageError(
            f"{width}x{height} pixels is too long and thin: with a short side of {short_side} the "
            f"long side would be {long_side}, at most {MAX_CODED_SIDE} can be coded; crop it"
        )
    return (short_side, long_side) if height <= width else (long_side, short_side)


def check_coded(images: object, short_side: int) -> None:
    """Raise unless `images` is a sequence of images at a size that can be coded.

    Each must be a numpy array, uint8 RGB (H, W, 3), with sides that are multiples of 64 from 64 to
    4096 pixels, and at most short_side * 4096 pixels in all, which is what a decoder accepts.
    Raises TypeError for another type, ValueError for another size; one line says what is wanted.
    """
    wanted = "uint8 RGB arrays (H, W, 3)"
    if isinstance(images, np.ndarray) or not isinstance(images, Sequence):
        raise TypeError(f"images must be a list of {wanted}, not {type(images).__name__}")
    for image in images:
        if not isinstance(image, np.ndarray):
            raise TypeError(f"images must be {wanted}, not {type(image).__name__}")
        if image.dtype != np.uint8:
            raise TypeError(f"images must be {wanted} with values 0 to 255, not {image.dtype}")
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images must be {wanted}, not of shape {image.shape}")
        _check_coded_size(*image.shape[:2], short_side)


def _check_coded_size(height: int, width: int, short_side: int) -> None:
    for side in (height, width):
        if side % CODED_MULTIPLE or not CODED_MULTIPLE <= side <= MAX_CODED_SIDE:
            raise ValueError(
                f"an image of {width}x{height} pixels: sides must be multiples of "
                f"{CODED_MULTIPLE} from {CODED_MULTIPLE} to {MAX_CODED_SIDE}; see resize()"
            )
    if width * height > short_side * MAX_CODED_SIDE:
        raise ValueError(
            f"an image of {width}x{height} pixels: this preset codes at most "
            f"{short_side}x{MAX_CODED_SIDE}; see resize()"
        )


def check_sources(sizes: object, count: int) -> None:
    """Raise unless `sizes` are `count` pairs (height, width) of 1 to 65535 pixels each.

    Raises TypeError or ValueError; one line says what is wanted.
    """
    wanted = f"source sizes must be {count} pairs (height, width) of integers"
    if not isinstance(sizes, Sequence) or isinstance(sizes, str | bytes):
        raise TypeError(f"{wanted}, not {type(sizes).__name__}")
    if len(sizes) != count:
        raise ValueError(f"{wanted}, not {len(sizes)}")
    for size in sizes:
        try:
            height, width = map(index, size)
        except (TypeError, ValueError):
            raise TypeError(f"{wanted}, not {size!r}") from None
        try:
            check_source(width, height)
        except ImageError as error:
            raise ValueError(f"a source size: {error}") from None


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """Return uint8 (H, W, 3) at its coded size, by a Lanczos filter. Raises as `coded_size`."""
    from PIL import Image  # here, so that `pics.py info` does not wait for it

    height, width = coded_size(*image.shape[:2], short_side)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


# ---- folders


def find_dataset(data_root: str | os.PathLike, dataset: str | None) -> Path:
    """Return data_root itself, or the test split of a data set in or below it. Raises DataError.

    data_root itself is the data set if it holds the folder of the split, or images. It is not if it
    has a training split or a folder of any known data set: to take all images would put a wrong
    name on the results.
    """
    root = Path(data_root).expanduser()
    if not root.is_dir():
        state = "not a folder" if root.exists() else "no such folder"
        raise DataError(f"{printable(root)}: {state}; {LAYOUTS}")
    if dataset is None:
        return root
    if dataset not in DATASETS:
        raise DataError(
            f"unknown data set {dataset!r}; known are {', '.join(DATASETS)}; or leave it out"
        )
    names, splits = DATASETS[dataset]
    homes = [*_children(root, names), root]
    for home in homes:
        for folder in _children(home, splits):
            return folder
    for home in homes:
        if not _children(home, _other_folders()):
            return home
    expected = [f"{name}/{split}" for name, split in product(names, splits)] or names
    raise DataError(
        f"{printable(root)}: no {dataset} there; expected below it {', '.join(expected)}"
    )


def _other_folders() -> list[str]:
    """Return names of folders that a folder of test images does not contain."""
    others = list(TRAINING_SPLITS)
    for names, _ in DATASETS.values():
        others += names
    return others


def _children(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return those folders at these relative paths that exist. Raises DataError."""
    children = []
    for name in names:
        child = _child(folder, name)
        if child is not None:
            children.append(child)
    return children


def _child(folder: Path, relative: str) -> Path | None:
    """Return the folder at a relative path, ignoring case, or None. Raises DataError."""
    for part in relative.split("/"):
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{printable(folder)}: cannot be listed: {error.strerror}") from None
        same = []
        for entry in entries:
            if entry.name.lower() == part.lower() and entry.is_dir():
                same.append(entry)
        if not same:
            return None
        folder = next((entry for entry in same if entry.name == part), same[0])
    return folder


def sample_images() -> list[str]:
    """Return paths of photographs inside the installed scikit-image and scikit-learn.

    Raises DataError if there are none.
    """
    paths = []
    for package, (folder, files) in SAMPLE_IMAGES.items():
        spec = find_spec(package)  # finds the package's folder and does not import it
        homes = spec.submodule_search_locations if spec else []
        for home, file in product(homes, files):
            path = Path(home, folder, file)
            if path.is_file():
                paths.append(str(path))
    if not paths:
        cure = "pip install scikit-image scikit-learn, or name a folder with --data_root"
        raise DataError(f"no sample images: {cure}")
    return paths


def list_images(root: str | os.PathLike) -> list[tuple[str, str]]:
    """Return (name, path) of all images in a folder and below it, in natural order.

    Natural order: img2 before img10. Images are recognized by `EXTENSIONS` in any case; no file is
    opened. Names that begin with a dot are skipped. Links are followed, but each folder is entered
    once, and none above root.

    Raises DataError if there is no folder, no image, or a folder that cannot be listed.
    """
    root = os.fspath(root)
    if not Path(root).is_dir():
        raise DataError(f"{printable(root)}: no such folder; {LAYOUTS}")
    paths = sorted(_walk(root), key=lambda path: (_natural(path), path))
    if not paths:
        raise DataError(
            f"{printable(root)}: no pictures ({' '.join(sorted(EXTENSIONS))}); {LAYOUTS}"
        )
    return name_paths(paths, root)


def _walk(root: str) -> list[str]:
    """Return paths of all image files below root.

    Links to folders are visited last, so that a folder is found under its own path if it has one.
    """
    paths = []
    folders = [root]
    seen = {str(parent) for parent in Path(root).resolve().parents}
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise DataError(f"{printable(folder)}: cannot be listed: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.insert(0 if entry.is_symlink() else len(folders), entry.path)
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                paths.append(entry.path)
    return paths


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _natural(path: str) -> str:
    """Return a sort key that compares numbers by value, because all have the same length in it."""
    text = path.replace(os.sep, "\0").casefold()
    return re.sub("[0-9]+", lambda match: match[0].zfill(LONGEST_NAME), text)
