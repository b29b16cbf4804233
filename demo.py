"""A page to play with: photographs to a few bytes and back, files opened, edited and saved.

    python demo.py                          # http://127.0.0.1:7860
    python demo.py --preset sd15 --bytes 300

Needs requirements-demo.txt. All work is done on this machine, and the page loads nothing from
elsewhere. Files that visitors left are deleted after an hour and at the end.
"""

import argparse
import os
import signal
import tempfile

from allocation.table import LEAST_BYTES
from common.device import choose_device
from common.files import complain
from evaluation.flags import DEVICE_HELP, PRESET_HELP, preset
from evaluation.processes import leave

MOST_BYTES = 1000
UPLOAD = "20mb"
SESSIONS = 64  # visitors whose last file is kept in memory
PLACE = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT")  # as Hugging Face's Spaces say host and port
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


def serve(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C. Raises ValueError for settings, OSError for address or port."""
    import gradio as gr

    from dataloaders import sample_images
    from demonstration import Models, Workbench
    from demonstration.page import CSS, Page

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    page = Page(Workbench(Models(args.preset, choose_device(args.device))), args.bytes, MOST_BYTES)
    page.blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        allowed_paths=sample_images(),
        max_file_size=UPLOAD,
        state_session_capacity=SESSIONS,
        run_history=False,
        footer_links=["api", "gradio"],
        theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
        css=CSS,
    )


def main(argv: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C; 2 for wrong usage, 1 if it cannot be served."""
    args = parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        with tempfile.TemporaryDirectory(prefix="pics_demo_") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # before gradio is imported
            serve(args)
    except ImportError:
        complain(f"error: {CURE}")
        return 1
    except ValueError as error:
        complain(f"error: {error}")
        return 2
    except OSError as error:
        complain(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
