"""The folder of a trained ControlNet: weights in diffusers' layout, preset.json, README.md.

    write_result(controlnet, preset, "sd21", Path("runs/my_controlnet"), facts)

`--preset FOLDER` takes it, `scripts/push_to_hub.py FOLDER owner/name` publishes it.
"""

import dataclasses
import json
from pathlib import Path

from common.files import read_json, write
from presets import PRESETS, Preset

# Of the bases; those of other rows are for whoever publishes the folder to name.
LICENSES = {
    "tiny": "mit",
    "sd15": "creativeml-openrail-m",
    "sd21": "openrail++",
    "sdxl": "openrail++",
    "zimage": "apache-2.0",
    "qwen": "apache-2.0",
}
CARD = """---
{front}---

# A ControlNet for decoded sketches

This ControlNet of [Text + Sketch](https://github.com/leieric/Text-Sketch) was trained on sketches
as a decoder gets them: compressed to a few bytes and decoded again. Its base is the text-to-image
model of preset `{base}`.

    python eval_PICS.py --preset FOLDER        # this folder

{facts}
Errors are mean squared errors of the prediction on the photographs held out, with the same noise
before and after training.
"""


def base_name(given: str) -> str:
    """Return the row of the presets' table that a `--preset` starts from."""
    if given in PRESETS:
        return given
    return read_json(Path(given).expanduser() / "preset.json")["base"]


def preset_json(preset: Preset, base: str) -> dict:
    """Return preset.json of a ControlNet for `preset`: what differs from the row `base`.

    The ControlNet is the folder itself, ".".
    """
    changes = {"base": base}
    for field in dataclasses.fields(Preset):
        value = getattr(preset, field.name)
        if field.name in ("name", "number") or value == getattr(PRESETS[base], field.name):
            continue
        changes[field.name] = list(value) if isinstance(value, tuple) else value
    return changes | {"controlnet": ".", "control": preset.control}


def card(preset: Preset, base: str, facts: dict) -> str:
    """Return the model card. facts: lines of its table, {what: value}."""
    from huggingface_hub import ModelCardData

    bases = [source.partition("@")[0] for source in preset.generator if not Path(source).exists()]
    front = ModelCardData(
        license=LICENSES.get(base),
        library_name="diffusers",
        base_model=bases[:1] or None,
        tags=["controlnet", "text-sketch", "image-compression"],
    )
    lines = ["| | |", "|---|---|"]
    for what, value in facts.items():
        lines.append(f"| {what} | {value} |")
    table = "\n".join(lines) + "\n"
    return CARD.format(front=front.to_yaml() + "\n", base=base, facts=table)


def write_result(controlnet, preset: Preset, base: str, folder: Path, facts: dict) -> None:
    """Write the folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    controlnet.register_to_config(_name_or_path="")  # the folder on this machine is of no interest
    controlnet.save_pretrained(folder)
    content = json.dumps(preset_json(preset, base), indent=1) + "\n"
    write(folder / "preset.json", content.encode())
    write(folder / "README.md", card(preset, base, facts).encode())
