"""Sketch filters: what each draws, whose code it agrees with, and which weights it refuses.

python -m pytest tests/test_annotator.py
"""

import importlib
import pickle
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoints import hed_bsds500_weights
from PIL import Image

from annotator import FILTERS, load_annotator, table
from annotator.filters import ADE20K_GRAYS
from annotator.hed import FULL, HED, TINY, blocks_of
from common.weights import UnavailableError
from metrics import edge_f1

HED_TINY = Path(__file__).parent.parent / "annotator" / "hed_tiny.safetensors"


@pytest.fixture
def photo():
    """A bright disc on a dark ground, softly lit, and where its boundary is."""
    y, x = np.mgrid[:192, :256]
    inside = (y - 96) ** 2 + (x - 128) ** 2 < 60**2
    picture = np.where(inside[..., None], (200, 150, 90), (40, 70, 60)) + (x[..., None] // 16)
    ring = cv2.Canny(inside.astype(np.uint8) * 255, 100, 200)
    return picture.astype(np.uint8), ring


@pytest.mark.parametrize("name", ["hed-tiny", "canny"])
def test_sketch_is_the_boundary(name, photo):
    picture, ring = photo
    sketch = load_annotator(name)(picture)
    assert sketch.shape == picture.shape[:2] and sketch.dtype == np.uint8
    assert edge_f1(sketch, ring, tolerance_px=4).f1 > 0.8


def test_hed_tiny_draws_no_frame_and_takes_any_size(photo):
    annotator = load_annotator("hed-tiny")
    flat = np.full((65, 97, 3), 120, np.uint8)
    assert annotator(flat).max() < 64
    assert np.array_equal(annotator(photo[0]), annotator(photo[0]))


def test_full_hed_has_the_keys_of_the_published_file():
    keys = set(HED(FULL).state_dict())
    assert {
        "norm",
        "block1.convs.0.weight",
        "block3.convs.2.bias",
        "block5.projection.weight",
    } <= keys
    assert len(keys) == 1 + 2 * (2 + 2 + 3 + 3 + 3) + 2 * 5
    assert HED(FULL).block5.convs[2].weight.shape == (512, 512, 3, 3)


def test_hed_reads_a_published_style_file(tmp_path, photo):
    torch.manual_seed(0)
    weights = {key: value.clone() for key, value in HED(FULL).state_dict().items()}
    weights["norm"] += 100
    torch.save(weights, tmp_path / "ControlNetHED.pth")
    picture = photo[0][:64, :96]
    sketch = load_annotator(f"hed:{tmp_path / 'ControlNetHED.pth'}")(picture)
    assert np.array_equal(load_annotator(f"hed:{tmp_path}")(picture), sketch)
    assert np.abs(sketch.astype(int) - plain_hed(weights, picture)).max() <= 1


def test_hed_bsds500_is_its_published_network(tmp_path, photo):
    """The 38 tensors of the published file, and ControlNet's first annotator written out."""
    weights = hed_bsds500_weights()
    assert len(weights) == 38 and weights["moduleCombine.0.weight"].shape == (1, 5, 1, 1)
    # As in the years before torch 1.6, when the file was published.
    torch.save(weights, tmp_path / "network-bsds500.pth", _use_new_zipfile_serialization=False)
    image = photo[0][:96, :128]
    sketch = load_annotator(f"hed-bsds500:{tmp_path / 'network-bsds500.pth'}")(image)
    assert np.abs(sketch.astype(int) - plain_hed_bsds500(weights, image)).max() <= 1
    assert sketch.shape == (96, 128) and sketch.std() > 1


def plain_hed_bsds500(weights: dict, image: np.ndarray) -> np.ndarray:
    """BGR, means subtracted, VGG's five blocks, their scores enlarged and joined, rounded down."""
    means = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(3, 1, 1)
    x = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() - means
    x, sides = x[None], []
    for scale, convolutions in (("One", 2), ("Two", 2), ("Thr", 3), ("Fou", 3), ("Fiv", 3)):
        first = 0 if scale == "One" else 1
        x = x if scale == "One" else F.max_pool2d(x, 2, 2)
        for number in range(convolutions):
            key = f"moduleVgg{scale}.{first + 2 * number}"
            x = F.relu(F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=1))
        side = F.conv2d(
            x, weights[f"moduleScore{scale}.weight"], weights[f"moduleScore{scale}.bias"]
        )
        size = image.shape[:2]
        sides.append(F.interpolate(side, size=size, mode="bilinear", align_corners=False))
    joined = F.conv2d(
        torch.cat(sides, 1), weights["moduleCombine.0.weight"], weights["moduleCombine.0.bias"]
    )
    return (torch.sigmoid(joined)[0, 0].numpy() * 255).clip(0, 255).astype(int)


