"""Measure the page of demo.py as a visitor's browser sees it: waiting times, and memory over time.

    python benchmarks/demo.py                    # some 5 minutes on 2 cores
    python benchmarks/demo.py --requests 20

A page with the preset `tiny` is served in a process of its own, and asked over HTTP by one visitor.
"compress": from a new number of bytes to the picture, with 2 candidates; "edit": from new words to
the picture; both in seconds, medians over all requests. "memory": MiB that the server holds after
the first tenth of the requests, and at the end. Needs requirements-demo.txt and psutil. The last
line on stdout is JSON.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

# So that `python benchmarks/demo.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.files import ROOT
from dataloaders import sample_images

PATIENCE = 120  # seconds until a page is served or has ended
NO_PAINTING = {"background": None, "layers": [], "composite": None}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200, help="requests, half of them edits")
    return parser.parse_args(argv)


@contextlib.contextmanager
def served(
    flags: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[str, int]]:
    """Serve the page in a process of its own; yield its address and the number of the process.

    Raises RuntimeError if it does not begin, or does not end with status 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "demo.py", "--port", str(port), *flags]
    quiet = {"stdout": subprocess.DEVNULL, "env": dict(environment)}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE)
    if status:
        raise RuntimeError(f"the page ended with status {status}")


def _wait_for(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the page is not served")


def measure(address: str, process: int, requests: int) -> dict:
    """Compress and edit in turn, and return the figures."""
    import psutil
    from gradio_client import Client, handle_file

    server = psutil.Process(process)
    client = Client(address, verbose=False, download_files=False)
    photo = handle_file(sample_images()[0])
    times: dict[str, list[float]] = {"compress": [], "edit": []}
    memory = []
    for number in range(requests // 2):
        budget = 100 + number % 200
        began = time.perf_counter()
        client.predict(photo, budget, ["text", "sketch", "color"], api_name="/compress")
        times["compress"].append(time.perf_counter() - began)
        edit = f"a red barn {number}", number, NO_PAINTING, NO_PAINTING, None
        began = time.perf_counter()
        client.predict(*edit, api_name="/edit")
        times["edit"].append(time.perf_counter() - began)
        memory.append(server.memory_info().rss / 2**20)
        print(f"{number + 1} of {requests // 2}", end="\r", file=sys.stderr)
    return {
        "requests": requests,
        **{name: round(median(seconds), 2) for name, seconds in times.items()},
        "longest": {name: round(max(seconds[1:]), 2) for name, seconds in times.items()},
        "memory": [round(memory[len(memory) // 10]), round(memory[-1])],
    }


def main(argv: list[str] | None = None) -> int:
    """Serve, ask, print the figures."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TMPDIR": folder}
        with served(environment=environment) as (address, process):
            figures = measure(address, process, args.requests)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
