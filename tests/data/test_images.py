from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from edgeres.data.content import WholeFile
from edgeres.data.images import ArrayImage, EncodedImage
from edgeres.data.preprocess import MAX_PIXELS, Preprocess
from edgeres.errors import DataError


def noise(width=48, height=40):
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def stored(tmp_path, name, image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("rgb.jpg", noise()),
        ("cmyk.jpeg", noise().convert("CMYK")),
        ("grey.png", noise().convert("L")),
        ("palette.png", noise().convert("P")),
        ("alpha.png", noise().convert("RGBA")),
        ("bits.png", noise().convert("1")),
        ("b.bmp", noise()),
        ("w.webp", noise()),
        ("p.ppm", noise()),
    ],
)
def test_decodes_to_what_pillow_converts_to_rgb(tmp_path, name, image):
    path = stored(tmp_path, name, image)
    decoded = EncodedImage.probe(WholeFile(path)).decode()
    assert decoded.mode == "RGB"
    with Image.open(path) as reference:
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(reference.convert("RGB")))


def test_multi_picture_jpeg_of_a_phone_is_taken(tmp_path):
    path = tmp_path / "phone.jpg"
    noise().save(path, format="MPO", save_all=True, append_images=[noise()])
    assert EncodedImage.probe(WholeFile(path)).decode().size == (48, 40)


def test_exif_orientation_is_ignored_as_torchvision_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert EncodedImage.probe(WholeFile(stored(tmp_path, "turned.jpg", noise(), exif=exif))).decode().size == (48, 40)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.webp"])
def test_exif_orientation_is_read_and_applied_where_that_is_asked(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = stored(tmp_path, name, noise(), exif=exif, **({"lossless": True} if "webp" in name else {}))
    image = EncodedImage.probe(WholeFile(path))
    assert image.orientation == 6
    decoded = image.decode()
    ignored, applied = (Preprocess(resize=0, crop=40, exif=exif) for exif in ("ignore", "apply"))
    assert applied.upright(decoded).size == (40, 48)
    assert ignored.upright(decoded) is decoded
    turned = decoded.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(applied.apply(decoded), ignored.apply(turned))
    assert not np.array_equal(applied.apply(decoded), ignored.apply(decoded))


def test_damaged_exif_and_none_at_all_are_upright(tmp_path):
    damaged = EncodedImage.probe(
        WholeFile(stored(tmp_path, "damaged.jpg", noise(), exif=b"Exif\x00\x00no tiff at all"))
    )
    assert damaged.orientation == 1
    assert Preprocess(exif="apply").upright(damaged.decode()).size == (48, 40)
    assert EncodedImage.probe(WholeFile(stored(tmp_path, "plain.jpg", noise()))).orientation == 1


def test_hash_is_of_the_bytes(tmp_path):
    path = stored(tmp_path, "a.png", noise())
    assert EncodedImage.probe(WholeFile(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_fingerprint_is_equal_for_copies_and_tells_sizes_and_heads_apart(tmp_path):
    path = stored(tmp_path, "a.bmp", noise())
    data = path.read_bytes()
    probes = []
    for name, content in (
        ("copy", data),
        ("longer", data + b"\0"),
        ("head", data[:60] + bytes([data[60] ^ 1]) + data[61:]),
    ):
        (tmp_path / f"{name}.bmp").write_bytes(content)
        probes.append(EncodedImage.probe(WholeFile(tmp_path / f"{name}.bmp")).fingerprint)
    original = EncodedImage.probe(WholeFile(path)).fingerprint
    assert probes[0] == original
    assert original not in probes[1:]


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_image_is_refused_by_its_header(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        EncodedImage.probe(WholeFile(path))


def test_eps_never_reaches_its_interpreter_whatever_it_is_called(tmp_path):
    path = tmp_path / "harmless.jpg"
    noise().save(path, format="EPS")
    with pytest.raises(DataError, match=r"harmless\.jpg is not an image of a known format"):
        EncodedImage.probe(WholeFile(path))


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.bmp", "cut.webp", "cut.ppm"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_file_is_refused_when_decoded(tmp_path, name, kept):
    path = stored(tmp_path, name, noise(200, 160))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=r"cut\."):
        EncodedImage.probe(WholeFile(path)).decode()


def test_damaged_png_is_refused_when_decoded(tmp_path):
    path = stored(tmp_path, "bad.png", noise())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"bad\.png cannot be read"):
        EncodedImage.probe(WholeFile(path)).decode()


def test_file_that_vanished_is_named(tmp_path):
    path = stored(tmp_path, "gone.png", noise())
    image = EncodedImage.probe(WholeFile(path))
    path.unlink()
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        image.decode()
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        _ = image.sha256


def test_sixteen_bits_are_refused_instead_of_clipped_to_white(tmp_path):
    path = stored(tmp_path, "deep.png", Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)))
    image = EncodedImage.probe(WholeFile(path))
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits a channel.*--range"):
        Preprocess(resize=0, crop=8).apply(image.decode())
    stated = Preprocess(resize=0, crop=8, mean=(0.0,), std=(1.0,), channels="grey", range=(0, 50_000))
    np.testing.assert_allclose(stated.apply(image.decode("grey")), np.full((1, 8, 8), 0.8), rtol=1e-6)


