"""Publish a bundle or a ControlNet's folder on the Hugging Face hub, with its card.

    python scripts/push_to_hub.py runs/my_controlnet owner/name --dry_run
    python scripts/push_to_hub.py runs/my_controlnet owner/name

The folder's README.md is the card: its YAML front matter names license and base. Hidden files stay
here, and code or pickled weights are refused. The token is that of `hf auth login`.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python scripts/push_to_hub.py` finds the project

from common.files import complain, printable, read_json, say  # noqa: E402
from pretrained.model_folders import check_folder  # noqa: E402

PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, help="folder with preset.json or config.json, and README.md")
    add("repository", metavar="owner/name", help="repository of the hub; made if there is none")
    add("--private", action="store_true", help="make the repository private")
    add("--dry_run", action="store_true", help="print what would be sent, and send nothing")
    args = parser.parse_args(argv)
    if args.repository.count("/") != 1 or not all(args.repository.split("/")):
        parser.error(f"{printable(args.repository)}: name the repository as owner/name")
    return args


def files_of(folder: Path) -> list[Path]:
    """Return the files that are sent, relative to the folder.

    Raises ValueError for a folder that must not be published, OSError for one that cannot be read.
    """
    check_folder(folder)
    files = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            files.append(inside)
    pickled = [path for path in files if path.suffix in PICKLED]
    if pickled:
        raise ValueError(f"{printable(pickled[0])}: only .safetensors weights are published")
    if not any(path.name in ("preset.json", "config.json") for path in files):
        raise ValueError(f"{printable(folder)} holds neither preset.json nor config.json")
    check_preset(folder / "preset.json")
    return files


def check_preset(file: Path) -> None:
    """Raise ValueError if a preset.json names models on this machine: nobody else has them."""
    for name, value in read_json(file, {}).items():
        for source in value if isinstance(value, list) else [value]:
            if isinstance(source, str) and Path(source).is_absolute():
                raise ValueError(
                    f"preset.json: {name} is the folder {printable(source)} of this machine: "
                    "name a model of the hub"
                )


def front_matter(folder: Path) -> str:
    """Return the YAML of the card. Raises ValueError without a card or a license in it."""
    from huggingface_hub import ModelCard

    file = folder / "README.md"
    if not file.is_file():
        raise ValueError(f"{printable(folder)} holds no README.md, the card")
    data = ModelCard.load(file).data
    if not data.license:
        raise ValueError("README.md: its front matter names no license")
    return data.to_yaml()


def main(argv: list[str] | None = None) -> int:
    """Send the folder, or print what would be sent.

    Return 0 when done, 1 when the hub refused or did not answer, 2 for wrong usage.
    """
    args = parse_args(argv)
    try:
        files = files_of(args.folder)
        yaml = front_matter(args.folder)
    except (OSError, ValueError) as error:
        complain(f"push_to_hub.py: {error}")
        return 2
    if args.dry_run:
        say(f"to {args.repository}:")
        for path in files:
            say(f"{(args.folder / path).stat().st_size:>13,}  {path.as_posix()}")
        say(yaml)
        return 0
    return send(args, [path.as_posix() for path in files])


def send(args: argparse.Namespace, names: list[str]) -> int:
    """Make the repository and send the files in one commit. Return the exit status."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(args.repository, private=args.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=args.repository, folder_path=args.folder, allow_patterns=names
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        complain(f"push_to_hub.py: {args.repository}: {' '.join(str(error).split())}")
        return 1
    say(commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
