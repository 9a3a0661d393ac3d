"""Segmentation: masks as data, mIoU from areas, a network of maps on every target, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from segmented_shapes import CLASSES, OPTIONS, PREPROCESS, exported, fitted, pairs, write

from edgeres.cli import main
from edgeres.data.dataset import open_dataset
from edgeres.data.masks import placed
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.errors import DataError
from edgeres.metrics import mean_iou, pixel_accuracy
from edgeres.tasks.judgement import PairedPredictions, judge
from edgeres.tasks.kinds.segmentation import Segmentation
from edgeres.tasks.registry import tasks
from edgeres.tasks.task import rows

TARGETS = ("jetson", "x86", "cpu", "cpu:litert", "cpu:executorch")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The folder of pictures and masks, and a network fitted to them with its ONNX file."""
    root = tmp_path_factory.mktemp("shapes")
    folder = write(root / "data")
    network = fitted(*pairs(folder, "train"))
    return folder, network, exported(root / "net.onnx", network)


def compiled(shapes, folder, target, *more):
    data, _, file = shapes
    words = ["compile", str(file), "--data", str(data), "--target", target, "--out", str(folder), *OPTIONS]
    cache = ["--cache", str(file.parent / "cache"), "--quiet", "--budget", "peak_rss_mib=none"]
    return main([*words, *cache, "--calibration", "64", "--set", "quantize.technique=equalization", *more])


def areas(outputs, masks):
    """Predictions and labels of logits ``[N,classes,H,W]`` and masks ``[N,H,W]``."""
    task, count = Segmentation(), outputs.shape[1]
    labels = np.array([np.bincount(mask.ravel(), minlength=256)[:count] for mask in masks])
    return task.predictions(task.kept(outputs, list(masks)), labels), labels


def test_miou_is_that_of_the_confusion_matrix_without_ignored_pixels():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 4, 9, 7)).astype(np.float32)
    masks = rng.integers(0, 4, (5, 9, 7)).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.2] = 255
    masks[masks == 3] = 2  # class 3 is predicted, but in no mask
    predicted, valid = outputs.argmax(1), masks != 255
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (masks[valid], predicted[valid]), 1)
    right = np.diag(matrix)
    shares = (right / (matrix.sum(0) + matrix.sum(1) - right))[:3]
    predictions, labels = areas(outputs, masks)
    assert Segmentation().score(predictions, labels) == pytest.approx(100 * shares.mean())
    assert float(pixel_accuracy(predictions[:, :8], labels)[0]) == pytest.approx(100 * right.sum() / valid.sum())


def test_a_sample_counts_an_image_as_often_as_it_is_drawn():
    rng = np.random.default_rng(1)
    found, truth = rng.integers(5, 9, (3, 4)).astype(float), rng.integers(5, 9, (3, 2)).astype(float)
    found[:, :2] = 3
    twice = mean_iou(found[[0, 0, 2]], truth[[0, 0, 2]])
    assert mean_iou(found, truth, np.array([[2.0, 0.0, 1.0]])) == pytest.approx(twice)


def test_outputs_of_lower_resolution_are_resized_to_the_mask():
    coarse = np.full((1, 2, 2, 2), -1, np.float32)
    coarse[0, 0, :, 0] = coarse[0, 1, :, 1] = 1
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    predictions, labels = areas(coarse, mask[None])
    assert Segmentation().score(predictions, labels) == 100


def test_divergence_is_the_mean_over_pixels_and_zero_for_equal_maps():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 3, 4, 5, 5)).astype(np.float32)
    p, q = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (first.astype(float), second.astype(float)))
    expected = (p * np.log(p / q)).sum(1).mean((1, 2))
    assert np.allclose(Segmentation().divergences(first, second), expected, rtol=1e-5)
    assert not Segmentation().divergences(first, first).any()


@pytest.mark.parametrize("mode", ["fit", "stretch", "letterbox"])
def test_masks_lie_where_their_images_lie(mode):
    preprocess = Preprocess(resize=Size(24, 24), crop=Size(20, 28), resize_mode=mode, interpolation="nearest")
    values = np.random.default_rng(3).integers(0, 200, (17, 40)).astype(np.uint8)
    image = Image.fromarray(np.stack([values] * 3, axis=-1))
    raw = Preprocess(**{**vars_of(preprocess), "mean": (0.0,) * 3, "std": (1.0,) * 3, "fill": (255,)})
    pixels = np.rint(255 * raw.apply(image)[0]).astype(np.uint8)
    assert np.array_equal(placed(values, 1, preprocess), pixels)


def vars_of(preprocess):
    return {name: getattr(preprocess, name) for name in Preprocess.__dataclass_fields__}


def test_masks_are_counted_and_ignored_pixels_too(shapes):
    data = open_dataset(shapes[0], seed=0, calibration=64, allow=frozenset(), labels="mask")
    masks = [np.asarray(Image.open(file)) for file in sorted((shapes[0] / "masks").rglob("*.png"))]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    assert data.classes == CLASSES
    assert data.census.masks.pixels == dict(zip(CLASSES, counts[:4].tolist(), strict=True))
    assert data.census.masks.ignored == counts[255]
    assert len(data.validation) == 300
    assert next(data.validation.truths(PREPROCESS)).shape == (32, 32)


