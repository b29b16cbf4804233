"""The project's scripts in a process of their own that has imported the libraries already.

    with Scripts(environment) as scripts:
        ended = scripts.run("eval_PICS.py", "--preset", "sd21")

Each is run as `python SCRIPT ARGUMENTS` would run it. Two settings of the presets are smaller: 2
sampler steps in place of 8 to 30, and images of 128 pixels in place of 512 or 1024.
"""

import contextlib
import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SMALLER = {"steps": 2, "short_side": 128}


class Ended(NamedTuple):
    """What a script left: its exit status and output."""

    status: int
    stdout: str
    stderr: str


class Scripts:
    """The process; it ends with the `with` block."""

    def __init__(self, environment: dict[str, str]):
        command = [sys.executable, __file__]
        # A file: libraries write to the stream that they found when they were imported.
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.seen = 0
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )

    def run(self, script: str, *arguments: object) -> Ended:
        """Run a script until it ends. Raises AssertionError if the process dies."""
        command = [script, *map(str, arguments)]
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        errors = self._new_errors()
        assert answer, errors
        return Ended(*json.loads(answer), errors)

    def _new_errors(self) -> str:
        """Return what came on stderr since the last call; where the process writes is not moved."""
        end = os.fstat(self.stderr.fileno()).st_size
        data = os.pread(self.stderr.fileno(), end - self.seen, self.seen)
        self.seen = end
        return data.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


def make_smaller(names: tuple[str, ...]) -> None:
    """Change SMALLER in rows of the table of presets."""
    from presets import PRESETS

    for name in names:
        PRESETS[name] = dataclasses.replace(PRESETS[name], **SMALLER)


def run_here(command: list[str]) -> tuple[int, str]:
    """Run a script in this process; return its exit status and what it wrote to stdout."""
    sys.argv = command
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = runpy.run_path(command[0])["main"]()
        except SystemExit as ended:
            status = ended.code
    sys.stderr.flush()
    return status, out.getvalue()


def main() -> None:
    """Run the scripts that standard input names, a JSON list a line."""
    sys.path[0] = str(ROOT)  # as for a script of the root
    make_smaller(("sd21", "sd15", "sdxl", "zimage", "flux", "qwen", "sd35"))
    for line in sys.stdin:
        print(json.dumps(run_here(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
