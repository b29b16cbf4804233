"""Golden streams with base layers and sketches of both networks decode as recorded for ever.

python -m pytest tests/test_golden_base.py
"""

import json

import numpy as np
import pytest
import torch
from helpers.record_golden import RECORD, conditions

import bitstream
from codec import Decoder
from models_ntc.bundled import layers_of
from presets import get_preset

SECOND = RECORD.with_name("streams_base.json")
# torch.randn's logarithm and cosine differ by a unit in the last place between processors.
NOISE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def record():
    return json.loads(SECOND.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def decoder(record):
    return Decoder(get_preset(record["preset"]))


@pytest.mark.parametrize(("threads", "mkldnn"), [(1, True), (2, False)])
def test_golden_streams_decode_to_the_recorded_conditions(
    record, decoder, threads, mkldnn, threads_restored
):
    torch.set_num_threads(threads)
    with torch.backends.mkldnn.flags(enabled=mkldnn):
        found = [conditions(decoder, bytes.fromhex(row["file"])) for row in record["streams"]]
    for row, now in zip(record["streams"], found, strict=True):
        assert (now["ids"], now["pictures"]) == (row["ids"], row["pictures"]), row["file"]
        assert np.allclose(now["noise"], row["noise"], atol=NOISE_TOLERANCE), row["file"]


def test_every_kind_of_layer_is_recorded(record):
    kinds = {layers_of(bitstream.unpack(bytes.fromhex(row["file"]))) for row in record["streams"]}
    assert {kind.sketch for kind in kinds} == {0, 1, 2}
    assert any(kind.base and kind.sketch == 2 for kind in kinds)
    assert any(kind.color and kind.sketch == 2 for kind in kinds)