def test_a_table_of_pairs_reads_the_same_masks(shapes, tmp_path):
    folder = write(tmp_path / "data", train=80, val=20)
    lines = ["path,mask,split"]
    for split in ("train", "val"):
        names = sorted(file.name for file in (folder / "images" / split).iterdir())
        lines += [f"images/{split}/{name},masks/{split}/{name},{split}" for name in names]
    (folder / "pairs.csv").write_text("\n".join(lines))
    one, two = (
        open_dataset(path, seed=0, calibration=40, allow=frozenset(), labels="mask")
        for path in (folder, folder / "pairs.csv")
    )
    assert one.validation.digest == two.validation.digest


def broken(folder, kind):
    mask = folder / "masks" / "train" / "003.png"
    match kind:
        case "size":
            Image.new("L", (16, 32)).save(mask)
        case "colour":
            Image.new("RGB", (32, 32)).save(mask)
        case "value":
            Image.new("L", (32, 32), 7).save(mask)
        case "missing":
            mask.unlink()
        case "names":
            (folder / "classes.txt").unlink()
        case "lossy":
            Image.new("L", (32, 32)).save(mask.with_suffix(".jpg"))
            mask.unlink()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("size", "has 16x32 pixels, its image 32x32"),
        ("colour", "a picture of mode RGB"),
        ("value", "1,024 pixels have the value 7, and 4 classes are named"),
        ("missing", "003.png has no mask of that name"),
        ("names", "classes.txt cannot be read"),
        ("lossy", "is JPEG, which does not keep the class"),
    ],
)
def test_a_bad_mask_is_refused_when_the_data_is_opened(kind, text, tmp_path):
    folder = write(tmp_path / "data", train=8, val=2)
    broken(folder, kind)
    with pytest.raises(DataError, match=text):
        open_dataset(folder, seed=0, calibration=4, allow=frozenset({"few-images"}), labels="mask")


def test_a_network_of_maps_is_found_quantized_and_judged(shapes, tmp_path, capsys):
    assert compiled(shapes, tmp_path / "run", "cpu") == 0
    document = json.loads((tmp_path / "run" / "report.json").read_text())
    found = document["accuracy"]
    assert (document["task"], found["metric"], found["n"]) == ("segmentation", "mIoU", 300)
    assert found["float_score"] > 60
    assert abs(found["drop_pp"]) < 3
    names = [one["name"] for one in found["further"]]
    assert names == ["pixel accuracy", *(f"IoU of {name}" for name in CLASSES)]
    assert set(document["provenance"]["census"]["masks"]["pixels"]) == set(CLASSES)
    capsys.readouterr()
    assert main(["gate", str(tmp_path / "run"), "--margin", "9"]) == 0
    assert "mIoU " in capsys.readouterr().out
    assert "IoU of disc" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_maps_are_built_and_judged_on_every_target(shapes, target, tmp_path):
    stated = ("--task", "segmentation", "--budget", "accuracy_drop_pp=9")
    assert compiled(shapes, tmp_path / "run", target, *stated) == 0
    found = json.loads((tmp_path / "run" / "report.json").read_text())["accuracy"]
    assert found["float_score"] > 60
    assert abs(found["drop_pp"]) < 9


def test_itself_passes_and_planted_damage_fails(shapes):
    folder, network, _ = shapes
    images, masks = pairs(folder, "val")
    with torch.no_grad():
        before = network(torch.from_numpy(images)).numpy()
    damaged = np.roll(before, 4, axis=3)
    swapped = before[:, [0, 2, 1, 3]]
    first, labels = areas(before, masks)
    kept = [rows(areas(one, masks)[0]) for one in (damaged, swapped)]
    whole = rows(first)
    assert judge(PairedPredictions("float", rows(labels), whole, whole, "segmentation"), 1.0).exit_code == 0
    for one in kept:
        assert judge(PairedPredictions("float", rows(labels), whole, one, "segmentation"), 1.0).exit_code == 3


def test_areas_at_random_places_are_at_chance(shapes):
    folder, network, _ = shapes
    images, masks = pairs(folder, "val")
    with torch.no_grad():
        outputs = network(torch.from_numpy(images)).numpy()
    predictions, labels = areas(outputs, masks)
    assert Segmentation().chance(predictions, labels, 4).standing == "above"
    images, pixels = (np.random.default_rng(0).permutation(count) for count in (len(outputs), 32 * 32))
    moved = outputs[images].reshape(*outputs.shape[:2], -1)[:, :, pixels].reshape(outputs.shape)
    moved, labels = areas(moved, masks)
    assert Segmentation().chance(moved, labels, 4).standing == "at"


def test_weights_are_refused_before_any_work_with_the_export_that_works(shapes, tmp_path, capsys):
    words = ["compile", "resnet20_b", "--data", str(shapes[0]), "--target", "cpu", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "takes an ONNX file" in text
    assert "torch.onnx.export" in text
    assert not (tmp_path / "run").exists()


def test_every_task_can_be_stated(capsys):
    with pytest.raises(SystemExit):
        main(["compile", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in tasks())
    assert main(["compile", "resnet20", "--target", "cpu", "--task", "segmentatoin", "--data", "."]) == 2
    assert "did you mean 'segmentation'" in capsys.readouterr().err


def test_maps_are_refused_for_one_answer_an_image(shapes, tmp_path, capsys):
    assert compiled(shapes, tmp_path / "run", "cpu", "--task", "multilabel") == 2
