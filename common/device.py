"""The device that a script runs on, chosen once and passed on.

python -c "from common.device import choose_device; print(choose_device(None))"
"""

import sys
import warnings

CURE = (
    "update the GPU's driver, or install a PyTorch for it: "
    "https://pytorch.org/get-started/previous-versions/"
)


def choose_device(name: str | None) -> str:
    """Return the device asked for, or by default a GPU if there is one that works, else "cpu".

    name: "cpu", "cuda" or "cuda:N", or None for the default; then a line on stderr says which one
    it is and why. Raises ValueError for a device that this machine does not have.
    """
    if name == "cpu":
        return name
    gpus, reason = usable_gpus()
    available = ["cpu"]
    if gpus:
        available += ["cuda", *gpus]
    if name is None:
        tell_device(reason)
        return "cuda" if gpus else "cpu"
    if name not in available:
        why = "" if gpus else f" ({reason})"
        raise ValueError(
            f"device {name!r} is not available: this machine has {', '.join(available)}{why}"
        )
    return name


def tell_device(reason: str) -> None:
    """Say on stderr that the default GPU is taken or, for a reason why there is none, the CPU."""
    print(f"device: cpu: {reason}" if reason else f"device: {_title()}", file=sys.stderr)


def usable_gpus() -> tuple[list[str], str]:
    """Return the names of all GPUs, and why there is none if there is none.

    The driver counts GPUs that an older one of it cannot run PyTorch on: they are left out.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        if torch.version.cuda or torch.version.hip:
            return [], "no GPU was found"
        return [], f"PyTorch {torch.__version__} is built without GPUs"
    reason = _refusal()
    if reason:
        return [], f"PyTorch cannot use the GPU ({reason}); {CURE}"
    return [f"cuda:{index}" for index in range(count)], ""


def _refusal() -> str:
    """Return the first sentence of why CUDA does not start, "" if it does."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        # Libraries ask again for a GPU: PyTorch would repeat the reason in many lines.
        warnings.filterwarnings("ignore", message="CUDA initialization")
        text = " ".join(str(error).split())
        return text.split(". ")[0].rstrip(".")
    return ""


def _title() -> str:
    """Return the name of the default GPU, with its product name and memory."""
    import torch

    found = torch.cuda.get_device_properties("cuda")
    return f"cuda: {found.name}, {found.total_memory / 1e9:.0f} GB"
