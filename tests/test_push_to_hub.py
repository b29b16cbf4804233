"""Publishing a folder on the hub: what would be sent, and what is refused. Nothing is sent.

python -m pytest tests/test_push_to_hub.py
"""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from scripts import push_to_hub

CARD = "---\nlicense: mit\ntags:\n- controlnet\n---\n\n# A card\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", "controlnet": "."}))
    (folder / "weights.safetensors").write_bytes(bytes(1234))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden").write_text("")
    return folder


class Hub:
    """Stands for HfApi: remembers what it is asked for."""

    calls: list[tuple[str, dict]]

    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def create_repo(self, name, **more):
        self.calls.append((name, more))

    def upload_folder(self, **more):
        if self.fails:
            raise OSError("no\nnetwork")
        self.calls.append(("files", more))
        return "a commit"


def test_a_dry_run_prints_what_would_be_sent(folder, monkeypatch, capsys):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert push_to_hub.main([str(folder), "me/model", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "to me/model:" in printed and "1,234  weights.safetensors" in printed
    assert "license: mit" in printed and "hidden" not in printed
    assert hub.calls == []


def test_the_files_are_sent_in_one_commit(folder, monkeypatch, capsys):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert push_to_hub.main([str(folder), "me/model", "--private"]) == 0
    made, sent = hub.calls
    assert made == ("me/model", {"private": True, "exist_ok": True})
    assert sent[1]["allow_patterns"] == ["README.md", "preset.json", "weights.safetensors"]
    assert capsys.readouterr().out == "a commit\n"


def test_a_hub_that_does_not_answer_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(fails=True))
    assert push_to_hub.main([str(folder), "me/model"]) == 1
    assert capsys.readouterr().err == "push_to_hub.py: me/model: no network\n"
    assert issubclass(HfHubHTTPError, OSError)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.pt", "", "state.pt: only .safetensors"),
        ("run.py", "", "must hold no code"),
        ("README.md", "# none", "names no license"),
        ("preset.json", '{"base": "tiny", "generator": ["/models/mine"]}', "/models/mine of this"),
    ],
)
def test_what_must_not_be_published(folder, file, content, message, capsys):
    (folder / file).write_text(content)
    assert push_to_hub.main([str(folder), "me/model", "--dry_run"]) == 2
    assert message in capsys.readouterr().err


def test_a_repository_has_an_owner(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        push_to_hub.main([str(folder), "model"])
    assert ended.value.code == 2
    assert "owner/name" in capsys.readouterr().err
