"""What the encoder is given: one TypeError or ValueError says what is wanted.

python -m pytest tests/test_encoder_inputs.py
"""

import array

import numpy as np
import pytest
from helpers.checkpoints import local_preset
from PIL import Image

import bitstream
from codec import Encoder, EncoderConfig
from prompt_inversion.options import PromptOptions

IMAGE = np.zeros((192, 256, 3), np.uint8)
IMAGE[50:, 90:] = 200


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    row = local_preset(
        tmp_path_factory.mktemp("models"),
        "tiny",
        annotator="canny",
        short_side=192,
        prompt_len=2,
        candidates=1,
        steps=1,
    )
    return Encoder(row, EncoderConfig(prompt=PromptOptions(steps=1)))


WRONG_IMAGES = {
    "a picture of Pillow": ([Image.fromarray(IMAGE)], TypeError),
    "an array in place of a list": (IMAGE, TypeError),
    "a batch as one array": (IMAGE[None], TypeError),
    "a name": ("photo.jpg", TypeError),
    "names": (["photo.jpg"], TypeError),
    "lists": ([IMAGE.tolist()], TypeError),
    "a view of memory": ([memoryview(IMAGE)], TypeError),
    "bytes": ([bytes(100)], TypeError),
    "nothing": ([None], TypeError),
    "floats from 0 to 1": ([IMAGE / 255], TypeError),
    "int64": ([IMAGE.astype(np.int64)], TypeError),
    "gray": ([IMAGE[..., 0]], ValueError),
    "four channels": ([np.zeros((192, 256, 4), np.uint8)], ValueError),
    "channels first": ([np.zeros((3, 192, 256), np.uint8)], ValueError),
    "sides that are no multiples of 64": ([IMAGE[:190]], ValueError),
    "no pixels": ([IMAGE[:0]], ValueError),
    "a long side of 4160": ([np.zeros((192, 4160, 3), np.uint8)], ValueError),
    # What its own decoder refuses: more than the short side times 4096 pixels.
    "too many pixels": ([np.zeros((1024, 1088, 3), np.uint8)], ValueError),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_wrong_images(encoder, name):
    images, error = WRONG_IMAGES[name]
    with pytest.raises(error, match=r"^an? image|^images must be") as caught:
        encoder.encode(images)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


WRONG_SIZES = {
    "too few": ([], ValueError),
    "too many": ([(9, 9), (9, 9)], ValueError),
    "a number": (9, TypeError),
    "a text": ("99", TypeError),
    "texts": ([("9", "9")], TypeError),
    "fractions": ([(9.5, 9.5)], TypeError),
    "three numbers": ([(9, 9, 3)], TypeError),
    "nothing": ([None], TypeError),
    "zero": ([(0, 9)], ValueError),
    "negative": ([(-1, 9)], ValueError),
    "65536": ([(65536, 9)], ValueError),
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_wrong_source_sizes(encoder, name):
    sizes, error = WRONG_SIZES[name]
    with pytest.raises(error, match=r"^a source size|^source sizes must be") as caught:
        encoder.encode([IMAGE], sizes)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_right_ones_pass(encoder):
    sizes = [(np.int64(300), 400)]
    assert bitstream.unpack(encoder.encode([IMAGE], sizes)[0]).source_height == 300
    assert encoder.encode([], []) == []


@pytest.mark.parametrize("given", ["text", 7, None, [1, 2], array.array("d", [1.0])])
def test_a_stream_that_is_no_bytes(given):
    with pytest.raises(TypeError, match="bytes"):
        bitstream.unpack(given)
