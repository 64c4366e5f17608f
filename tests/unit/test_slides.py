"""Slides: what is read of them, what is refused, and what part of one is meant."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.errors import DelineateError, ImageError, InputError
from delineate.slides import flat
from delineate.slides.opening import open_slide
from delineate.slides.part import Window, read_part
from delineate.slides.scanned import ScannedSlide
from delineate.slides.slide import Level, on_white, plausible, require_window
from delineate.slides.tiff import TiffSlide
from delineate.slides.tiles import over_tiles, read_scaled, scale_for, tiles_of

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

from delineate.testing.phantoms.slides import write_pyramid  # noqa: E402  # needs them

PIXELS = np.random.default_rng(3).integers(0, 255, (610, 530, 3), dtype=np.uint8)


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    write_pyramid(path, PIXELS)
    return path


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test opened is closed behind it."""
    made: list[Any] = []
    for kind in (TiffSlide, ScannedSlide):
        inner = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, *given, inner=inner: (inner(self, *given), made.append(self))[0])
    yield
    for slide in made:
        slide.close()


class Memory:
    """A slide in memory that remembers what was read."""

    def __init__(self, pixels: np.ndarray, mpp: float | None = 0.5, levels: int = 1) -> None:
        self._all = [pixels[:: 2**n, :: 2**n] for n in range(levels)]
        self.levels = tuple(Level(p.shape[1], p.shape[0], 2.0**n) for n, p in enumerate(self._all))
        self.mpp = mpp
        self.largest = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        require_window(self.levels, level, x, y, width, height)
        self.largest = max(self.largest, width * height)
        return self._all[level][y : y + height, x : x + width]

    def close(self) -> None:
        pass


