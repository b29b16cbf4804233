"""A run's folder: which run has it, with what settings, and which of its images are done.

taken = take(stack, folder, settings, samples.names, keep="all", overwrite=False, group=group)
...                                                     # load the models
claim(folder, settings, taken, overwrite=False)

Which images are done stands in the run's logs (`reporting/log.py`), which are read once. Runs of
earlier versions have no logs; their records, <name>_caption.yaml, are taken over.
"""

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bitstream
from bitstream import MAX_FILE_BYTES, BitstreamError, Stream
from common.files import complain, printable, write, write_parts
from evaluation.lock import locked, remove_temporary, this_process
from evaluation.processes import ProcessGroup
from reporting.log import (
    DONE,
    MERGED,
    PER_FOLDER,
    Entries,
    folder_name,
    line_of,
    logs_of,
    place_of,
    scan,
)
from reporting.reading import NoRunError, no_run, read_regular
from reporting.records import read_record
from reporting.rows import RECORD, new_spelling
from reporting.runs import read_settings, read_summary

OLD_FAILED = "_failed.txt"  # of earlier versions: why an image could not be done
# Of an image's files, as earlier versions have them in the run's own folder.
ENDINGS = (".pics", "_original.png", "_recon.png", "_sketch.png", "_sketch_recon.png", "_color.png")
MOST_LINES = 100  # on stderr, of images that are done again


@dataclass(frozen=True)
class Taken:
    """What a run begins with."""

    todo: Sequence[int] = ()  # images that are to be done: an array, see `common.compact`
    start: int = 1  # how often the run has been started, for the names of logs
    # Lines of the log, for images that an earlier version has done.
    lines: dict[int, bytes] = field(default_factory=dict)


def take(
    held: contextlib.ExitStack,
    folder: Path,
    settings: dict,
    names: Sequence[str],
    keep: str,
    overwrite: bool,
    group: ProcessGroup,
) -> Taken:
    """Lock the run's folder until `held` is closed; return which images are to be done.

    keep: what stays of an image beside its record. Rank 0 does it for all processes, and all get
    its answer. Raises LockError if another run has the folder, ValueError if it holds a run with
    other settings, OSError.
    """
    owners = group.gather(this_process())
    outcome: Taken | Exception = Taken()
    if group.is_rank_0:
        try:
            held.enter_context(locked(folder, owners))
            if not overwrite:
                compare_settings(folder, settings)
            outcome = (
                Taken(array("q", range(len(names)))) if overwrite else look(folder, names, keep)
            )
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
    refuse_others(printable(folder), read_settings(folder), settings)


def refuse_others(where: str, before: dict, settings: dict) -> None:
    """Raise ValueError if settings differ from those of the run that is there."""
    differing = differences(before, settings)
    if differing:
        raise ValueError(
            f"{where} holds a run with other settings ({differing}): "
            "add --overwrite to do it again, or --output for another place"
        )


def differences(before: dict, settings: dict) -> str:
    """Return on one line which settings differ from those of an earlier run, and how."""
    differing = []
    for name, value in settings.items():
        if before.get(name) != value:
            differing.append(f"{name} {before.get(name)} -> {value}")
    return printable("; ".join(differing))[:1000]


def look(folder: Path, names: Sequence[str], keep: str) -> Taken:
    """Return which images have no record, or none that holds.

    Those are done again; a line on stderr says why. Raises OSError if a record may not be read.
    """
    entries = scan(folder, names)
    if not entries.state.any():
        return look_at_records(folder, names)
    todo, why = array("q"), {}
    for number, state in enumerate(entries.state.tolist()):
        reason = None if state == DONE else ""
        if state == DONE and keep != "none":
            reason = why_not(entries, number)
        if reason is not None:
            todo.append(number)
        if reason:
            why[names[number]] = reason
    tell_again(why)
    return Taken(todo, 1 + logs_of(folder)[-1][0])