def test_bands_of_arrays_and_tiffs_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 60_000, (6, 8, 5), dtype=np.uint16)
    np.save(tmp_path / "five.npy", values)
    image = EncodedImage.probe(WholeFile(tmp_path / "five.npy"))
    assert (image.header.bands, image.header.width, image.header.height, image.header.depth) == (5, 8, 6, 16)
    transform = Preprocess(
        resize=0, crop="6x8", mean=(0.1,) * 5, std=(0.5,) * 5, channels="bands", range=(10_000, 50_000)
    )
    expected = ((values.transpose(2, 0, 1) - 10_000.0) / 40_000 - 0.1) / 0.5
    np.testing.assert_allclose(transform.apply(image.decode("bands")), expected, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match=r"five\.npy: 5 bands, the network reads 3.*--channels bands"):
        Preprocess(range=(0, 1)).apply(image.decode())
    four = stored(tmp_path, "four.tif", Image.fromarray(values[:, :, :4].astype(np.uint8), "RGBA"))
    image = EncodedImage.probe(WholeFile(four))
    transform = Preprocess(resize=0, crop="6x8", mean=(0.0,) * 4, std=(1 / 255,) * 4, channels="bands")
    expected = values[:, :, :4].astype(np.uint8).transpose(2, 0, 1)
    np.testing.assert_allclose(transform.apply(image.decode("bands")), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), "save each image as"),
        (np.zeros((3, 4, 999), np.uint8), "bands last"),
        (np.zeros((4, 4), np.complex64), "values of type complex64"),
        (np.zeros((0, 4), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_their_header(tmp_path, values, message):
    np.save(tmp_path / "odd.npy", values)
    with pytest.raises(DataError, match=message):
        EncodedImage.probe(WholeFile(tmp_path / "odd.npy"))


def test_arrays_with_objects_and_cut_arrays_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="objects"):
        EncodedImage.probe(WholeFile(tmp_path / "objects.npy"))
    np.save(tmp_path / "cut.npy", np.zeros((64, 64), np.uint8))
    content = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-100])
    with pytest.raises(DataError, match="cut short"):
        EncodedImage.probe(WholeFile(tmp_path / "cut.npy"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    assert side * side > MAX_PIXELS
    path = tmp_path / "bomb.png"
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"bomb\.png"):
        EncodedImage.probe(WholeFile(path))


def test_array_hash_covers_shape_and_pixels():
    pixels = np.arange(12, dtype=np.uint8)
    hashes = {ArrayImage(pixels.reshape(shape), "").sha256 for shape in [(3, 4), (4, 3), (2, 2, 3)]}
    hashes.add(ArrayImage(pixels[::-1].reshape(3, 4), "").sha256)
    assert len(hashes) == 4
    assert ArrayImage(pixels.reshape(3, 4), "here").sha256 in hashes


def test_grey_array_becomes_rgb():
    decoded = np.asarray(ArrayImage(np.array([[0, 255]], dtype=np.uint8), "").decode())
    np.testing.assert_array_equal(decoded, [[[0, 0, 0], [255, 255, 255]]])