class TestReading:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("reader", [open_slide, TiffSlide])
    def test_windows_of_a_pyramid(self, tmp_path: Path, reader: Any, compression: str | None) -> None:
        path = tmp_path / "a.tif"
        write_pyramid(path, PIXELS, compression=compression)
        slide = reader(path)
        assert [(level.width, level.height) for level in slide.levels] == [(530, 610), (265, 305), (132, 152)]
        assert slide.levels[1].downsample == pytest.approx(2.0)
        assert slide.mpp == pytest.approx(0.25, rel=1e-3)
        for x, y, width, height in ((0, 0, 530, 610), (250, 250, 10, 20), (529, 609, 1, 1), (100, 256, 400, 300)):
            assert np.array_equal(slide.read(0, x, y, width, height), PIXELS[y : y + height, x : x + width])
        coarse = slide.read(1, 10, 20, 100, 110).astype(int)
        fine = PIXELS[40:260, 20:220].reshape(110, 2, 100, 2, 3).mean(axis=(1, 3))
        assert np.abs(coarse - fine).max() <= 1

    def test_openslide_reads_what_it_knows(self, pyramid: Path) -> None:
        pytest.importorskip("openslide")
        assert isinstance(open_slide(pyramid), ScannedSlide)

    def test_jpeg_tiles(self, tmp_path: Path) -> None:
        openslide = pytest.importorskip("openslide")
        assert openslide
        path = tmp_path / "a.svs"
        file = io.BytesIO()
        smooth = np.full((256, 256, 3), (200, 100, 150), np.uint8)
        Image.fromarray(smooth).save(file, "JPEG", quality=95)
        write_jpeg_tile(path, file.getvalue())
        assert np.abs(open_slide(path).read(0, 3, 4, 50, 60).astype(int) - (200, 100, 150)).max() <= 3
        with pytest.raises(ImageError, match="JPEG"):
            TiffSlide(path)

    def test_strips_and_a_single_page(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, PIXELS, rowsperstrip=7, photometric="rgb")
        slide = open_slide(path)
        assert isinstance(slide, TiffSlide)
        assert len(slide.levels) == 1
        assert np.array_equal(slide.read(0, 5, 100, 300, 29), PIXELS[100:129, 5:305])

    def test_only_the_tiles_that_are_touched_are_decoded(self, pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slide = TiffSlide(pyramid)
        decoded = []
        inner = slide._decoded
        monkeypatch.setattr(slide, "_decoded", lambda page, index: decoded.append(index) or inner(page, index))
        slide.read(0, 250, 10, 20, 20)
        assert decoded == [0, 1]
        slide.read(0, 0, 0, 10, 10)
        assert decoded == [0, 1]  # it is still there

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
    def test_png_of_any_kind(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / "a.png"
        image = Image.fromarray(PIXELS[:40, :30]).convert(mode)
        image.save(path)
        slide = open_slide(path)
        assert (slide.levels, slide.mpp) == ((Level(30, 40, 1.0),), None)
        assert np.array_equal(slide.read(0, 5, 6, 20, 10), np.asarray(image.convert("RGB"))[6:16, 5:25])

    def test_grey_tiff_and_jpeg(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", PIXELS[..., 0])
        assert np.array_equal(open_slide(tmp_path / "a.tif").read(0, 0, 0, 30, 40)[..., 2], PIXELS[:40, :30, 0])
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
        assert open_slide(tmp_path / "a.jpg").read(0, 500, 600, 30, 10).shape == (10, 30, 3)

    def test_what_is_transparent_is_white(self) -> None:
        pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
        assert on_white(pixels).tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_resolutions_of_paper_are_none_of_slides(self) -> None:
        assert plausible(25400 / 72) is None
        assert plausible(0.25) == 0.25

    def test_the_scanner_may_say_it_in_words(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", description="Aperio Image|AppMag = 20|MPP = 0.4990", metadata=None)
        assert TiffSlide(tmp_path / "a.tif").mpp == pytest.approx(0.499)


def write_jpeg_tile(path: Path, tile: bytes, side: int = 256, claimed: int = 256) -> None:
    """A TIFF of one tile with JPEG, or with anything that is called so."""
    fields = [
        (256, 3, claimed),
        (257, 3, claimed),
        (258, 3, 8),
        (259, 3, 7),
        (262, 3, 6),
        (277, 3, 3),
        (284, 3, 1),
        (322, 3, side),
        (323, 3, side),
    ]
    fields += [(324, 4, 512), (325, 4, len(tile))]
    head = b"II*\x00" + struct.pack("<IH", 8, len(fields))
    head += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields) + bytes(4)
    path.write_bytes(head.ljust(512, b"\x00") + tile)


class TestRefused:
    def test_what_is_no_slide(self, tmp_path: Path) -> None:
        for content in (
            b"",
            b"hello",
            b"\x1f\x8b" + bytes(100),
            b"\x89PNG\r\n\x1a\n" + bytes(40),
            b"II*\x00" + bytes(40),
            b"\xff\xd8\xff" + bytes(40),
        ):
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(ImageError):
                open_slide(tmp_path / "x").read(0, 0, 0, 1, 1)
        with pytest.raises(ImageError):
            open_slide(tmp_path / "nothing")

    @pytest.mark.parametrize("size", [(1 << 30, 1 << 30), (1 << 20, 1), (9000, 9000), (0, 5)])
    def test_png_that_claims_to_be_huge(self, tmp_path: Path, size: tuple[int, int]) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
        with pytest.raises(ImageError):
            open_slide(tmp_path / "a.png").read(0, 0, 0, *size)

    def test_tiff_that_claims_to_be_huge(self, tmp_path: Path) -> None:
        write_jpeg_tile(tmp_path / "a.tif", b"x" * 100, claimed=65000, side=65520)
        with pytest.raises(ImageError):
            open_slide(tmp_path / "a.tif").read(0, 0, 0, 10, 10)

    def test_a_tile_that_unpacks_to_more_than_a_tile(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, np.zeros((256, 256, 3), np.uint8), tile=(256, 256), compression="zlib", photometric="rgb")
        content = bytearray(path.read_bytes())
        bomb = zlib.compress(bytes(50 << 20))
        with tifffile.TiffFile(path) as file:
            offsets, counts = file.pages[0].tags["TileOffsets"], file.pages[0].tags["TileByteCounts"]
        content[offsets.valueoffset : offsets.valueoffset + 4] = struct.pack("<I", len(content))
        content[counts.valueoffset : counts.valueoffset + 4] = struct.pack("<I", len(bomb))
        path.write_bytes(bytes(content) + bomb)
        with pytest.raises(ImageError, match=r"longer than it can be|unpacks to more"):
            TiffSlide(path).read(0, 0, 0, 10, 10)

    def test_damaged_tiles(self, pyramid: Path) -> None:
        content = pyramid.read_bytes()
        pyramid.write_bytes(content[: len(content) // 3])
        for reader in (open_slide, TiffSlide):
            with pytest.raises(ImageError) as caught:
                slide = reader(pyramid)
                slide.read(0, 0, 0, 530, 610)
            assert str(pyramid.parent) not in caught.value.sentence(), "who sent it is not to know where it lies"

    def test_cut_off_png(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "PNG")
        (tmp_path / "a.png").write_bytes(file.getvalue()[:100_000])
        with pytest.raises(ImageError, match="cut off"):
            open_slide(tmp_path / "a.png").read(0, 0, 0, 10, 10)

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", PIXELS.astype(np.uint16), photometric="rgb")
        with pytest.raises(ImageError, match="8 bits"):
            open_slide(tmp_path / "a.tif")

    def test_flat_images_must_be_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.fromarray(PIXELS).save(tmp_path / "a.png")
        monkeypatch.setattr(flat, "MOST_AT_ONCE", 1000)
        with pytest.raises(ImageError, match="tiled"):
            open_slide(tmp_path / "a.png")

    @pytest.mark.parametrize(
        "window", [(0, -1, 0, 5, 5), (0, 0, 0, 531, 5), (0, 530, 0, 1, 1), (0, 0, 0, 0, 5), (3, 0, 0, 5, 5), (-1, 0, 0, 5, 5)]
    )
    def test_windows_outside(self, pyramid: Path, window: tuple[int, int, int, int, int]) -> None:
        for slide in (open_slide(pyramid), TiffSlide(pyramid)):
            with pytest.raises(InputError):
                slide.read(*window)


class TestParts:
    def test_the_whole_slide_by_default(self) -> None:
        assert read_part({}).on(Memory(PIXELS)).windows == (Window(0, 0, 530, 610),)

    def test_a_window_is_cut_at_the_edges(self) -> None:
        part = read_part({"location": [500, 600.0], "size": [2048, 0]}).on(Memory(PIXELS))
        assert part.windows == (Window(500, 600, 30, 10),)

    @pytest.mark.parametrize(("location", "size"), [([0, 0], [0, 0]), ([-1, -1], [-1, -1]), (None, None)])
    def test_nothing_above_zero_is_all(self, location: Any, size: Any) -> None:
        params = {name: value for name, value in (("location", location), ("size", size)) if value}
        assert read_part(params).windows == ()

    def test_bounds_of_several_windows(self) -> None:
        tiles = [{"location": [10, 20], "size": [30, 40]}, {"location": [100, 5], "size": [1, 1]}]
        assert read_part({"wsi_tiles": tiles}).on(Memory(PIXELS)).bounds == Window(10, 5, 91, 55)

    @pytest.mark.parametrize(
        "params",
        [
            {"location": [-1, 5], "size": [1, 1]}, {"size": [1, -1]}, {"size": "big"}, {"size": [1, 2, 3]}, {"size": [True, 2]},
            {"size": [float("nan"), 2]}, {"size": [float("inf"), 2]}, {"size": [1 << 60, 2]}, {"tile_size": [63, 1024]},
            {"tile_size": [1 << 20, 1024]}, {"level": -1}, {"level": 0.5}, {"level": "0"}, {"min_poly_area": True}, {"min_poly_area": -1},
            {"output": "xml"}, {"wsi_tiles": {"location": [0, 0]}}, {"wsi_tiles": [{"location": [-1, 0]}]},
        ],
    )  # fmt: skip
    def test_what_makes_no_sense(self, params: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            read_part(params)

    def test_what_is_not_on_the_slide(self) -> None:
        for params in ({"location": [530, 0], "size": [5, 5]}, {"level": 1}):
            with pytest.raises(InputError):
                read_part(params).on(Memory(PIXELS))


class TestTiles:
    def test_a_scale_near_what_is_wanted(self) -> None:
        slide = Memory(np.zeros((4096, 4096, 3), np.uint8), mpp=0.25, levels=3)
        assert (scale_for(slide, 0, 0.25, 0.5).level, scale_for(slide, 0, 0.25, 0.5).factor) == (1, 2.0)
        assert scale_for(slide, 2, 0.25, 0.5).mpp == 1.0  # the finest that may be read
        alone = scale_for(Memory(np.zeros((4096, 4096, 3), np.uint8), mpp=0.25), 0, 0.25, 0.5)
        assert (alone.level, alone.steps, alone.factor, alone.width) == (0, 2, 2.0, 2048)

    def test_blocks_are_means_and_glass_is_white(self) -> None:
        slide = Memory(PIXELS, mpp=0.25)
        scale = scale_for(slide, 0, 0.25, 0.5)
        read = read_scaled(slide, scale, -2, -3, 10, 10)
        assert (read[:3] == 255).all()
        assert (read[:, :2] == 255).all()
        mean = PIXELS[:20, :20].reshape(10, 2, 10, 2, 3).mean(axis=(1, 3))
        assert np.abs(read[3:, 2:].astype(float) - mean).max() <= 0.5

    @pytest.mark.parametrize("tile", [64, 200, 1024])
    def test_every_pixel_belongs_to_one_tile(self, tile: int) -> None:
        part = read_part({"tile_size": [tile, tile + 30], "location": [13, 7], "size": [400, 501]}).on(Memory(PIXELS))
        scale = scale_for(part.slide, 0, 0.5, 0.5)
        count = np.zeros((610, 530), int)
        for left, top, right, bottom, _ in tiles_of(part, scale):
            count[top:bottom, left:right] += 1
        expected = np.zeros_like(count)
        expected[7:508, 13:413] = 1
        assert np.array_equal(count, expected)

    def test_results_come_in_order_and_with_progress(self) -> None:
        said: list[float] = []
        found = list(over_tiles(range(7), lambda tile: tile * tile, 3, lambda fraction, _: said.append(fraction)))  # type: ignore[arg-type]
        assert found == [0, 1, 4, 9, 16, 25, 36]
        assert said == sorted(said)
        assert said[-1] == 1.0

    def test_an_error_ends_all(self) -> None:
        def work(tile: int) -> int:
            if tile == 2:
                raise ImageError("a tile is damaged")
            return tile

        with pytest.raises(DelineateError):
            list(over_tiles(range(50), work, 2, lambda *_: None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("blocked", "code", "words"),
    [
        ("skimage", "import delineate.models.nuclei.model", "skimage, which finds nuclei, is not installed"),
        ("tifffile", "open_slide(path)", "tifffile, which reads TIFF, is not installed"),
        ("PIL", "open_slide(path.with_suffix('.png'))", "Pillow, which reads PNG and JPEG images, is not installed"),
        ("openslide", "assert open_slide(path).levels; raise MissingPartError('it works', 'x')", "it works is not installed"),
    ],
)
def test_what_is_missing_says_so(pyramid: Path, blocked: str, code: str, words: str) -> None:
    Image.fromarray(PIXELS).save(pyramid.with_suffix(".png"))
    script = f"""
import sys, pathlib
from delineate.errors import MissingPartError
from delineate.slides.opening import open_slide
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ({blocked!r}, *(["openslide"] if {blocked!r} == "tifffile" else [])):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
path = pathlib.Path({str(pyramid)!r})
try:
    {code}
except MissingPartError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == words, done.stderr
