from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from edgeres.data.census import Census, Range
from edgeres.data.content import WholeFile
from edgeres.data.dataset import open_dataset
from edgeres.data.images import EncodedImage, Header


def probed(tmp_path, name, image, **options):
    image.save(tmp_path / name, **options)
    return EncodedImage.probe(WholeFile(tmp_path / name)).header


def test_a_header_is_what_the_file_states(tmp_path):
    rgb, exif = Image.new("RGB", (7, 5), (9, 80, 200)), Image.Exif()
    exif[0x0112] = 6
    headers = {
        "plain.jpg": (rgb, {}, Header("JPEG", "RGB", 7, 5)),
        "turned.jpg": (rgb, {"exif": exif}, Header("JPEG", "RGB", 7, 5, orientation=6)),
        "cmyk.jpg": (rgb.convert("CMYK"), {}, Header("JPEG", "CMYK", 7, 5, bands=4)),
        "grey.jpg": (rgb.convert("L"), {}, Header("JPEG", "L", 7, 5, bands=1)),
        "alpha.png": (rgb.convert("RGBA"), {}, Header("PNG", "RGBA", 7, 5, alpha=True, bands=4)),
        "palette.png": (rgb.convert("P"), {}, Header("PNG", "P", 7, 5, bands=1)),
        "keyed.png": (rgb.convert("P"), {"transparency": 0}, Header("PNG", "P", 7, 5, alpha=True, bands=1)),
        "one.png": (rgb.convert("1"), {}, Header("PNG", "1", 7, 5, depth=1, bands=1)),
        "w.webp": (rgb, {}, Header("WEBP", "RGB", 7, 5)),
        "b.bmp": (rgb, {}, Header("BMP", "RGB", 7, 5)),
    }
    for name, (image, options, expected) in headers.items():
        found = probed(tmp_path, name, image, **options)
        if name == "palette.png":  # Pillow writes as few bits as the palette needs
            assert found.depth in (1, 2, 4, 8)
            found = replace(found, depth=8)
        if name == "keyed.png":
            found = replace(found, depth=8)
        assert found == expected, name


def test_census_counts_by_hand():
    headers = [
        Header("JPEG", "RGB", 500, 375),
        Header("JPEG", "RGB", 500, 375, orientation=6),
        Header("JPEG", "CMYK", 640, 480),
        Header("PNG", "L", 32, 32, depth=1),
        Header("PNG", "RGBA", 100, 400, depth=16, alpha=True),
    ]
    census = Census.of(headers)
    assert census == Census(
        images=5,
        formats={"JPEG": 3, "PNG": 2},
        modes={"CMYK": 1, "L": 1, "RGB": 2, "RGBA": 1},
        depths={"1": 1, "16": 1, "8": 3},
        orientations={"1": 4, "6": 1},
        alpha=1,
        grey=1,
        widths=Range(low=32, median=500, high=640),
        heights=Range(low=32, median=375, high=480),
        sizes=4,
        commonest="500x375",
    )
    rows = dict(census.rows)
    assert rows["Grey among colour"] == "1 of 5"
    assert rows["EXIF orientations"] == "6 1"
    assert rows["Width"] == "32 to 640 px, median 500"
    assert Census.of([]) is None


def test_census_of_a_folder_covers_every_image(tmp_path):
    for number in range(80):
        file = tmp_path / ("train" if number < 50 else "val") / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), number, np.uint8)).convert("RGB" if number % 8 else "L").save(file)
    census = open_dataset(tmp_path, seed=0, calibration=32, allow=frozenset()).census
    assert (census.images, census.grey, census.commonest, census.formats) == (80, 10, "6x4", {"PNG": 80})


def test_census_of_the_digits():
    census = open_dataset(None, seed=0, calibration=32, allow=frozenset()).census
    assert (census.images, census.grey, census.commonest) == (1797, 1797, "8x8")
    assert dict(census.rows)["Grey among colour"] == "none"


def test_sixteen_bit_colour_is_counted_by_its_stored_depth(tmp_path):
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    ihdr = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" + bytes(12)))
    (tmp_path / "deep.png").write_bytes(content + chunk(b"IEND", b""))
    assert Image.open(io.BytesIO((tmp_path / "deep.png").read_bytes())).mode == "RGB"
    assert EncodedImage.probe(WholeFile(tmp_path / "deep.png")).header.depth == 16
