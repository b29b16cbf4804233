"""eval_PICS.py with an encoder that needs no models.

PYTHONPATH=.:tests python tests/helpers/stub_run.py --data_root PHOTOS --output RUNS

stub(monkeypatch.setattr)
status = run(photos, output, "--seed", "1")
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import bitstream
from codec import Conditions, Encoded
from evaluation import flags, loop, processes, setup
from prompt_inversion.search import PromptConfig
from text_codec.prompt import Prompt

BAD = (255, 0, 0)  # an image of this color cannot be encoded


class StubDecoder:
    """Gives a plain image, in a gray that depends on the whole file."""

    generator = SimpleNamespace(parameters=1000)

    def conditions(self, stream):
        gray = sum(bitstream.pack(stream)) % 256
        sketch = np.full((stream.height, stream.width), gray, np.uint8)
        return Conditions(Prompt((1, 2), "a barn", None), sketch, None)

    def generate(self, each, seeds, height, width):
        return [np.repeat(one.sketch[..., None], 3, axis=2) for one in each]


class StubEncoder:
    """Needs no models; refuses a batch with an image that is all of the color BAD.

    seed: the run's, which changes every file.
    """

    def __init__(self, pause_s=0.0, seed=0, image_s=0.0):
        self.decoder, self.pause_s, self.seed = StubDecoder(), pause_s, seed
        self.image_s = image_s
        self.prompter = SimpleNamespace(search=PromptConfig())
        self.clip = SimpleNamespace(similarity=lambda original, pictures: [0.5] * len(pictures))

    def encode_all(self, images, sizes):
        time.sleep(self.pause_s + self.image_s * len(images))
        bad = [image for image in images if (image == BAD).all()]
        if bad:
            raise ValueError(f"{len(bad)} red\npictures")
        return [self._encode(image, size) for image, size in zip(images, sizes, strict=True)]

    def _encode(self, image, size):
        (height, width), tint = image.shape[:2], int(image.mean())
        text, sketch = bytes([tint, tint, (tint + self.seed) % 256]), bytes(9)
        sizes = (size[1], size[0], width, height)
        stream = bitstream.Stream(4097, *sizes, seed=tint % 4, text=text, sketch=sketch)
        return Encoded(bitstream.pack(stream), (1, 2), 0.25, image[..., 1], (0.5, 0.25))


def stub(setattr_, pause_s=0.0, image_s=0.0):
    """Put the stubs in place, by `monkeypatch.setattr` or `setattr`."""
    setattr_(processes, "choose_device", lambda _: "cpu")
    setattr_(
        setup,
        "load_encoder",
        lambda preset, config, *_: StubEncoder(pause_s, config.prompt.seed, image_s),
    )


def arguments(photos: Path, output: Path, *more: str) -> list[str]:
    return ["--data_root", str(photos), "--output", str(output), "--metrics", "psnr,color", *more]


def script_args(argv):
    parser = flags.parser(__doc__)
    parser.add_argument("--lam_sketch")
    return parser.parse_args(argv)


def run(photos: Path, output: Path, *more: str) -> int:
    """Run in this process, with the stubs in place; return the exit status."""
    return loop.evaluate(script_args(arguments(photos, output, *more)), "PICS")


if __name__ == "__main__":
    stub(setattr, pause_s=0.05)
    sys.exit(loop.evaluate(script_args(sys.argv[1:]), "PICS"))
