"""The page of demo.py: its parts, and what they do.

Page(Workbench(Models(get_preset("tiny"), "cpu")), 150, 1000).blocks.launch()
"""

import html
import re
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from allocation.table import LEAST_BYTES
from bitstream import MAX_SEED
from codec import Edit
from common.files import load_image, printable, reason_of, write
from dataloaders import sample_images
from demonstration.bars import layer_bar
from demonstration.workbench import LAYERS, Shown, Workbench, painted, to_gray
from evaluation.conversion import FAILURES, SPEAKING

MOST_LETTERS = 4096  # of a prompt, as in text_codec
WAITING = 64  # visitors in the queue; more are told to come back
HOUR = 3600  # seconds
BUTTONS = ["download", "fullscreen"]  # not "share", which sends a picture to a stranger's server
INTRODUCTION = """# Text + Sketch
A photograph in a few bytes: words, a sketch, colors; a model paints the rest.
Nothing leaves the machine that runs this page."""
CSS = """
#pictures {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
}
#webp img, #sketch img, #color img { width: 100%; height: auto; }
"""
ORIGINAL = "Original | reconstruction"
HIDDEN = {"api_visibility": "private"}


class Page:
    """What Gradio serves, `blocks`, and its parts.

    budget, most: where the slider of bytes begins, and where it ends.
    """

    def __init__(self, bench: Workbench, budget: int, most: int):
        self.bench = bench
        with gr.Blocks(
            title="Text + Sketch", delete_cache=(HOUR, HOUR), analytics_enabled=False
        ) as self.blocks:
            gr.Markdown(INTRODUCTION)
            self.state = gr.State(None, time_to_live=HOUR)  # a Shown
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._add_inputs(budget, most)
                right = gr.Column(scale=5, min_width=320)
                with right, gr.Column(visible=False) as self.results:
                    self._add_pictures()
                    self._add_edits()
            self._bind()
        self.blocks.queue(max_size=WAITING)

    # ---- parts

    def _add_inputs(self, budget: int, most: int) -> None:
        with gr.Tab("Compress"):
            self.photo = gr.File(label="Photograph", type="filepath", height=120, elem_id="photo")
            self.samples = gr.Dataset(
                label="Or a sample",
                components=["image"],
                samples=[[path] for path in sample_images()],
                type="index",
                elem_id="samples",
            )
            self.budget = gr.Slider(
                LEAST_BYTES, most, budget, step=1, label="Bytes, at most", elem_id="bytes"
            )
            self.layers = gr.CheckboxGroup(
                list(LAYERS), value=list(LAYERS), label="May be sent", elem_id="layers"
            )
            self.compress = gr.Button("Compress", variant="primary", elem_id="compress")
        with gr.Tab("Open a .pics file"):
            self.file = gr.File(label=".pics file", type="filepath", height=120, elem_id="file")
            self.open = gr.Button("Decode", variant="primary", elem_id="decode")

    def _add_pictures(self) -> None:
        self.bar = gr.HTML(elem_id="bar")
        look = {"format": "png", "buttons": BUTTONS}
        with gr.Row(elem_id="pictures"):
            self.wipe = gr.ImageSlider(elem_id="wipe", **look)
            self.webp = gr.Image(elem_id="webp", **look)
            self.sketch = gr.Image(label="Sketch sent", elem_id="sketch", image_mode="L", **look)
            self.color = gr.Image(label="Colors sent", elem_id="color", **look)
        self.download = gr.DownloadButton("Download the .pics file", elem_id="download")

    def _add_edits(self) -> None:
        gr.Markdown("## Edit the file")
        with gr.Tab("Words"):
            self.words = gr.Textbox(
                label="Prompt sent", placeholder="none", max_length=MOST_LETTERS, elem_id="words"
            )
            self.seed = gr.Number(
                label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed"
            )
        with gr.Tab("Sketch", elem_id="sketch-tab"):
            black_and_white = gr.Brush(2, ["#ffffff", "#000000"], color_mode="fixed")
            self.canvas = _canvas("Draw: white is an edge, black is none", black_and_white)
        with gr.Tab("Colors", elem_id="color-tab"):
            self.paint = _canvas("Paint over the colors", gr.Brush(default_size=24))
            self.donor = gr.File(
                label="Or take the colors of another image",
                type="filepath",
                height=120,
                elem_id="donor",
            )
        self.again = gr.Button("Decode again", variant="primary", elem_id="again")

    def _bind(self) -> None:
        """Let the parts work, one visitor at a time."""
        given = [self.photo, self.budget, self.layers]
        shown = {"outputs": self._outputs(), "concurrency_id": "models", "concurrency_limit": 1}
        compress, edit = _guarded(self._compress), _guarded(self._change)
        self.compress.click(compress, given, api_name="compress", **shown)
        self.samples.click(_sample, self.samples, self.photo, **HIDDEN).then(
            compress, given, **shown, **HIDDEN
        )
        changes = [self.photo.upload, self.budget.release, self.layers.input]
        gr.on(
            changes,
            _guarded(self._follow),
            given,
            trigger_mode="always_last",
            **shown,
            **HIDDEN,
        )
        self.open.click(_guarded(self._open), [self.file], api_name="open", **shown)
        self.file.upload(_guarded(self._open), [self.file], **shown, **HIDDEN)
        asked = [self.state, self.words, self.seed, self.canvas, self.paint, self.donor]
        self.again.click(edit, asked, api_name="edit", **shown)
        self.words.submit(edit, asked, **shown, **HIDDEN)

    def _outputs(self) -> list:
        pictures = [self.wipe, self.webp, self.sketch, self.color]
        edits = [self.words, self.seed, self.canvas, self.paint, self.donor]
        return [self.state, self.results, self.bar, *pictures, self.download, *edits]

    # ---- what they do

    def _compress(self, photo: str | None, budget: int, layers: list[str]) -> dict:
        """Show a photograph. Raises ValueError without one."""
        if photo is None:
            raise ValueError("no photograph yet: drop one, or pick a sample")
        shown = self.bench.compress(photo, int(budget), layers)
        return self._displayed(shown, ORIGINAL, shown.original)

    def _follow(self, photo: str | None, budget: int, layers: list[str]):
        """Show a photograph again after the slider or a switch has moved."""
        return gr.skip() if photo is None else self._compress(photo, budget, layers)

    def _open(self, file: str | None) -> dict:
        """Show a .pics file. Raises ValueError without one."""
        if file is None:
            raise ValueError("no file yet: drop a .pics file")
        shown = self.bench.open(file)
        return self._displayed(shown, "Reconstruction", shown.image)  # nothing to compare with

    def _change(self, before: Shown | None, words, seed, canvas, paint, donor) -> dict:
        """Show an edited file. Raises ValueError without one."""
        if before is None:
            raise ValueError("nothing to edit yet: compress a photograph or open a file")
        sketch = painted(canvas)
        asked = Edit(
            words if words != before.prompt else None,
            None if sketch is None else to_gray(sketch),
            painted(paint) if donor is None else load_image(donor),
            int(seed) if seed != before.seed else None,
        )
        shown = self.bench.change(before, asked)
        if shown.original is None:
            return self._displayed(shown, "Before the edit | after", before.image)
        return self._displayed(shown, ORIGINAL, shown.original)

    def _displayed(self, shown: Shown, label: str, left: np.ndarray) -> dict:
        """Return the values of the page's parts; label: of the wipe, left: its other picture."""
        webp = f"WebP, {shown.webp_bytes} bytes" if shown.webp_bytes else "No WebP is so small"
        return {
            self.state: shown,
            self.results: gr.update(visible=True),
            self.bar: layer_bar(shown.sizes),
            self.wipe: gr.update(value=(left, shown.image), label=label),
            self.webp: gr.update(value=shown.webp, label=webp, visible=shown.original is not None),
            self.sketch: gr.update(value=shown.sketch, visible=shown.sketch is not None),
            self.color: gr.update(value=shown.enlarged_color, visible=shown.color is not None),
            self.download: saved(shown.data),
            self.words: shown.prompt,
            self.seed: shown.seed,
            self.canvas: _background(shown.drawable_sketch),
            self.paint: _background(shown.paintable_color),
            self.donor: None,
        }


