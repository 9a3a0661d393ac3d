"""The single file that runs an engine on the device, with stand-ins for the GPU; its preprocessing for real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from drawn_networks import export, tiny
from host_engine import install
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.backends.bundle import build_engine, device, engine, run_engine
from edgeres.backends.tensorrt.loader import tensorrt_bundle
from edgeres.data.content import WholeFile
from edgeres.data.images import DEEP_MODES, EXTENSIONS, FORMATS, EncodedImage
from edgeres.data.preprocess import MAX_PIXELS, Preprocess
from edgeres.settings import plain
from edgeres.targets.target import find_target


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK"]),
    resize=st.sampled_from([0, 7, 24, 33, "12x20", "20x9"]),
    crop=st.one_of(st.integers(1, 40), st.sampled_from(["9x17", "30x8"])),
    resize_mode=st.sampled_from(["fit", "stretch", "letterbox"]),
    fill=st.sampled_from([(0, 0, 0), (114, 114, 114), (1, 2, 3)]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 2)] * 3),
    seed=st.integers(0, 99),
)
def test_preprocessing_is_the_hosts_to_the_last_bit(
    size, mode, resize, crop, resize_mode, fill, interpolation, mean, std, seed
):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    wanted = Preprocess(
        resize=resize, crop=crop, resize_mode=resize_mode, fill=fill, mean=mean, std=std, interpolation=interpolation
    )
    found = run_engine.preprocess(image, json.loads(json.dumps(plain(wanted))))
    expected = wanted.apply(image)
    assert (found.dtype, found.shape) == (np.float32, (3, *wanted.crop))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("resize_mode", ["fit", "letterbox"])
def test_preprocessing_of_bands_is_the_hosts_to_the_last_bit(dtype, resize_mode, tmp_path):
    values = np.random.default_rng(0).integers(0, 250, (23, 31, 4)).astype(dtype)
    wanted = Preprocess(
        resize=16, crop="16x14", resize_mode=resize_mode, mean=(0.1, 0.2, 0.3, 0.4), std=(0.5,) * 4,
        channels="bands", range=None if dtype == np.uint8 else (5, 260), fill=(7,),
    )  # fmt: skip
    np.save(tmp_path / "image.npy", values)
    expected = wanted.apply(EncodedImage.probe(WholeFile(tmp_path / "image.npy")).decode("bands"))
    found = run_engine.preprocess(run_engine.opened(tmp_path / "image.npy"), json.loads(json.dumps(plain(wanted))))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey"])
def test_pixels_are_the_hosts(channels, layout):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    own = {"channels": "grey", "mean": (0.4,), "std": (0.2,)} if channels == "grey" else {"channels": channels}
    wanted = Preprocess(resize=20, crop="16x14", input="uint8", layout=layout, **own)
    found, expected = run_engine.preprocess(image, json.loads(json.dumps(plain(wanted)))), wanted.apply(image)
    assert (found.dtype, found.shape, found.tobytes()) == (np.uint8, wanted.shape, expected.tobytes())


def test_it_takes_the_images_that_the_host_takes():
    assert set(run_engine.EXTENSIONS) == EXTENSIONS
    assert run_engine.FORMATS == FORMATS
    assert set(run_engine.DEEP) == DEEP_MODES
    assert run_engine.MAX_PIXELS == MAX_PIXELS


def test_an_elongated_image_is_refused_before_it_fills_the_memory():
    with pytest.raises(device.BundleError, match="would grow"):
        run_engine.resized(Image.new("RGB", (1, 20_000)), {"resize": 256, "interpolation": "bilinear"})


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "out").mkdir()
    tensorrt_bundle(export(folder / "export", tiny(), 32, "signed"), find_target("jetson"), folder / "out")
    return folder / "out"


@pytest.fixture
def bundle(fresh, tmp_path, monkeypatch):
    """A bundle whose engine was built, here, by stand-ins."""
    shutil.copytree(fresh, tmp_path / "bundle")
    install(monkeypatch)
    build_engine.run(tmp_path / "bundle", check_only=False, seconds=0)
    (tmp_path / "bundle" / device.REPORT).unlink()
    return tmp_path / "bundle"


def tree(folder, layout):
    rng = np.random.default_rng(1)
    for name, count in layout.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return folder


def test_it_compares_times_and_writes_what_the_builder_writes(bundle, capsys):
    run_engine.run(bundle, None, 0)
    report = json.loads((bundle / device.REPORT).read_text())
    assert report["golden"]["passed"]
    assert report["engine"]["census"] == {"weighted": 1, "integer": 1, "kernels": {"CaskConvolution int8": 1}}
    assert report["images"] is None
    assert report["seal"] == device.seal(report)
    assert "1 of 1 weighted layers run in int8" in capsys.readouterr().out


def test_top1_over_a_tree_of_classes_is_that_of_the_graph(bundle, tmp_path, capsys):
    images = tree(tmp_path / "images", {"class 0": 3, "class 7": 4})
    run_engine.run(bundle, images, 0)
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    pre, right = Preprocess(resize=32, crop=32), 0
    for label in (0, 7):
        for path in sorted((images / f"class {label}").iterdir()):
            logits = session.run(None, {"image": pre.apply(Image.open(path))[None]})[0]
            right += int(logits.argmax()) == label
    assert json.loads((bundle / device.REPORT).read_text())["images"] == {"n": 7, "right": right, "classes": 2}
    assert f"top-1 {100 * right / 7:.2f} % of 7 images of 2 classes" in capsys.readouterr().out


def test_images_without_labels_print_their_class(bundle, tmp_path, capsys):
    run_engine.run(bundle, tree(tmp_path / "images", {"flat": 2}) / "flat", 0)
    assert "0.png: class " in capsys.readouterr().out
    assert json.loads((bundle / device.REPORT).read_text())["images"] is None


@pytest.mark.parametrize(
    ("layout", "words"), [({"dog": 1}, "named like no class"), ({"class 1": 0}, "no images"), ({}, "no images")]
)
def test_folder_without_known_classes_is_refused(bundle, tmp_path, layout, words):
    (tmp_path / "images").mkdir()
    with pytest.raises(device.BundleError, match=words) as failure:
        run_engine.run(bundle, tree(tmp_path / "images", layout), 0)
    assert failure.value.exit_code == 2
    assert not (bundle / device.REPORT).exists()


def test_a_damaged_image_is_named_and_never_skipped(bundle, tmp_path):
    images = tree(tmp_path / "images", {"class 1": 2})
    broken = images / "class 1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(device.BundleError, match=r"1\.png cannot be read"):
        run_engine.run(bundle, images, 0)
    (images / "class 1" / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(device.BundleError, match="is EPS"):
        run_engine.run(bundle, images, 0)


@pytest.mark.parametrize(
    ("key", "value"), [("tensorrt", "10.4.0"), ("sm", "8.9"), ("driver", 1), ("gpu", "other"), ("manifest_sha256", "0")]
)
def test_an_engine_from_elsewhere_is_never_loaded(bundle, monkeypatch, key, value):
    sidecar = json.loads((bundle / engine.SIDECAR).read_text())
    (bundle / engine.SIDECAR).write_text(json.dumps({**sidecar, key: value}))
    monkeypatch.setattr(engine, "Runner", None)
    with pytest.raises(device.BundleError, match=f"not the engine that was built here.*{key}") as failure:
        run_engine.run(bundle, None, 0)
    assert failure.value.exit_code == 2


def test_an_engine_that_was_changed_or_has_no_sidecar_is_never_loaded(bundle, monkeypatch):
    monkeypatch.setattr(engine, "Runner", None)
    plan = (bundle / engine.PLAN).read_bytes()
    (bundle / engine.PLAN).write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    with pytest.raises(device.BundleError, match="plan_sha256"):
        run_engine.run(bundle, None, 0)
    (bundle / engine.PLAN).write_bytes(plan)
    (bundle / engine.SIDECAR).write_text("[]")
    with pytest.raises(device.BundleError, match=r"was not built by build_engine\.py here"):
        run_engine.run(bundle, None, 0)
    (bundle / engine.SIDECAR).unlink()
    with pytest.raises(device.BundleError, match=r"type 'python3 build_engine\.py'"):
        run_engine.run(bundle, None, 0)


def test_on_a_host_without_tensorrt_it_verifies_says_so_and_ends_with_3(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "bundle")
    (tmp_path / "bundle" / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    call = [sys.executable, "run_engine.py"]
    done = subprocess.run(call, cwd=tmp_path / "bundle", capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "bundle intact: 17 files" in done.stdout
    assert "copy the bundle to the device" in done.stderr
    assert "Traceback" not in done.stderr
