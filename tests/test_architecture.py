"""The levels of the modules (docs/design.md): every import leads to a lower level.

python -m pytest tests/test_architecture.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEVELS = {
    6: "benchmarks",
    5: "eval_PIC eval_PICS pics report train_compressai train_controlnet generate_sketches demo "
    "tiny scripts",
    4: "evaluation allocation codec reporting control_training demonstration",
    3: "annotator prompt_inversion models_ntc diffusion color_codec",  # the components
    2: "text_codec metrics presets dataloaders",
    1: "pretrained shards",
    0: "common bitstream",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}
SIDEWAYS = {  # the only ones of one level
    ("evaluation", "allocation"),
    ("evaluation", "codec"),
    ("evaluation", "reporting"),
    ("allocation", "codec"),
    ("train_controlnet", "tiny"),  # the encoder of `tiny`, whose VAE has a decoder alone
    ("demonstration", "allocation"),
    ("demonstration", "codec"),
    ("demonstration", "evaluation"),
}


def modules() -> list[tuple[str, Path]]:
    """(name in the table, file) of every module of ours."""
    files = [path for name in LEVEL for path in ROOT.glob(f"{name}/**/*.py")]
    files += ROOT.glob("*.py")
    return [(path.relative_to(ROOT).with_suffix("").parts[0], path) for path in files]


def imported(source: str) -> set[str]:
    """First parts of all absolute imports, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module)
    return {name.split(".")[0] for name in names}


def may_import(importer: str, target: str) -> bool:
    if importer == target or (importer, target) in SIDEWAYS:
        return True
    return LEVEL[target] < LEVEL[importer]


def test_every_module_has_its_place():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages | {name for name, _ in modules()} <= set(LEVEL)


def test_every_name_in_the_table_exists():
    names = {path.stem for path in ROOT.iterdir() if path.suffix in ("", ".py")}
    assert set(LEVEL) <= names


def test_imports_lead_down():
    wrong = []
    for name, path in modules():
        targets = imported(path.read_text(encoding="utf-8")) & set(LEVEL)
        for target in sorted(targets):
            if not may_import(name, target):
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert wrong == []


def test_imports_are_found_wherever_they_stand():
    source = "import metrics\ndef f():\n    from codec.x import y\n    from .diffusion import z"
    assert imported(source) == {"metrics", "codec"}


def test_the_rule_itself():
    assert may_import("eval_PICS", "codec")
    assert may_import("codec", "diffusion")
    assert may_import("models_ntc", "metrics")
    assert may_import("text_codec", "common")
    for target in ("allocation", "codec", "reporting"):
        assert may_import("evaluation", target)
        assert not may_import(target, "evaluation")
    assert may_import("allocation", "codec") and not may_import("codec", "allocation")
    assert not may_import("reporting", "codec")
    assert not may_import("codec", "reporting")
    assert not may_import("diffusion", "annotator")
    assert not may_import("metrics", "presets")
    assert not may_import("common", "bitstream")
    assert not may_import("pics", "eval_PICS")
