"""Models that take turns on a GPU, for cards that cannot hold all of them at once.

    turns = Turns("cuda")
    turns.add("vae", pipeline.vae)      # moves it to the CPU
    pipeline.vae.decode(latents)        # it comes to the GPU by itself; other groups leave it

The same as `enable_model_cpu_offload` of diffusers, for several pipelines that share models and for
models that belong to no pipeline. The hooks are accelerate's.
"""

import torch
from accelerate.hooks import ModelHook, add_hook_to_module


class Turns:
    """Groups of models, of which one is on `device` and all others are on the CPU.

    One thread at a time may use the models.
    """

    def __init__(self, device: str | torch.device):
        self.device = torch.device(device)
        self._groups: dict[str, list[torch.nn.Module]] = {}
        self._present: str | None = None

    def add(self, group: str, model: torch.nn.Module) -> None:
        """Let a model wait on the CPU, and come with its group when it is called.

        A model of diffusers comes for `encode` and `decode`, too.
        """
        self._groups.setdefault(group, []).append(model)
        self._leave(model)
        self._present = None  # the next call brings this model, too
        add_hook_to_module(model, _Comes(self, group))

    def take(self, group: str) -> None:
        """Bring the models of a group to the device, after all others have left it."""
        if group == self._present:
            return
        for other, models in self._groups.items():
            if other != group:
                self._each(models, self._leave)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._each(self._groups[group], self._come)
        self._present = group

    def _each(self, models, move) -> None:
        for model in models:
            move(model)

    def _come(self, model: torch.nn.Module) -> None:
        model.to(self.device)

    def _leave(self, model: torch.nn.Module) -> None:
        model.to("cpu")


class _Comes(ModelHook):
    """Brings a model before it is called; diffusers asks it for the device of the inputs."""

    def __init__(self, turns: Turns, group: str):
        self.turns, self.group = turns, group
        self.execution_device = turns.device

    def pre_forward(self, module, *args, **kwargs):
        """Bring the group of the model."""
        self.turns.take(self.group)
        return args, kwargs
