"""The device that a script runs on, chosen once and passed on.

python -c "from common.device import choose_device; print(choose_device(None))"
"""


def choose_device(name: str | None) -> str:
    """Return the device asked for, or by default a GPU if there is one, else "cpu".

    name: "cpu", "cuda" or "cuda:N", or None for the default. Raises ValueError for a device that
    this machine does not have.
    """
    import torch

    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    available = ["cpu"]
    if gpus:
        available += ["cuda", *gpus]
    if name is None:
        return "cuda" if gpus else "cpu"
    if name not in available:
        raise ValueError(
            f"device {name!r} is not available: this machine has {', '.join(available)}"
        )
    return name
