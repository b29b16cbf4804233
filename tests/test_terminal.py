"""What a stranger wrote is shown escaped; a closed pipe, Ctrl-C and an ASCII terminal do no harm.

python -m pytest tests/test_terminal.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bitstream
import pics
import text_codec
from bitstream import Stream
from common import files
from evaluation.conversion import Job, Made, converting
from evaluation.flags import add_encoding_flags

ROOT = Path(__file__).resolve().parent.parent
LARGE = 10**12  # parameters of a model; it fills all cores by itself
HOSTILE = "\x1b]0;title\x07red\x1b[2J\npreset    forged \u202egnp.exe"


def stream_of(text: str, path: Path) -> Path:
    """A file with a prompt; nothing of it needs a model to be shown."""
    payload = text_codec.encode_text(text)
    path.write_bytes(bitstream.pack(Stream(0x1000, 640, 480, 384, 256, 0, payload)))
    return path


def test_a_hostile_prompt_is_shown_on_one_line(tmp_path, capsys):
    assert pics.main(["info", str(stream_of(HOSTILE, tmp_path / "a.pics"))]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown and "\x07" not in shown
    assert [line.split()[0] for line in shown.splitlines()].count("preset") == 1
    assert "red\\x1b[2J\\npreset    forged \\u202egnp.exe" in shown


def test_a_hostile_name_is_shown_on_one_line(tmp_path, capsys):
    path = stream_of("a barn", tmp_path / "a\x1b[31m\nb.pics")
    assert pics.main(["info", str(path)]) == 0
    (tmp_path / "c\x1b[31m.pics").write_bytes(b"no stream")
    assert pics.main(["info", str(tmp_path / "c\x1b[31m.pics")]) == 1
    assert pics.main(["decode", str(tmp_path / "c\x1b[31m.pics"), str(tmp_path / "d.png")]) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "c\\x1b[31m" in shown.err


class ClosedPipe:
    """A stdout whose reader has gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def test_a_closed_pipe_ends_no_work(tmp_path, monkeypatch, capsys):
    """`pics.py decode FILES PICTURES | head -1` once called files failed that were written."""
    done = []
    monkeypatch.setattr(sys, "stdout", ClosedPipe())

    def make(job: Job) -> Made:
        done.append(job.name)
        return Made(b"", "", "done")

    jobs = [Job(name, tmp_path / name, tmp_path / "out" / name) for name in "abc"]
    with converting(tmp_path / "out", overwrite=False) as conversion:
        todo = conversion.unfinished(jobs, lambda job: "")
        conversion.work(todo, make, "cpu", LARGE)  # in this process
    assert conversion.finish() == 0
    said = capsys.readouterr().err.splitlines()
    assert done == ["a", "b", "c"] and len(said) == 2
    assert said[0] == "this model on a CPU: minutes an image, said after the first"
    assert said[1].startswith("on this CPU: ")


def test_say_and_complain_survive_a_closed_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    files.say("a")
    files.say("b")
    files.complain("c")


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pics, "info", interrupted)
    assert pics.main(["info", str(tmp_path / "a.pics")]) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["un café", "雪の小屋"])
def test_any_language_on_an_ascii_terminal(tmp_path, text):
    path = stream_of(text, tmp_path / "a.pics")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-W", "ignore", str(ROOT / "pics.py"), "info", str(path)]
    found = subprocess.run(
        command, env=os.environ | ascii_only, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert text.encode("ascii", "backslashreplace").decode() in found.stdout


def test_a_prompt_is_utf_8_whatever_the_locale():
    flags = argparse.ArgumentParser()
    add_encoding_flags(flags)
    as_c_locale_gives_it = "un café".encode().decode("ascii", "surrogateescape")
    assert flags.parse_args(["--prompt", as_c_locale_gives_it]).prompt == "un café"
    assert flags.parse_args(["--prompt", "un caf\udce9"]).prompt == "un caf\ufffd"