def plain_hed(weights: dict, picture: np.ndarray) -> np.ndarray:
    """ControlNet's annotator written out: five scales, their maps enlarged, averaged, squashed."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() - weights["norm"]
    maps = []
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1):
        x = F.max_pool2d(x, 2) if block > 1 else x
        for i in range(convs):
            name = f"block{block}.convs.{i}"
            x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
        side = F.conv2d(
            x, weights[f"block{block}.projection.weight"], weights[f"block{block}.projection.bias"]
        )
        height, width = picture.shape[:2]
        maps.append(cv2.resize(side[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR))
    return (255 / (1 + np.exp(-np.mean(maps, 0)))).round().astype(int)


def test_blocks_are_read_from_the_weights():
    assert blocks_of(HED(FULL).state_dict()) == FULL and blocks_of(HED(TINY).state_dict()) == TINY
    assert blocks_of({"norm": torch.zeros(1)}) == ()


def test_scribble_is_a_thick_line_along_the_edges(photo):
    picture, ring = photo
    sketch = load_annotator(f"scribble:{HED_TINY}")(picture)
    assert sketch.shape == picture.shape[:2] and set(np.unique(sketch)) == {0, 255}
    near = cv2.distanceTransform(255 - ring, cv2.DIST_L2, 5)
    assert sketch[near <= 2].mean() > 0.9 * 255  # a stroke wherever the boundary is
    assert near[sketch > 0].max() < 20 and (sketch > 0).sum() > 3 * (ring > 0).sum()


# ---- filters that run in transformers


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory):
    """A small DPT of MiDaS's hybrid form, which leaves out what its published files leave out."""
    from safetensors.torch import load_file, save_file
    from transformers import BitConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    folder = tmp_path_factory.mktemp("dpt")
    stages = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 32],
        "depths": [1, 1, 1],
        "num_groups": 4,
    }
    padding = {"global_padding": "same", "embedding_dynamic_padding": True}
    bit = BitConfig(
        **stages, **padding, layer_type="bottleneck", out_features=["stage1", "stage2", "stage3"]
    )
    hybrid = {"is_hybrid": True, "backbone_config": bit, "backbone_featmap_shape": [1, 32, 4, 4]}
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    neck = {
        "neck_hidden_sizes": [8, 16, 32, 32],
        "fusion_hidden_size": 16,
        "neck_ignore_stages": [0, 1],
    }
    config = DPTConfig(**hybrid, **tower, **neck, backbone_out_indices=[0, 1, 2, 3], image_size=64)
    torch.manual_seed(0)
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {
        name: t
        for name, t in weights.items()
        if "fusion_stage.layers.0.residual_layer1" not in name
    }
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_depth_fills_the_gray_scale(depth_model, photo):
    from transformers import DPTForDepthEstimation, DPTImageProcessor

    picture = photo[0][:70, :100]
    sketch = load_annotator(f"depth:{depth_model}")(picture)
    assert sketch.shape == (70, 100) and (sketch.min(), sketch.max()) == (0, 255)
    model = DPTForDepthEstimation.from_pretrained(depth_model).eval()
    pixels = DPTImageProcessor.from_pretrained(depth_model)(picture, return_tensors="pt")
    with torch.no_grad():
        near = model(**pixels).predicted_depth[None]
    near = F.interpolate(near, (70, 100), mode="bicubic", align_corners=False)[0, 0].numpy()
    expected = 255 * (near - near.min()) / (near.max() - near.min())
    assert np.abs(sketch - expected).max() <= 1


