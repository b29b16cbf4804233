"""Where a run with `--engine ray` puts its output: a folder, or a URI of what pyarrow knows.

    output = open_output("s3://bucket/runs/PICS_tiny_kodak")
    output.settings()
    output.files.get_file_info("data/x.parquet")

There lie settings.json and data/*.parquet, and of a folder's run the report. That of a URI's run
lies in a folder of this machine, which is called as the run, in recon_examples/. A URI may hold a
password: messages leave out what may be one. pyarrow is imported inside functions alone.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from common.files import OUTPUT, file_name, printable, without_secrets, write
from reporting.reading import no_run, object_in
from reporting.runs import MAX_SETTINGS_BYTES, SETTINGS, read_settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem, SubTreeFileSystem

DATA = "data"  # the folder of Parquet files in the run's
FILE = "settings.json"
WITH_FOLDERS = ("local", "hdfs", "viewfs")  # file systems that are no stores of objects
NEEDS = "runs of --engine ray need pyarrow: pip install pyarrow, or 'ray[data]' to make them"


class OutputError(ValueError):
    """There can be no output; the message is one line, without secrets."""


@dataclass(frozen=True)
class Output:
    """Where a run's settings, its rows and its report are.

    files: a file system of pyarrow's whose root is the run's. name: of that, for messages. folder:
    of the report, on this machine. is_apart: whether that is another place.
    """

    files: "SubTreeFileSystem"
    name: str
    folder: Path
    is_apart: bool

    def settings(self) -> dict | None:
        """Return what settings.json holds; None if there is none. Raises NoRunError, OSError."""
        from pyarrow.fs import FileType

        where = f"{self.name}/{FILE}"
        with self.refusing():
            info = self.files.get_file_info(FILE)
            if info.type is FileType.NotFound:
                return None
            if info.type is not FileType.File or info.size > MAX_SETTINGS_BYTES:
                raise no_run(where, f"no file of at most {MAX_SETTINGS_BYTES:,} bytes")
            with self.files.open_input_stream(FILE) as file:
                content = file.read(MAX_SETTINGS_BYTES)
        return object_in(content, where, SETTINGS)

    def write_settings(self, settings: dict) -> None:
        """Write settings.json, whole or not at all, and make the folder of rows.

        Raises NoRunError, OSError.
        """
        content = json.dumps(settings, indent=1).encode()
        path = FILE
        with self.refusing():
            if self.has_folders:
                self.files.create_dir(DATA, recursive=True)
                path = f".{FILE}.{os.getpid()}.tmp"
            with self.files.open_output_stream(path) as file:  # an object is there once it is whole
                file.write(content)
            if path != FILE:
                self.files.move(path, FILE)
        self.tell_folder(settings)

    @property
    def has_folders(self) -> bool:
        """Whether a folder must be made before its files are written."""
        return self.files.base_fs.type_name in WITH_FOLDERS

    def tell_folder(self, settings: dict) -> None:
        """Write the settings to the folder of the report, too, if that is another place."""
        if self.is_apart:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(self.folder / FILE, json.dumps(settings, indent=1).encode())

    def check_folder(self, settings: dict | None) -> None:
        """Raise OutputError if the folder of the report holds another run.

        settings: of this run; None if those of another one may be replaced.
        """
        if not self.is_apart:
            return
        is_other = (self.folder / DATA).is_dir()
        if settings is not None:
            before = _set(read_settings(self.folder))
            is_other = is_other or before not in ({}, _set(settings))
        if is_other:
            where = printable(self.folder)
            raise OutputError(
                f"{where} holds another run, in place of the report of {self.name}: move it away"
            )

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Raise NoRunError or OSError, one line each, for what pyarrow raises in the block."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, KeyError, TypeError, UnicodeError) as error:
            raise no_run(self.name, error) from None
        except OSError as error:
            raise OSError(f"{self.name}: {_line(error)}") from None


def open_output(place: Path | str, run: str = "") -> Output:
    """Return the output of a run.

    place: folder or URI of the run or, with `run`, its name, that in which it is. Raises
    OutputError for what is no URI of a file system that pyarrow knows, OSError if that cannot be
    reached.
    """
    try:
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
    except ImportError:
        raise OutputError(NEEDS) from None
    if isinstance(place, Path):
        folder = place.absolute() / run
        files = SubTreeFileSystem(str(folder), LocalFileSystem())
        return Output(files, printable(folder), folder, is_apart=False)
    system, path = _resolve(place)
    root = PurePosixPath(path) / run
    if root.name in ("", ".."):
        raise OutputError(f"{_name(place)} names no run: expected .../<run>")
    folder = OUTPUT / file_name(root.name)
    is_folder = isinstance(system, LocalFileSystem) and Path(root) == folder
    name = "/".join(filter(None, (_name(place).rstrip("/"), run)))
    return Output(SubTreeFileSystem(str(root), system), name, folder, is_apart=not is_folder)


def _resolve(uri: str) -> "tuple[FileSystem, str]":
    """Return a URI's file system and the path there. Raises OutputError, OSError."""
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:  # whose messages hold the URI
        raise OutputError(_line(str(error).replace(uri, _name(uri)))) from None
    except OSError as error:
        raise OSError(f"{_name(uri)}: {_line(error)}") from None


def _name(uri: str) -> str:
    return printable(without_secrets(uri))


def _line(error: object) -> str:
    """Return the first line of an error's message."""
    lines = str(error).splitlines() or [type(error).__name__]
    return printable(lines[0])[:300]


def _set(settings: dict) -> dict:
    """Return the settings that are not None, as those are that an earlier version did not know."""
    return {name: value for name, value in settings.items() if value is not None}
