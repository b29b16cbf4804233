"""A page to play with: photographs to a few bytes and back, files opened, edited and saved.

    python demo.py                          # http://127.0.0.1:7860
    python demo.py --preset sd15 --bytes 300

Needs requirements-demo.txt. All work is done on this machine, and the page loads nothing from
elsewhere. Files that visitors left are deleted after an hour.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from allocation.table import LEAST_BYTES
from bitstream import MAX_SEED
from common.device import choose_device
from common.files import complain, printable, reason_of, write
from evaluation.conversion import FAILURES, SPEAKING
from evaluation.flags import DEVICE_HELP, PRESET_HELP, preset
from evaluation.processes import leave

if TYPE_CHECKING:
    import gradio as gr
    import numpy as np

    from demonstration import Shown, Workbench

MOST_BYTES = 1000
WAITING = 64  # visitors in the queue; more are told to come back
UPLOAD = "20mb"
HOUR = 3600  # seconds
PLACE = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT")  # as Hugging Face's Spaces say host and port
BUTTONS = ["download", "fullscreen"]  # not "share", which sends a picture to a stranger's server
FONTS = ["system-ui", "sans-serif"]  # names alone: nothing is fetched
CURE = "the demo needs gradio: pip install -r requirements-demo.txt"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; wrong usage exits with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", type=preset, default="tiny", help=PRESET_HELP)
    parser.add_argument(
        "--bytes",
        type=size,
        default=150,
        help=f"where the slider of bytes begins, {LEAST_BYTES} to {MOST_BYTES} (default: 150)",
    )
    parser.add_argument("--device", help=DEVICE_HELP)
    host, port = (os.environ.get(name) for name in PLACE)
    parser.add_argument("--host", default=host or "127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=port or "7860", help="the port to listen on")
    return parser.parse_args(argv)


def size(text: str) -> int:
    """Parse a position of the slider."""
    if not text.isdecimal() or not LEAST_BYTES <= int(text) <= MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} must be {LEAST_BYTES} to {MOST_BYTES}")
    return int(text)


def in_one_line(gradio: ModuleType, work: Callable) -> Callable:
    """Return `work` with every failure of it as one line on the page."""

    def guarded(*given):
        try:
            return work(*given)
        except FAILURES as error:
            line = printable(reason_of(error, SPEAKING))
            raise gradio.Error(line, print_exception=False) from None

    return guarded


def compress(bench: "Workbench", photo: str | None, budget: int, layers: list[str]) -> tuple:
    """Return what the page shows of a photograph. Raises ValueError without one."""
    if photo is None:
        raise ValueError("no photograph yet: drop one, or pick a sample")
    return displayed(bench.compress(photo, int(budget), layers))


def open_file(bench: "Workbench", file: str | None) -> tuple:
    """Return what the page shows of a .pics file. Raises ValueError without one."""
    if file is None:
        raise ValueError("no file yet: drop a .pics file")
    return displayed(bench.open(file))


def change(
    bench: "Workbench", before: "Shown | None", prompt: str, seed: float, drawn: dict | None, colors
) -> tuple:
    """Return what the page shows of an edited file. Raises ValueError without one."""
    from demonstration import asked_edit

    if before is None:
        raise ValueError("nothing to edit yet: compress a photograph or open a file")
    sketch = drawn["composite"] if drawn else None
    return displayed(bench.change(before, asked_edit(before, prompt, int(seed), sketch, colors)))


def displayed(shown: "Shown") -> tuple:
    """Return the values of the page's parts, in the order of `show_parts` and `edit_parts`."""
    from demonstration import layer_bar

    first = shown.image if shown.original is None else shown.original
    note = "no WebP file is so small" if shown.original is not None else "no original here"
    if shown.webp is not None:
        note = f"WebP, {shown.webp_bytes} bytes"
    return (
        shown,
        (first, shown.image),
        layer_bar(shown.sizes),
        shown.webp,
        note,
        shown.sketch,
        enlarged(shown),
        shown.prompt,
        saved(shown.data),
        shown.prompt,
        shown.seed,
        shown.sketch,
        None,  # the colors of another image have been taken
    )


def enlarged(shown: "Shown") -> "np.ndarray | None":
    """Return the colors sent at the reconstruction's size, each of a map as a square."""
    if shown.color is None:
        return None
    scale = shown.image.shape[0] // shown.color.shape[0]
    return shown.color.repeat(scale, 0).repeat(scale, 1)


def saved(data: bytes) -> str:
    """Return the path of a new .pics file, from which the page copies it."""
    path = Path(tempfile.mkdtemp(prefix="pics_"), "photo.pics")
    write(path, data)
    return str(path)