def test_a_model_without_some_of_its_weights_is_refused(depth_model, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in depth_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if name.startswith("head."))
    save_file(
        {n: t for n, t in weights.items() if n != gone},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UnavailableError, match=f"lacks 1 weights, the first {gone}"):
        load_annotator(f"depth:{tmp_path}")


def segmentation_model(folder, classes):
    from transformers import (
        ConvNextConfig,
        SegformerImageProcessor,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextConfig(
        num_stages=4, depths=[1] * 4, hidden_sizes=[8, 16, 16, 16], out_features=stages
    )
    heads = {
        "hidden_size": 16,
        "auxiliary_in_channels": 16,
        "auxiliary_channels": 8,
        "pool_scales": [1, 2],
    }
    torch.manual_seed(0)
    UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, num_labels=classes, **heads)
    ).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return f"segmentation:{folder}"


def test_segmentation_paints_classes_with_the_grays_of_ade20k(tmp_path, photo):
    from transformers import SegformerImageProcessor, UperNetForSemanticSegmentation

    picture = photo[0][:70, :100]
    sketch = load_annotator(segmentation_model(tmp_path, 150))(picture)
    model = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = model(
            **SegformerImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")
        ).logits
    classes = F.interpolate(logits, (70, 100), mode="bilinear", align_corners=False)[0].argmax(0)
    assert len(classes.unique()) > 1 and np.array_equal(sketch, ADE20K_GRAYS[classes])


def test_a_segmentation_with_more_classes_than_grays_is_refused(tmp_path):
    with pytest.raises(UnavailableError, match="knows 171 classes, there are grays for 150"):
        load_annotator(segmentation_model(tmp_path, 171))


# ---- filters that run in controlnet_aux

needs_controlnet_aux = pytest.mark.skipif(
    find_spec("controlnet_aux") is None, reason="needs `pip install -r requirements-annotators.txt`"
)


def theirs(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"controlnet_aux.{module}")


def save_as_published(network, path):
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    tensors = network.state_dict()
    if path.name == "table5_pidinet.pth":
        tensors = {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}
    torch.save(tensors, path)


