"""Measure what a photograph costs on a GPU with models of the sizes of `sd21`.

    python benchmarks/gpu.py                    # batches of 1 and 8, compiled or not; half an hour
    python benchmarks/gpu.py --small            # the same code on a CPU, with models too small to
                                                # say anything: for tests

Weights are random (`random_models.py`), which does not change the speed; photographs are noise of
512x768 pixels. Each run is `eval_PICS.py` in this process. Its first batch, which compiles and
warms up, does not count:

    seconds       of each stage for a photograph; stages overlap
    a_minute      photographs, by the clock
    gpu_busy      part of that time in which the GPU was at work, sampled by nvidia-smi
    memory_gpu    peak bytes of tensors on the GPU

The paper's loop, plainly restated, is timed in the same process: 3,000 steps of the published
prompt search (a part of them is taken, and the time multiplied), N pictures drawn with the stock
pipeline by the encoder and once more by the decoder, one model on the GPU at a time. Its annotator,
sketch codec and metrics are not counted. The last line on stdout is JSON; without a GPU it says
"not measured: no GPU".
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import fmean

# So that `python benchmarks/gpu.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from presets import Preset, get_preset
from reporting.rows import RECORD

PAPER_STEPS = 3000  # of the published prompt search
PAPER_TIMES = 2  # N pictures are drawn by the encoder and by the decoder
SAMPLING_SECONDS = 0.5  # between two looks at the GPU
NOISE_PIXELS = 16  # side of a square of one color


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch_sizes", type=int, nargs="+", default=(1, 8), help="sizes of batches to measure")
    add("--batches", type=int, default=4, help="batches of a run; the first does not count")
    add("--paper_steps", type=int, default=100, help="steps of the published search to time")
    add("--small", action="store_true", help="small models on the CPU, for tests")
    return parser.parse_args(argv)


# ---- the runs


def photographs(folder: Path, count: int, short_side: int) -> Path:
    """Write `count` pictures of noise, 2:3; return the folder."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    shape = (short_side // NOISE_PIXELS, short_side * 3 // 2 // NOISE_PIXELS, 3)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        size = (shape[1] * NOISE_PIXELS, shape[0] * NOISE_PIXELS)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04}.png")
    return folder


class GpuWatch:
    """Samples in a thread how busy the GPU is, where nvidia-smi can tell."""

    QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i0")

    def __init__(self):
        self.samples: list[tuple[float, float]] = []  # (seconds since the epoch, 0..1)
        self._end = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SAMPLING_SECONDS):
            try:
                answer = subprocess.run(self.QUERY, capture_output=True, text=True, check=True)
                self.samples.append((time.time(), float(answer.stdout) / 100))
            except (OSError, subprocess.CalledProcessError, ValueError):
                return

    def busy(self, begun: float, ended: float) -> float | None:
        """Return the mean between two times; None if nothing was sampled."""
        within = [busy for moment, busy in self.samples if begun <= moment <= ended]
        return round(fmean(within), 3) if within else None


def evaluate(row: Path, home: Path, batch: int, batches: int, flags: list[str]) -> dict:
    """Run eval_PICS.py in this process on `batches` batches; return what a photograph cost."""
    import eval_PICS

    name = "_".join(["run", str(batch), *flags]).replace("-", "")
    folder = photographs(home / f"{name}_images", batch * batches, get_preset(row).short_side)
    argv = ["--data_root", str(folder), "--preset", str(row), "--output", str(home / name)]
    with GpuWatch() as watch, contextlib.redirect_stdout(sys.stderr):
        status = eval_PICS.main([*argv, "--batch_size", str(batch), *flags])
    if status:
        raise RuntimeError(f"eval_PICS.py ended with status {status}")
    (run,) = (home / name).iterdir()
    free()
    return cost_of(run, batch, watch)