def build(bench: "Workbench", budget: int) -> "gr.Blocks":
    """Return the page."""
    import gradio as gr

    with gr.Blocks(
        title="Text + Sketch", delete_cache=(HOUR, HOUR), analytics_enabled=False
    ) as page:
        gr.Markdown(
            "# Text + Sketch\nA photograph in a few bytes: words, a sketch, colors. "
            "Nothing leaves the machine that runs this page."
        )
        state = gr.State(None, time_to_live=HOUR)
        tabs = inputs(gr, budget)
        parts = show_parts(gr)
        edits = edit_parts(gr)
        bind(gr, bench, tabs, [state, *parts, *edits[:-1]], edits)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def inputs(gr: ModuleType, budget: int) -> dict:
    """Return the parts where photographs and files come in."""
    from dataloaders import sample_images
    from demonstration import LAYERS

    with gr.Tab("Compress"):
        photo = gr.File(label="Photograph", type="filepath", height=120, elem_id="photo")
        gr.Examples(sample_images(), photo, label="Samples", cache_examples=False)
        slider = gr.Slider(
            LEAST_BYTES, MOST_BYTES, budget, step=1, label="Bytes, at most", elem_id="bytes"
        )
        layers = gr.CheckboxGroup(list(LAYERS), value=list(LAYERS), label="May be sent")
        go = gr.Button("Compress", variant="primary", elem_id="compress")
    with gr.Tab("Open a .pics file"):
        file = gr.File(label=".pics file", type="filepath", height=120, elem_id="file")
        opened = gr.Button("Decode", variant="primary", elem_id="decode")
    return {"compress": (go, [photo, slider, layers]), "open": (opened, [file])}


def show_parts(gr: ModuleType) -> list:
    """Return the parts that show a file."""
    bar = gr.HTML(elem_id="bar")
    with gr.Row():
        wipe = gr.ImageSlider(
            label="Original | reconstruction",
            format="png",
            type="numpy",
            buttons=BUTTONS,
            elem_id="wipe",
        )
        with gr.Column():
            webp = gr.Image(
                label="WebP at the same size", format="png", buttons=BUTTONS, elem_id="webp"
            )
            note = gr.Markdown()
    with gr.Row():
        sketch = gr.Image(
            label="Sketch sent", format="png", buttons=BUTTONS, image_mode="L", elem_id="sketch"
        )
        color = gr.Image(label="Colors sent", format="png", buttons=BUTTONS, elem_id="color")
    prompt = gr.Textbox(label="Prompt sent", interactive=False, elem_id="prompt")
    download = gr.DownloadButton("Download the .pics file", elem_id="download")
    return [wipe, bar, webp, note, sketch, color, prompt, download]


def edit_parts(gr: ModuleType) -> list:
    """Return the parts that change a file: words, seed, sketch, colors, button."""
    with gr.Accordion("Edit", open=True):
        words = gr.Textbox(label="Words", max_length=4096, elem_id="words")
        seed = gr.Number(label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
        brush = gr.Brush(default_color="#ffffff", colors=["#ffffff", "#000000"])
        canvas = gr.ImageEditor(
            label="Draw on the sketch: white is an edge",
            type="numpy",
            image_mode="L",
            format="png",
            brush=brush,
            buttons=BUTTONS,
            elem_id="canvas",
        )
        colors = gr.Image(
            label="Colors of another image", type="numpy", format="png", buttons=BUTTONS
        )
        again = gr.Button("Decode again", variant="primary", elem_id="again")
    return [words, seed, canvas, colors, again]


def bind(gr: ModuleType, bench: "Workbench", tabs: dict, outputs: list, edits: list) -> None:
    """Let the buttons work."""
    works = {"compress": partial(compress, bench), "open": partial(open_file, bench)}
    for name, (button, given) in tabs.items():
        button.click(in_one_line(gr, works[name]), given, outputs, api_name=name)
    words, seed, canvas, colors, again = edits
    edit = in_one_line(gr, partial(change, bench))
    again.click(edit, [outputs[0], words, seed, canvas, colors], outputs, api_name="edit")


def main(argv: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C; 2 for wrong usage, 1 if it cannot be served."""
    args = parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError:
        complain(f"error: {CURE}")
        return 1
    from demonstration import Models, Workbench

    try:
        bench = Workbench(Models(args.preset, choose_device(args.device)))
        page = build(bench, args.bytes)
        theme = gr.themes.Default(font=FONTS, font_mono=["monospace"])
        place = {"server_name": args.host, "server_port": args.port, "share": False}
        page.launch(**place, theme=theme, max_file_size=UPLOAD)
    except ValueError as error:
        complain(f"error: {error}")
        return 2
    except OSError as error:
        complain(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