@needs_controlnet_aux
@pytest.mark.parametrize(
    ("name", "network", "detector"),
    [
        ("pidinet", lambda: theirs("pidi.model").pidinet(), lambda: theirs("pidi").PidiNetDetector),
        (
            "lineart",
            lambda: theirs("lineart").Generator(3, 1, 3),
            lambda: theirs("lineart").LineartDetector,
        ),
        (
            "mlsd",
            lambda: theirs("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large(),
            lambda: theirs("mlsd").MLSDdetector,
        ),
    ],
)
def test_sketches_are_those_of_controlnet_aux(name, network, detector, tmp_path, photo):
    network = network()
    save_as_published(network.eval(), tmp_path / FILTERS[name].file)
    detector = detector()(*[network] * (2 if name == "lineart" else 1))
    picture, annotate = photo[0][:128, :192], load_annotator(f"{name}:{tmp_path}")
    options = {"detect_resolution": 128, "image_resolution": 128, "output_type": "np"}
    expected = detector(picture, **options)[:, :, 0]
    sketch = annotate(picture)
    assert expected.std() > 1
    assert np.abs(sketch.astype(int) - expected).max() <= 1  # they cut off, we round
    assert annotate(photo[0][:67, :101]).shape == (67, 101)


@needs_controlnet_aux
def test_mlsd_draws_nothing_where_there_is_no_line(tmp_path, photo):
    network = theirs("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    network.block23.conv3.bias.data[7] = -1000.0  # the logit of every line's center
    torch.save(network.state_dict(), tmp_path / "mlsd_large_512_fp32.pth")
    assert load_annotator(f"mlsd:{tmp_path}")(photo[0]).max() == 0


@needs_controlnet_aux
def test_openpose_draws_stick_figures_in_gray(tmp_path, photo, monkeypatch):
    package = theirs("open_pose")
    network = theirs("open_pose.model").bodypose_model()
    torch.save(
        {name.partition(".")[2]: t for name, t in network.state_dict().items()},
        tmp_path / "pose.pth",
    )
    annotate = load_annotator(f"openpose:{tmp_path / 'pose.pth'}")
    assert annotate(photo[0][:64, :96]).max() == 0  # random weights see nobody

    body = theirs("open_pose.body")
    neck, hip = body.Keypoint(0.5, 0.2), body.Keypoint(0.5, 0.8)
    body = package.BodyResult([None, neck, *[None] * 6, hip, *[None] * 9], 1.0, 2)
    monkeypatch.setattr(
        package.OpenposeDetector,
        "detect_poses",
        lambda *_: [package.PoseResult(body, None, None, None)],
    )
    sketch = annotate(photo[0])
    height, width = sketch.shape
    assert sketch[int(0.2 * height), width // 2] == 255 and sketch[height // 2, width // 2] == 153
    assert sketch[:, : width // 2 - 10].max() == 0


@needs_controlnet_aux
def test_grays_are_those_of_controlnets_colors():
    colors = np.array(theirs("util").ade_palette(), np.uint8)
    assert np.array_equal(np.array(Image.fromarray(colors[None]).convert("L"))[0], ADE20K_GRAYS)


@needs_controlnet_aux
@pytest.mark.parametrize("name", ["hed", "scribble"])
def test_hed_and_scribble_are_those_of_controlnet_aux(name, tmp_path, photo):
    package = theirs("hed")
    network = package.ControlNetHED_Apache2()
    save_as_published(network.eval(), tmp_path / "ControlNetHED.pth")
    picture = photo[0][:128, :192]
    options = {
        "detect_resolution": 128,
        "image_resolution": 128,
        "output_type": "np",
        "scribble": name == "scribble",
    }
    expected = package.HEDdetector(network)(picture, **options)[:, :, 0]
    sketch = load_annotator(f"{name}:{tmp_path}")(picture)
    assert expected.std() > 1
    if name == "hed":
        assert np.abs(sketch.astype(int) - expected).max() <= 1
    else:
        assert (sketch != expected).mean() < 0.01


@pytest.mark.parametrize("name", ["pidinet", "lineart", "mlsd", "openpose"])
def test_a_missing_package_is_one_line_with_the_cure(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(UnavailableError) as error:
        load_annotator(name)
    cure = (
        "runs in controlnet_aux, which is not installed: pip install -r requirements-annotators.txt"
    )
    assert str(error.value) == f"annotator {name} {cure}"


# ---- the table


def test_the_table_says_which_weights_and_where_from():
    assert all(name in table() and row.origin in table() for name, row in FILTERS.items())
    assert FILTERS["hed"].origin == "ControlNetHED.pth of lllyasviel/Annotators, 29 MB, Apache-2.0"
    assert FILTERS["depth"].origin == "Intel/dpt-hybrid-midas, 490 MB, Apache-2.0"
    assert FILTERS["canny"].origin == "no weights" and "repository" in FILTERS["hed-tiny"].origin


def test_the_table_needs_no_heavy_package():
    heavy = {"torch", "cv2", "transformers", "controlnet_aux"}
    code = f"import annotator, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)


def test_unknown_names_and_missing_weights(tmp_path):
    with pytest.raises(
        ValueError, match="unknown annotator 'sobel': choose one of hed-tiny, hed, "
    ):
        load_annotator("sobel")
    with pytest.raises(ValueError, match="canny has no weights"):
        load_annotator(f"canny:{tmp_path}")
    with pytest.raises(UnavailableError, match="no such file") as error:
        load_annotator(f"hed:{tmp_path / 'gone.pth'}")
    origin = "ControlNetHED.pth of lllyasviel/Annotators, 29 MB, Apache-2.0"
    cure = f"annotator hed: {origin}; weights on this machine are named hed:PATH"
    assert str(error.value).endswith(cure)


def test_other_weights_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100])
    with pytest.raises(UnavailableError, match="holds other weights than HED's"):
        load_annotator(f"hed:{tmp_path / 'other.pth'}")
    with pytest.raises(UnavailableError, match="holds a list, not named tensors"):
        load_annotator(f"hed:{tmp_path / 'list.pth'}")
    with pytest.raises(UnavailableError, match="is damaged"):
        load_annotator(f"hed:{tmp_path / 'cut.pth'}")


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("",))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UnavailableError, match="holds other things than tensors"):
        load_annotator(f"hed:{tmp_path / 'trap.pth'}")
    assert not (tmp_path / "sprung").exists()
