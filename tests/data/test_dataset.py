from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.contract import check_head
from edgeres.data.dataset import Dataset, open_dataset
from edgeres.data.sources.digits import DIGITS, digits
from edgeres.errors import DataError

NOTHING: frozenset[str] = frozenset()
MANIFEST = Path(__file__).parents[2] / "calibration" / "digits.yaml"


def opened(path=None, *, seed=0, calibration=32, allow=NOTHING) -> Dataset:
    return open_dataset(path, seed=seed, calibration=calibration, allow=frozenset(allow))


def write(folder: Path, first: int, count: int) -> None:
    """Small images numbered ``first``...; the number is the content."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(np.full((4, 4), number % 256, np.uint8) + np.eye(4, dtype=np.uint8) * (number // 256)).save(
            folder / f"{number:05}.png"
        )


def layout(root: Path, train=40, validation=12, classes=("ant", "bee", "cow")) -> Path:
    for index, name in enumerate(classes):
        if train:
            write(root / "train" / name, 1000 * index, train)
        if validation:
            write(root / "val" / name, 1000 * index + 500, validation)
    return root


def names(split):
    return [Path(image.where).name for image in split.images]


def assert_laws(dataset: Dataset) -> None:
    train, calibration, tuning, validation = (
        set(split.hashes) for split in (dataset.train, dataset.calibration, dataset.tuning, dataset.validation)
    )
    assert not validation & (train | calibration | tuning)
    assert not tuning & (train | calibration)


# The embedded digits.


def test_digits_match_their_manifest():
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    dataset = opened(calibration=512, seed=manifest["seed"])
    assert len(digits()) == manifest["images"] == 1797
    assert len(dataset.classes) == manifest["classes"] == 10
    for name, expected in manifest["splits"].items():
        split = getattr(dataset, name)
        assert (split.name, len(split), split.digest) == (name, expected["images"], expected["digest"])


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch, ours = load_digits(), digits()
    assert ours.labels == tuple(bunch.target.tolist())
    for index in (0, 1, 900, 1796):
        expected = np.rint(bunch.images[index] * 255 / 16).astype(np.uint8)
        np.testing.assert_array_equal(np.asarray(ours.image(index))[..., 1], expected)
    # Levels 0 and 16 are black and white; 8, halfway, rounds to even.
    assert np.array_equal(np.unique(np.stack([image.pixels for image in ours.images]))[[0, 8, 16]], [0, 128, 255])


def test_digits_bring_their_own_mean_and_deviation():
    pixels = np.stack([image.pixels for image in digits().images]) / 255
    assert round(float(pixels.mean()), 3) == DIGITS.mean[0]
    assert round(float(pixels.std()), 3) == DIGITS.std[0]
    assert opened().suggested == DIGITS


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_digits_are_disjoint_complete_and_stratified(seed):
    dataset = opened(seed=seed, calibration=160)
    splits = (dataset.train, dataset.calibration, dataset.tuning, dataset.validation)
    hashes = [content for split in splits for content in split.hashes]
    assert len(hashes) == len(set(hashes)) == 1797
    assert dataset.sample
    assert Counter(dataset.validation.labels) == dict.fromkeys(range(10), 50)
    assert Counter(dataset.calibration.labels) == dict.fromkeys(range(10), 16)
    assert Counter(dataset.tuning.labels) == dict.fromkeys(range(10), 10)
    assert set(dataset.train.labels) == set(range(10))


def test_fewer_digits_for_calibration_are_a_balanced_part_of_more():
    few, many = opened(calibration=40), opened(calibration=160)
    assert Counter(few.calibration.labels) == dict.fromkeys(range(10), 4)
    assert set(few.calibration.hashes) < set(many.calibration.hashes)
    assert (few.train.digest, few.validation.digest) == (many.train.digest, many.validation.digest)


def test_seed_decides_the_cut():
    assert opened(seed=1).validation.digest == opened(seed=1).validation.digest != opened(seed=2).validation.digest


def test_digits_need_neither_torch_nor_scikit_learn_imported():
    script = (
        "import sys; from edgeres.data.dataset import open_dataset;"
        "open_dataset(None, seed=0, calibration=32, allow=frozenset());"
        "print(sorted({'torch', 'sklearn', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Image folders.


def test_folder_with_train_and_validation(tmp_path):
    dataset = opened(layout(tmp_path))
    assert dataset.classes == ("ant", "bee", "cow")
    assert (dataset.name, dataset.sample, dataset.suggested, dataset.notes) == (tmp_path.name, False, None, ())
    assert len(dataset.validation) == 36
    assert len(dataset.tuning) == 12
    assert len(dataset.train) == 120 - 12
    assert len(dataset.calibration) == 32
    assert set(dataset.calibration.hashes) <= set(dataset.train.hashes)
    assert set(Counter(dataset.calibration.labels).values()) == {10, 11}
    assert dataset.validation.labels == (0,) * 12 + (1,) * 12 + (2,) * 12
    assert names(dataset.validation)[:2] == ["00500.png", "00501.png"]
    assert_laws(dataset)


def test_folder_is_the_same_wherever_it_lies_and_whenever_it_is_read(tmp_path):
    layout(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "deep" / "b")
    first, second = opened(tmp_path / "a", seed=3), opened(tmp_path / "deep" / "b", seed=3)
    for name in ("train", "calibration", "tuning", "validation"):
        assert getattr(first, name).digest == getattr(second, name).digest
    assert opened(tmp_path / "a", seed=4).calibration.digest != first.calibration.digest


def test_more_calibration_images_move_no_other_split(tmp_path):
    layout(tmp_path)
    few, many = opened(tmp_path, calibration=32), opened(tmp_path, calibration=64)
    assert set(few.calibration.hashes) < set(many.calibration.hashes)
    for name in ("train", "tuning", "validation"):
        assert getattr(few, name).digest == getattr(many, name).digest


@pytest.mark.parametrize("root", ["", "train"])
def test_one_set_of_images_is_cut_by_content(tmp_path, root):
    for index, name in enumerate(("ant", "bee")):
        write(tmp_path / root / name, 1000 * index, 100)
    dataset = opened(tmp_path)
    assert Counter(dataset.validation.labels) == {0: 20, 1: 20}
    assert len(dataset.train) + len(dataset.tuning) == 160
    assert dataset.notes == ("no validation images are set apart: 40 of 200, chosen by content, take their place",)
    assert_laws(dataset)


def test_validation_alone_gives_up_only_what_calibration_needs(tmp_path):
    for index, name in enumerate(("ant", "bee")):
        write(tmp_path / "val" / name, 1000 * index, 100)
    dataset = opened(tmp_path)
    assert len(dataset.validation) == 160
    assert dataset.validation.name == "validation"
    assert len(dataset.train) + len(dataset.tuning) == 40
    assert "no train images are set apart" in dataset.notes[0]
    assert_laws(dataset)


def test_validation_alone_gives_up_no_more_than_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.data.dataset.TUNING", 8)
    for index, name in enumerate(("ant", "bee")):
        write(tmp_path / "val" / name, 1000 * index, 150)
    dataset = opened(tmp_path, calibration=32)
    assert len(dataset.validation) == 300 - 32 - 8


def test_the_only_image_of_a_class_is_not_held_out(tmp_path):
    for index, (name, count) in enumerate((("ant", 60), ("bee", 60), ("cow", 1))):
        write(tmp_path / name, 1000 * index, count)
    dataset = opened(tmp_path, allow={"missing-classes"})
    assert Counter(dataset.train.labels)[2] == 1
    assert 2 not in dataset.validation.labels


def test_extensions_in_any_case_deeper_folders_and_strangers(tmp_path):
    layout(tmp_path)
    extra = tmp_path / "val" / "ant" / "images"
    write(extra, 900, 1)
    (extra / "00900.png").rename(extra / "x.PNG")
    for stranger in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (tmp_path / "val" / "ant" / stranger).write_bytes(b"not an image")
    (tmp_path / "val" / ".cache").mkdir()
    dataset = opened(tmp_path)
    assert len(dataset.validation) == 37
    assert "x.PNG" in names(dataset.validation)
    assert dataset.classes == ("ant", "bee", "cow")


def test_copies_leave_training_and_are_counted(tmp_path):
    layout(tmp_path)
    for number in (500, 501):
        shutil.copy(tmp_path / "val" / "ant" / f"00{number}.png", tmp_path / "train" / "bee" / f"copy{number}.png")
    dataset = opened(tmp_path)
    assert not any(name.startswith("copy") for name in names(dataset.train) + names(dataset.tuning))
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("2 training images are validation images too and are left out of training")
    assert "copy500.png" in dataset.notes[0]
    assert "00500.png" in dataset.notes[0]
    assert len(dataset.validation) == 36
    assert_laws(dataset)


def test_one_content_under_two_classes_is_a_note(tmp_path):
    layout(tmp_path)
    write(tmp_path / "train" / "bee", 3, 1)
    write(tmp_path / "train" / "ant", 4, 1)
    notes = opened(tmp_path).notes
    assert len(notes) == 1
    assert "1 train images have the content of one in another class: " in notes[0]
    assert all(name in notes[0] for name in ("ant/00003.png", "bee/00003.png"))


def test_images_that_differ_behind_equal_heads_and_sizes_are_no_copies(tmp_path):
    layout(tmp_path)
    pixels = np.zeros((60, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "val" / "ant" / "black.bmp")
    pixels[0, 0] = 255  # a BMP starts with its bottom row, so this pixel lies behind the first 4 KiB
    Image.fromarray(pixels).save(tmp_path / "train" / "ant" / "dot.bmp")
    dataset = opened(tmp_path)
    assert dataset.notes == ()
    assert "dot.bmp" in names(dataset.train) + names(dataset.tuning)


def test_copies_stay_in_training_when_allowed_yet_never_calibrate(tmp_path):
    layout(tmp_path)
    shutil.copytree(tmp_path / "val" / "ant", tmp_path / "train" / "ant", dirs_exist_ok=True)
    dataset = opened(tmp_path, allow={"overlap"}, calibration=96)
    assert len(set(dataset.train.hashes) & set(dataset.validation.hashes)) == 12
    assert not set(dataset.calibration.hashes + dataset.tuning.hashes) & set(dataset.validation.hashes)
    assert "stay in training, as allowed" in dataset.notes[0]


@pytest.mark.parametrize("folder", ["calibration", "calib"])
@pytest.mark.parametrize("base", ["train", ""])
def test_calibration_images_of_the_user(tmp_path, folder, base):
    for index, name in enumerate(("ant", "bee")):
        write(tmp_path / base / name, 1000 * index, 60)
    write(tmp_path / folder / "bee", 5000, 20)
    write(tmp_path / folder, 6000, 20)
    dataset = opened(tmp_path, calibration=100)
    assert dataset.classes == ("ant", "bee")
    assert Counter(dataset.calibration.labels) == {1: 20, -1: 20}
    assert "40 calibration images, fewer than the 100 asked for" in dataset.notes
    assert_laws(dataset)


def test_calibration_images_of_the_user_must_not_validate(tmp_path):
    layout(tmp_path)
    write(tmp_path / "calib", 5000, 40)
    shutil.copy(tmp_path / "val" / "cow" / "02505.png", tmp_path / "calib" / "copy.png")
    with pytest.raises(
        DataError, match=r"1 calibration images are also validation images \(.*copy\.png is .*02505\.png"
    ):
        opened(tmp_path)
    dataset = opened(tmp_path, allow={"overlap"}, calibration=100)
    assert "copy.png" in names(dataset.calibration)
    assert "copy.png" in dataset.notes[0]


def test_tuning_avoids_calibration_images_of_the_user(tmp_path):
    layout(tmp_path)
    shutil.copytree(tmp_path / "train" / "ant", tmp_path / "calib")
    dataset = opened(tmp_path, calibration=100)
    assert 0 not in dataset.tuning.labels
    assert_laws(dataset)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["train", "val"]), st.sampled_from(["a", "b"]), st.integers(0, 30)),
        min_size=30,
        max_size=60,
        unique=True,
    ),
    st.integers(0, 9),
)
def test_splits_stay_disjoint_whatever_is_copied_where(tmp_path_factory, files, seed):
    root = tmp_path_factory.mktemp("folder")
    for part, name, content in [
        *files,
        *((p, c, n) for p, n in (("train", 40), ("val", 50)) for c, n in (("a", n), ("b", n + 1))),
    ]:
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3), content * 4).save(folder / f"{content}.png")
    dataset = opened(root, seed=seed, allow={"few-images"})
    assert_laws(dataset)
    assert set(dataset.train.labels) == set(dataset.validation.labels) == {0, 1}
    assert len(dataset.validation) == sum(part == "val" for part, _, _ in files) + 2


# Bad input.


def refused(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return str(caught.value)


def test_missing_folder(tmp_path):
    assert "nowhere is not there" in refused(tmp_path / "nowhere")


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"")
    assert "data.zip is not a folder" in refused(tmp_path / "data.zip")


@pytest.mark.parametrize("folders", [(), ("train",), ("train/ant", "train/bee", "val/ant"), ("ant", "bee")])
def test_empty_folder(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    assert "holds no images in class folders" in refused(tmp_path)
    assert "holds no images in class folders" in refused(tmp_path, allow={"missing-classes", "few-images"})


def test_images_without_class_folders(tmp_path):
    write(tmp_path, 0, 50)
    assert "put .bmp .jpeg .jpg .npy .pgm .png .ppm .tif .tiff .webp files into one folder per class" in refused(
        tmp_path
    )


def test_one_class(tmp_path):
    assert "holds the one class 'ant'" in refused(layout(tmp_path, classes=("ant",)))


@pytest.mark.parametrize("part", ["train", "val"])
def test_corrupt_image_is_named_before_any_work(tmp_path, part):
    layout(tmp_path)
    (tmp_path / part / "bee" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    assert str(tmp_path / part / "bee" / "bad.jpg") in refused(tmp_path)


def test_class_without_images(tmp_path):
    layout(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "val" / "dog").mkdir()
    assert "1 of 4 classes have no train images (dog)" in refused(tmp_path)
    dataset = opened(tmp_path, allow={"missing-classes"})
    assert dataset.classes == ("ant", "bee", "cow", "dog")
    assert len(dataset.notes) == 3  # no training, validation, calibration images
    check_head(dataset.classes, 4)


def test_class_without_validation_images(tmp_path):
    layout(tmp_path)
    write(tmp_path / "train" / "dog", 7000, 5)
    assert "1 of 4 classes have no validation images (dog)" in refused(tmp_path)


def test_validation_folder_without_images_is_never_made_up_for(tmp_path):
    layout(tmp_path, validation=0)
    (tmp_path / "val").mkdir()
    assert "no validation images" in refused(tmp_path, allow={"missing-classes"})


def test_too_few_calibration_images(tmp_path):
    layout(tmp_path, train=8)
    message = refused(tmp_path, calibration=512)
    assert "22 calibration images (512 asked for), fewer than 32" in message
    assert "--allow few-images" in message
    dataset = opened(tmp_path, calibration=512, allow={"few-images"})
    assert len(dataset.calibration) == 22
    assert "22 calibration images, fewer than the 512 asked for" in dataset.notes


@pytest.mark.parametrize("wanted", [31, 1])
def test_asking_for_too_few_calibration_images(wanted):
    assert "fewer than 32" in refused(None, calibration=wanted)
    assert len(opened(calibration=wanted, allow={"few-images"}).calibration) == wanted


@pytest.mark.parametrize("wanted", [0, -3])
def test_no_calibration_images_are_never_allowed(tmp_path, wanted):
    assert "0 calibration images" in refused(None, calibration=wanted, allow={"few-images"})
    assert "0 calibration images" in refused(layout(tmp_path), calibration=wanted, allow={"few-images"})


def test_a_permission_that_was_used_is_told():
    assert opened(calibration=31, allow={"few-images"}).notes == ("31 calibration images, fewer than 32, as allowed",)
    assert opened(calibration=32, allow={"few-images"}).notes == ()


def test_calibration_images_of_the_user_cover_every_class(tmp_path):
    layout(tmp_path)
    for index, name in enumerate(("ant", "bee")):
        write(tmp_path / "calibration" / name, 5000 + 100 * index, 20)
    message = refused(tmp_path)
    assert "1 of 3 classes have no calibration images (cow)" in message
    assert "--allow missing-classes" in message
    dataset = opened(tmp_path, allow={"missing-classes"})
    assert any("no calibration images (cow)" in note for note in dataset.notes)
    write(tmp_path / "calibration" / "cow", 6000, 20)
    assert {0, 1, 2} == set(opened(tmp_path).calibration.labels)


def test_calibration_images_without_labels_are_not_asked_for_classes(tmp_path):
    layout(tmp_path)
    write(tmp_path / "calibration", 5000, 40)
    assert not any("classes" in note for note in opened(tmp_path).notes)


def test_more_classes_than_calibration_images_are_a_note(tmp_path):
    layout(tmp_path, train=3, validation=2, classes=[f"c{index:02}" for index in range(40)])
    (note,) = (note for note in opened(tmp_path, calibration=32).notes if "no calibration" in note)
    assert "8 of 40 classes" in note


def test_empty_calibration_folder_is_never_made_up_for(tmp_path):
    layout(tmp_path)
    (tmp_path / "calib").mkdir()
    assert "0 calibration images" in refused(tmp_path, allow={"few-images"})


def test_allow_knows_its_names():
    assert "did you mean 'few-images'?" in refused(None, allow={"few-image"})


@pytest.mark.parametrize(
    ("head", "hint"), [(1000, "say which outputs they are, with --classes MAP"), (4, "remove the folders")]
)
def test_head_that_does_not_fit_the_data(head, hint):
    dataset = opened()
    check_head(dataset.classes, 10)
    with pytest.raises(DataError, match=f"the data has 10 classes, the network's head has {head}: .*{hint}"):
        check_head(dataset.classes, head)


def test_all_bad_images_are_named_in_one_message(tmp_path):
    folder = layout(tmp_path / "data")
    places = sorted((folder / "train").rglob("*.png"))[:7]
    for place in places[:6]:
        place.write_bytes(place.read_bytes()[:60])
    places[6].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        opened(folder)
    assert refused.value.what.startswith("7 of ")
    for place in places[:5]:
        assert str(place) in refused.value.what
    assert str(places[5]) not in refused.value.what
    assert refused.value.what.endswith("; and 2 more")


def test_git_lfs_pointers_in_place_of_images_are_recognised(tmp_path):
    folder = layout(tmp_path / "data")
    for place in sorted(folder.rglob("*.png")):
        place.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"is a Git LFS pointer.*and \d+ more: fetch it with 'git lfs pull'"):
        opened(folder)