def free() -> None:
    """Give back the memory of the models of a run."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cost_of(run: Path, batch: int, watch: GpuWatch) -> dict:
    """Return what a photograph of a finished run cost, after its first batch."""
    with (run / "results.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    moments = [(run / f"{record['name']}{RECORD}").stat().st_mtime for record in records]
    begun, ended = max(moments[:batch]), max(moments)
    counted = records[batch:]
    seconds = {}
    for stage in counted[0]["seconds"]:
        seconds[stage] = round(fmean(record["seconds"][stage] for record in counted), 4)
    return {
        "photographs": len(counted),
        "seconds": seconds,
        "a_minute": round(60 * len(counted) / max(ended - begun, 1e-6), 2),
        "gpu_busy": watch.busy(begun, ended),
        "memory_gpu": max(record["memory"].get("gpu", 0) for record in counted) or None,
    }


# ---- the paper's loop


def paper_loop(row: Preset, device: str, steps: int) -> dict:
    """Return the seconds that the paper's loop takes for a photograph."""
    import numpy as np

    shape = (row.short_side, row.short_side * 3 // 2, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    prompt = paper_search(row, image, device, steps)
    free()
    drawing = paper_drawing(row, image, device)
    free()
    return {
        "steps_timed": steps,
        "seconds": {"prompt": round(prompt, 3), "drawing": round(drawing, 3)},
        "a_minute": round(60 / (prompt + drawing), 3),
    }


def paper_search(row: Preset, image, device: str, steps: int) -> float:
    """Return the seconds of the published search of one image; the first step warms up."""
    from benchmarks.published_search import PublishedLoop, timed_steps
    from prompt_inversion.clip import load_clip

    clip = load_clip(row.clip, device)
    loop = PublishedLoop(clip.image_features([image]), clip)
    seconds, _ = timed_steps(loop, steps + 1)
    return PAPER_STEPS * fmean(seconds[1:])


def paper_drawing(row: Preset, image, device: str) -> float:
    """Return the seconds of N pictures drawn twice by the stock pipeline, after a first drawing."""
    import diffusers
    import torch
    from PIL import Image

    controlnet = diffusers.ControlNetModel.from_pretrained(row.controlnet[0])
    pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        row.generator[0], controlnet=controlnet
    )
    pipeline.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if device != "cpu":
        pipeline.to(dtype=torch.float16)
        pipeline.enable_model_cpu_offload(device=device)
    seconds = []
    for _ in range(1 + PAPER_TIMES):
        begun = time.perf_counter()
        pipeline(
            "a barn" + row.suffix,
            image=Image.fromarray(image),
            negative_prompt=row.negative_prompt,
            num_images_per_prompt=row.candidates,
            num_inference_steps=row.steps,
            guidance_scale=row.guidance,
        )
        seconds.append(time.perf_counter() - begun)
    return sum(seconds[1:])


# ---- all of it


def measure(args: argparse.Namespace, device: str, home: Path) -> dict:
    """Return the costs of all runs and of the paper's loop."""
    from benchmarks.random_models import make_preset

    folder = make_preset(home / "random", "small" if args.small else "full", device)
    kinds = {"": ["--device", device]}
    if device != "cpu":
        kinds[", compiled"] = ["--device", device, "--compile"]
    runs = {}
    for batch in args.batch_sizes:
        for kind, flags in kinds.items():
            runs[f"batch {batch}{kind}"] = evaluate(folder, home, batch, args.batches, flags)
    paper = paper_loop(get_preset(folder), device, args.paper_steps)
    faster = {name: round(run["a_minute"] / paper["a_minute"], 1) for name, run in runs.items()}
    return {"runs": runs, "paper": paper, "times_as_fast_as_the_paper": faster}


def main(argv: list[str] | None = None) -> int:
    """Print a line for each run, and all of them as JSON."""
    args = parse_args(argv)
    import torch

    if not args.small and not torch.cuda.is_available():
        print("not measured: no GPU")
        print(json.dumps({"not measured": "no GPU"}))
        return 0
    device = "cpu" if args.small else "cuda"
    name = "CPU, small models" if args.small else torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as home:
        found = measure(args, device, Path(home))
    for run, cost in (found["runs"] | {"the paper's loop": found["paper"]}).items():
        print(run, *(f"{kind} {value}" for kind, value in cost.items()))
    print(json.dumps({"device": name, "torch": torch.__version__, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
