"""The stubs of stub_run in the actors of Ray Data.

status = run(photos, output, "--batch_size", "2")

STUB_PAUSE_S, STUB_IMAGE_S, STUB_METRICS_S: seconds a batch, an image, and measuring it take.
STUB_THREADS: the work after the models' goes on beside them in so many threads, as with a GPU.
STUB_SEEN: a file that gets the node of each batch.
"""

import os
import signal
import time
from pathlib import Path

from evaluation import cluster_run
from evaluation.evaluator import Evaluator
from evaluation.timing import Stopwatch
from helpers.stub_run import StubEncoder, arguments, script_args
from metrics import MetricSet, Tools

DEADLY = (0, 255, 0)  # an image of this color kills its worker


class DeadlyEncoder(StubEncoder):
    """Dies of an image of the color DEADLY."""

    def encode_all(self, images, sizes):
        for image in images:
            if (image == DEADLY).all():
                os.kill(os.getpid(), signal.SIGKILL)
        if "STUB_SEEN" in os.environ:
            import ray

            with Path(os.environ["STUB_SEEN"]).open("a") as file:
                file.write(f"{ray.get_runtime_context().get_node_id()}\n")
        return super().encode_all(images, sizes)


class SlowMetrics(MetricSet):
    """Sleeps before it measures."""

    def measure(self, *images):
        time.sleep(float(os.environ.get("STUB_METRICS_S", "0")))
        return super().measure(*images)


def load(args, method, device):
    if "STUB_THREADS" in os.environ:
        cluster_run.threads_for = lambda *_: int(os.environ["STUB_THREADS"])
    metrics = SlowMetrics(args.metrics, Tools(device=device))
    pause_s, image_s = (float(os.environ.get(f"STUB_{of}_S", "0")) for of in ("PAUSE", "IMAGE"))
    encoder = DeadlyEncoder(pause_s, args.seed, image_s)
    return Evaluator(encoder, metrics, {}, Stopwatch(), device, keep=args.keep)


def run(photos, output, *more, device=("--device", "cpu")):
    """Run on a Ray of this machine, or that which is there; the exit status."""
    argv = arguments(photos, output, "--engine", "ray", *device, *more)
    return cluster_run.evaluate(script_args(argv), "PICS", load)
