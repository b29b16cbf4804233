"""The order of the modules (docs/design.md): imports point down, and the rooms never import one another."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEVELS = {
    5: "benchmarks",  # of anything
    4: "eval_PIC eval_PICS pics train_compressai generate_sketches tiny scripts",
    3: "codec evaluation report",  # may use one another
    2: "annotator prompt_inversion models_ntc diffusion colour_codec",  # the rooms
    1: "bitstream text_codec metrics baselines dataloaders presets processes",  # import nothing of ours
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}


def modules() -> list[tuple[str, Path]]:
    """(name in the table, file) of every module of ours."""
    files = [path for name in LEVEL for path in ROOT.glob(f"{name}/**/*.py")] + list(ROOT.glob("*.py"))
    return [(path.relative_to(ROOT).with_suffix("").parts[0], path) for path in files]


def imported(source: str) -> set[str]:
    """First parts of all absolute imports, those inside functions too."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}


def may_import(importer: str, target: str) -> bool:
    sideways = importer == target or LEVEL[importer] == LEVEL[target] == 3
    return sideways or LEVEL[target] < LEVEL[importer]


def test_every_module_has_its_place():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages | {name for name, _ in modules()} <= set(LEVEL)


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(ROOT)} imports {target}"
        for name, path in modules()
        for target in imported(path.read_text(encoding="utf-8")) & set(LEVEL)
        if not may_import(name, target)
    ]
    assert wrong == []


def test_the_rule_itself():
    assert imported("import metrics\ndef f():\n    from codec.x import y\n    from .diffusion import z") == {
        "metrics",
        "codec",
    }
    assert may_import("eval_PICS", "codec") and may_import("evaluation", "codec") and may_import("codec", "diffusion")
    assert not may_import("diffusion", "annotator")
    assert not may_import("bitstream", "text_codec")
    assert not may_import("metrics", "evaluation")
    assert not may_import("pics", "eval_PICS")