def why_not(entries: Entries, number: int) -> str | None:
    """Return why an image's file is not that of its record; None if it is. Raises OSError."""
    path = entries.place(number) / f"{entries.names[number]}.pics"
    expected = entries.sha256[number].tobytes()
    try:
        found = hashlib.sha256(read_regular(path, MAX_FILE_BYTES)).digest()
    except FileNotFoundError:
        return str(no_run(path, "no such file"))
    except NoRunError as error:
        return str(error)
    if found == expected:
        return None
    reason = f"not the file of its record: sha256 {found.hex()}, not {expected.hex()}"
    return str(no_run(path, reason))


def tell_again(why: dict[str, str]) -> None:
    """Say of images that they are done again, and why."""
    for name in list(why)[:MOST_LINES]:
        complain(f"again: {printable(name)}: {why[name]}")
    if len(why) > MOST_LINES:
        complain(f"again: {len(why) - MOST_LINES} more")


def look_at_records(folder: Path, names: Sequence[str]) -> Taken:
    """Return which images of a run without logs have no record that holds, as `look`."""
    todo, why, lines = array("q"), {}, {}
    for number, name in enumerate(names):
        try:
            record = check_done(folder, name)
            lines[number] = line_of({**record, "index": number})
        except FileNotFoundError:
            todo.append(number)
        except NoRunError as error:
            why[name] = str(error)
            todo.append(number)
    tell_again(why)
    logs = logs_of(folder)
    return Taken(todo, 1 + (logs[-1][0] if logs else 0), lines)


def check_done(folder: Path, name: str) -> dict:
    """Return the record of an image of an earlier version's run. Raises NoRunError if it does not
    hold, FileNotFoundError if there is none.

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
    return record


def facts_of(stream: Stream, data: bytes) -> dict:
    """Return those fields of a record that follow from the file, but for the bytes of layers."""
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "seed": stream.seed,
        "source_size": [stream.source_width, stream.source_height],
        "coded_size": [stream.width, stream.height],
    }


def claim(
    folder: Path, settings: dict, names: Sequence[str], taken: Taken, overwrite: bool
) -> None:
    """Make ready the folder of a run that is about to begin its images.

    names: of all images. What failed is tried again; `overwrite` forgets all that is done. Only
    files that this project writes are removed.
    """
    outdated = list(folder.glob(f"*{OLD_FAILED}"))
    if overwrite:
        outdated += folder.glob(f"*{RECORD}")
        outdated += [path for _, _, path in logs_of(folder)]
    for path in outdated:
        path.unlink(missing_ok=True)
    for thousand in {number // PER_FOLDER for number in taken.todo} | {0}:
        place = place_of(folder, thousand * PER_FOLDER)
        if place.is_dir() and not (thousand and place.is_symlink()):
            remove_temporary(place)
    take_over(folder, names, taken)
    write(folder / "settings.json", json.dumps(settings, indent=1).encode())


def take_over(folder: Path, names: Sequence[str], taken: Taken) -> None:
    """Give a run of an earlier version a log, and its files their places."""
    if not taken.lines:
        return
    for number in taken.todo:
        (folder / f"{names[number]}{RECORD}").unlink(missing_ok=True)
    for number in taken.lines:
        place = place_of(folder, number)
        if folder_name(number):
            place.mkdir(exist_ok=True)
            for ending in (*ENDINGS, RECORD):
                with contextlib.suppress(FileNotFoundError):
                    (folder / f"{names[number]}{ending}").replace(
                        place / f"{names[number]}{ending}"
                    )
    write_parts(folder / MERGED, taken.lines.values(), sync=True)


def earlier_summary(folder: Path) -> dict:
    """Return summary.json of an earlier start; {} if there is none that holds, with a line."""
    try:
        return read_summary(folder)
    except FileNotFoundError:
        return {}
    except NoRunError as error:
        complain(f"again: {error}")
        return {}
