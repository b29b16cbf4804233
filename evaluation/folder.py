"""A run's folder: which run has it, with what settings, and which of its images are done.

todo = take(stack, folder, settings, samples.names, overwrite=False, group=group)
...                                                     # load the models
claim(folder, settings, names_of_todo, overwrite=False)
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import bitstream
from bitstream import MAX_FILE_BYTES, BitstreamError, Stream
from common.files import complain, printable, write
from evaluation.lock import locked, remove_temporary, this_process
from evaluation.processes import ProcessGroup
from reporting.reading import NoRunError, no_run, read_regular
from reporting.records import read_record
from reporting.rows import FAILED, RECORD, new_spelling
from reporting.runs import read_settings, read_summary


def take(
    held: contextlib.ExitStack,
    folder: Path,
    settings: dict,
    names: Sequence[str],
    overwrite: bool,
    group: ProcessGroup,
) -> list[int]:
    """Lock the run's folder until `held` is closed; return the images that are to be done.

    Rank 0 does it for all processes, and all get its list. Raises LockError if another run has the
    folder, ValueError if it holds a run with other settings, OSError.
    """
    owners = group.gather(this_process())
    outcome: list[int] | Exception = []
    if group.is_rank_0:
        try:
            held.enter_context(locked(folder, owners))
            if not overwrite:
                compare_settings(folder, settings)
            outcome = list(range(len(names))) if overwrite else unfinished(folder, names)
        except (OSError, ValueError) as error:
            outcome = error
    outcome = group.gather(outcome)[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def compare_settings(folder: Path, settings: dict) -> None:
    """Raise ValueError if `folder` holds a run with other settings."""
    if not os.path.lexists(folder / "settings.json"):
        return
    differing = differences(read_settings(folder), settings)
    if differing:
        raise ValueError(
            f"{printable(folder)} holds a run with other settings ({differing}): "
            "add --overwrite to do it again, or --output for another place"
        )


def differences(before: dict, settings: dict) -> str:
    """Return on one line which settings differ from those of an earlier run, and how."""
    differing = []
    for name, value in settings.items():
        if before.get(name) != value:
            differing.append(f"{name} {before.get(name)} -> {value}")
    return printable("; ".join(differing))[:1000]


def unfinished(folder: Path, names: Sequence[str]) -> list[int]:
    """Return the indices of the images that have no record, or none that holds.

    Those are done again; a line on stderr says why. Raises OSError if a record may not be read.
    """
    todo = []
    for index, name in enumerate(names):
        try:
            check_done(folder, name)
        except FileNotFoundError:
            todo.append(index)
        except NoRunError as error:
            complain(f"again: {printable(name)}: {error}")
            todo.append(index)
    return todo


def check_done(folder: Path, name: str) -> None:
    """Raise NoRunError if an image's record does not hold, FileNotFoundError if it has none.

    It holds if it is a record of this image and its .pics is the file that it speaks of. Records of
    earlier versions have no checksum of the file; its sizes and its seed are compared.
    """
    record = read_record(folder, name)
    path = folder / f"{name}.pics"
    try:
        data = read_regular(path, MAX_FILE_BYTES)
        stream = bitstream.unpack(data)
    except FileNotFoundError:
        raise no_run(path, "no such file") from None
    except BitstreamError as error:
        raise no_run(path, error) from None
    for what, found in facts_of(stream, data).items():
        recorded = record.get(what, found)
        if recorded != found:
            raise no_run(path, f"not the file of its record: {what} {found}, not {recorded}")
    sizes = {**bitstream.layer_sizes(stream), "total": len(data)}
    for layer, count in new_spelling(record["bytes"]).items():
        if count != sizes.get(layer, 0):
            reason = f"{layer} {sizes.get(layer, 0)} bytes, not {count}"
            raise no_run(path, f"not the file of its record: {reason}")


def facts_of(stream: Stream, data: bytes) -> dict:
    """Return those fields of a record that follow from the file, but for the bytes of layers."""
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "seed": stream.seed,
        "source_size": [stream.source_width, stream.source_height],
        "coded_size": [stream.width, stream.height],
    }


def claim(folder: Path, settings: dict, todo: Sequence[str], overwrite: bool) -> None:
    """Make ready the folder of a run that is about to begin its images.

    todo: names of those that are to be done. What failed is tried again; `overwrite` forgets all
    that is done. Only files that this project writes are removed.
    """
    outdated = list(folder.glob(f"*{FAILED}"))
    for name in todo:
        outdated.append(folder / f"{name}{RECORD}")
    if overwrite:
        outdated += folder.glob(f"*{RECORD}")
    for path in outdated:
        path.unlink(missing_ok=True)
    remove_temporary(folder)
    write(folder / "settings.json", json.dumps(settings, indent=1).encode())


def earlier_summary(folder: Path) -> dict:
    """Return summary.json of an earlier start; {} if there is none that holds, with a line."""
    try:
        return read_summary(folder)
    except FileNotFoundError:
        return {}
    except NoRunError as error:
        complain(f"again: {error}")
        return {}
