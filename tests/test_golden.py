"""Golden streams: files of released versions decode to the recorded conditions for ever.

python -m pytest tests/test_golden.py
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.record_golden import RECORD, ROOT, conditions, main

from codec import Decoder
from presets import get_preset

# torch.randn's logarithm and cosine differ by a unit in the last place between processors.
NOISE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def record():
    if not RECORD.exists():
        pytest.skip("nothing recorded: see tests/helpers/record_golden.py")
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def decoder(record):
    return Decoder(get_preset(record["preset"]))


@pytest.mark.parametrize(("threads", "mkldnn"), [(1, True), (2, False)])
def test_golden_streams_decode_to_the_recorded_conditions(record, decoder, threads, mkldnn):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            found = [conditions(decoder, bytes.fromhex(row["file"])) for row in record["streams"]]
    finally:
        torch.set_num_threads(before)
    for row, now in zip(record["streams"], found, strict=True):
        assert (now["ids"], now["pictures"]) == (row["ids"], row["pictures"]), row["file"]
        assert np.allclose(now["noise"], row["noise"], atol=NOISE_TOLERANCE), row["file"]


def test_a_record_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "streams.json").write_text("{}")
    assert main(["--output", str(tmp_path / "streams.json")]) == 2
    assert (tmp_path / "streams.json").read_text() == "{}"
    assert "for ever" in capsys.readouterr().err


def test_the_recorder_runs_as_a_script():
    """As its docstring says; the record is there, so it refuses to write another."""
    command = [sys.executable, "tests/helpers/record_golden.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "must decode for ever" in done.stderr