def _canvas(label: str, brush: gr.Brush) -> gr.ImageEditor:
    """Return a part to paint on a picture, and nothing else: no other picture gets there."""
    return gr.ImageEditor(
        label=label,
        format="png",
        brush=brush,
        sources=(),
        transforms=(),
        layers=False,
        buttons=BUTTONS,
    )


def _background(picture: np.ndarray) -> dict:
    """Return a picture as one that nothing was painted on yet."""
    return {"background": picture, "layers": [], "composite": None}


def _sample(number: int) -> str:
    return sample_images()[number]


def _guarded(work: Callable) -> Callable:
    """Return `work` with every failure of it as one line on the page."""

    @wraps(work)
    def guarded(*given):
        try:
            return work(*given)
        except FAILURES as error:
            raise gr.Error(line_of(error), print_exception=False) from None

    return guarded


def line_of(error: Exception) -> str:
    """Return what the page says of a failure, as HTML, without the folder of uploads."""
    uploads = re.escape(get_upload_folder())
    return html.escape(re.sub(rf"{uploads}/\w*/", "", printable(reason_of(error, SPEAKING))))


def saved(data: bytes) -> str:
    """Return the path of a .pics file among the uploads, where Gradio serves and deletes it."""
    path = Path(get_upload_folder(), sha256(data).hexdigest(), "photo.pics")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)
    return str(path)
