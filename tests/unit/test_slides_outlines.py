"""Outlines of regions, the documents made of them, and nuclei that do not depend on tiles."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from delineate.errors import InputError, ModelError
from delineate.runners.base import Job
from delineate.slides import mask
from delineate.slides.documents import About, document
from delineate.slides.flat import FlatSlide
from delineate.slides.outlines import Outlines, Polygons, are_simple
from delineate.slides.part import Window, read_part
from delineate.slides.tracing import trace

pytest.importorskip("skimage")
Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

from delineate.models.nuclei import segment  # noqa: E402  # needs them
from delineate.models.nuclei.model import Nuclei  # noqa: E402
from delineate.testing.phantoms.slides import stained_tissue  # noqa: E402

CONFIG = {"min_area": 10.0, "max_area": 250.0, "mpp": 0.5}


def random_regions(seed: int, smooth: float) -> np.ndarray:
    """Regions connected by sides of pixels, with holes, pinches and spikes, free of the image's edge."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(90, 110)), smooth)
    inside = np.zeros(field.shape, bool)
    inside[2:-2, 2:-2] = (field > 0)[2:-2, 2:-2]
    labels: np.ndarray = ndimage.label(inside)[0].astype(np.int32)
    return labels


def centroid(points: np.ndarray) -> np.ndarray:
    """The middle of what a polygon encloses."""
    after = np.roll(points, -1, axis=0)
    cross = points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]
    middle: np.ndarray = ((points + after) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return middle


def polygons_of(*lists: list[tuple[int, int]]) -> Polygons:
    points = [np.array(one, np.int32) for one in lists]
    return Polygons(np.concatenate(points), np.array([len(one) for one in points]))


class TestTracing:
    @pytest.mark.parametrize("smooth", [0.0, 0.8, 2.0, 5.0])
    @pytest.mark.parametrize("factor", [1.0, 2.0, 4.00021])
    def test_polygons_are_simple_and_are_the_regions(self, smooth: float, factor: float) -> None:
        labels = random_regions(7, smooth)
        which = np.unique(labels)[1:]
        found = trace(labels, which, 0, 0, factor)
        assert len(found) == len(which)
        assert are_simple(found).all()
        filled = [ndimage.binary_fill_holes(labels == label).sum() for label in which[:40].tolist()]
        # Corners are cut: half a pixel of each turn, and no more than that.
        assert found.areas[:40] == pytest.approx(np.array(filled) * factor**2, rel=0.5, abs=factor**2)
        assert (found.areas > 0).all()

    def test_a_square(self) -> None:
        labels = np.zeros((12, 14), np.int32)
        labels[3:9, 2:10] = 5
        found = trace(labels, np.array([5]), 100, 200, 1.0)
        (points,) = found
        x, y = (points / 2).T
        assert (x.min(), x.max(), y.min(), y.max()) == (102, 110, 203, 209)
        assert found.areas == pytest.approx(48, abs=0.6)

    def test_touching_corners_stay_apart(self) -> None:
        labels = np.zeros((9, 9), np.int32)
        labels[2:5, 2:5] = 1
        labels[3, 3] = 0
        labels[2, 4] = 0  # a ring, and open at one corner: two of its pixels touch by a corner alone
        labels[3, 4] = labels[2, 3] = 1
        assert are_simple(trace(labels, np.array([1]), 0, 0, 1.0)).all()

    def test_none(self) -> None:
        assert len(trace(np.zeros((5, 5), np.int32), np.array([], np.int64), 0, 0, 1.0)) == 0

    def test_what_is_not_simple(self) -> None:
        cross = [(0, 0), (10, 10), (10, 0), (0, 10)]
        touch = [(0, 0), (10, 0), (10, 10), (5, 0), (0, 10)]
        good = [(0, 0), (10, 0), (10, 10), (0, 10)]
        notch = [(0, 0), (4, 0), (4, 4), (6, 4), (6, 0), (10, 0), (10, 10), (0, 10)]
        assert are_simple(polygons_of(cross, touch, good, notch)).tolist() == [False, False, True, True]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crowded, and with noise beside it: all there is to get wrong at the edge of a tile."""
    pixels, _ = stained_tissue(700, 500, mpp=0.5, per_mm2=9000, seed=5)
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.normal(0, 1, (500, 300, 3)), (4, 4, 0)) * 400 + 150
    path = tmp_path_factory.mktemp("dense") / "a.png"
    Image.fromarray(np.concatenate([pixels, np.clip(noise, 0, 255).astype(np.uint8)], axis=1)).save(path)
    return path


class TestNuclei:
    @staticmethod
    def run(path: Path, params: dict[str, Any] | None = None, **prompts: Any) -> Any:
        part = read_part(params or {}).on(FlatSlide(path))
        job = Job(
            images=(), input_folder=path, output_folder=path, prompts={**CONFIG, **prompts}, report=lambda *_: None, log=lambda _: None,
            deadline=1e9, task="t", slide=part,
        )  # fmt: skip
        return Nuclei({}, None).segment(job)

    def test_the_same_whatever_the_tiles(self, dense: Path) -> None:
        whole = self.run(dense, {"tile_size": [2048, 2048]}).outlines.groups["Nuclei"]
        assert len(whole) > 500
        assert are_simple(whole).all()
        for tile in ([129, 300], [400, 131], [250, 250]):
            other = self.run(dense, {"tile_size": tile}).outlines.groups["Nuclei"]
            assert np.array_equal(other.counts, whole.counts)
            assert np.array_equal(other.points, whole.points)

    def test_a_region_has_those_of_the_slide_whose_middle_is_in_it(self, dense: Path) -> None:
        whole = {polygon.tobytes() for polygon in self.run(dense).outlines.groups["Nuclei"]}
        halves = [
            {polygon.tobytes() for polygon in self.run(dense, {"location": [x, 0], "size": [w, 0]}).outlines.groups["Nuclei"]}
            for x, w in ((0, 333), (333, 0))
        ]
        assert halves[0].isdisjoint(halves[1])
        assert halves[0] | halves[1] == whole

    def test_windows_that_overlap_count_once(self, dense: Path) -> None:
        tiles = [{"location": [0, 0], "size": [400, 500]}, {"location": [200, 0], "size": [400, 500]}]
        once = self.run(dense, {"location": [0, 0], "size": [600, 500]}).outlines.groups["Nuclei"]
        assert np.array_equal(self.run(dense, {"wsi_tiles": tiles}).outlines.groups["Nuclei"].points, once.points)

    def test_all_and_only_nuclei_inside_the_slide(self, tmp_path: Path) -> None:
        pixels, nuclei = stained_tissue(800, 600, mpp=0.5, per_mm2=3000)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = self.run(tmp_path / "a.png", {"min_poly_area": 20}).outlines
        group = found.groups["Nuclei"]
        assert 0.97 * len(nuclei) <= len(group) <= len(nuclei)
        assert (group.points >= 0).all()
        assert (group.points <= (1600, 1200)).all()
        middles = np.array([centroid(polygon / 2) for polygon in group])
        shares = []
        for one in nuclei:
            if one.long < one.x < 800 - one.long and one.long < one.y < 600 - one.long:
                nearest = int(np.argmin(np.hypot(*(middles - (one.x, one.y)).T)))
                assert np.hypot(*(middles[nearest] - (one.x, one.y))) < 2
                shares.append(group.areas[nearest] / (np.pi * one.long * one.short))
        assert np.median(shares) == pytest.approx(1, abs=0.1)
        assert min(shares) > 0.7
        assert max(shares) < 1.3

    def test_a_slide_is_looked_all_over_once(self, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        inner = segment.threshold_for
        monkeypatch.setattr(segment, "threshold_for", lambda *given: asked.append(1) or inner(*given))
        model, slide = Nuclei({}, None), FlatSlide(dense)
        for key in ("a", "a", "b", "", ""):
            part = read_part({"size": [200, 200]}).on(slide, key)
            job = Job(
                images=(), input_folder=dense, output_folder=dense, prompts=CONFIG, report=lambda *_: None, log=lambda _: None,
                deadline=1e9, task="t", slide=part,
            )  # fmt: skip
            assert model.segment(job).values["count"] > 10
        assert len(asked) == 4

    def test_the_density_is_that_of_the_library(self) -> None:
        from skimage.color import rgb2hed

        pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        assert segment.density(pixels) == pytest.approx(rgb2hed(pixels)[..., 0], abs=1e-5)  # type: ignore[no-untyped-call]

    @pytest.mark.parametrize("colour", [255, (230, 160, 200), (20, 20, 20)])
    def test_nothing_where_no_nuclei_are(self, tmp_path: Path, colour: Any) -> None:
        pixels = np.zeros((300, 300, 3), np.uint8)
        pixels[:] = colour
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert self.run(tmp_path / "a.png").values["count"] == 0

    def test_least_and_largest(self, dense: Path) -> None:
        areas = self.run(dense).outlines.groups["Nuclei"].areas
        some = self.run(dense, {"min_poly_area": 200}, max_area=90.0).outlines.groups["Nuclei"].areas
        assert 0 < len(some) < len(areas)
        assert some.min() >= 200

    def test_one_thread_or_many(self, dense: Path) -> None:
        one, many = (self.run(dense, {"tile_size": [200, 200]}, max_workers=n).outlines.groups["Nuclei"] for n in (1, 8))
        assert np.array_equal(one.points, many.points)

    @pytest.mark.parametrize("prompts", [{"mpp": 3.0}, {"mpp": "x"}, {"min_area": -1}, {"max_area": True}, {"threshold": float("nan")}])
    def test_parameters_that_make_no_sense(self, dense: Path, prompts: dict[str, Any]) -> None:
        with pytest.raises(ModelError) as caught:
            self.run(dense, **prompts)
        assert caught.value.kind == "input"


class TestDocuments:
    OUTLINES = Outlines(
        within=Window(10, 20, 30, 40),
        groups={'a "b" <c>': polygons_of([(20, 40), (40, 40), (40, 60)], [(25, 45), (27, 45), (27, 47)]), "none": Polygons.joined([])},
        colours={'a "b" <c>': (0, 255, 16)},
    )
    ABOUT = About(model="nuclei", description='quotes " and <angles> & \u00b5', latencies={"infer": 1.5})

    def test_dsa(self) -> None:
        text = "".join(document("dsa", self.OUTLINES, self.ABOUT))
        found = json.loads(text)
        assert [element["points"] for element in found["elements"]] == [
            [[10, 20, 0], [20, 20, 0], [20, 30, 0]],
            [[12.5, 22.5, 0], [13.5, 22.5, 0], [13.5, 23.5, 0]],
        ]
        assert found["elements"][0]["lineColor"] == "rgb(0,255,16)"
        said = json.loads(json.loads(text.split("\n")[-2].replace('"description": ', "")))
        assert (said["count"], said["location"], said["size"], said["latencies"]) == (2, [10, 20], [30, 40], {"infer": 1.5})

    def test_asap(self) -> None:
        root = ET.fromstring("".join(document("asap", self.OUTLINES, self.ABOUT)))
        about = root.find("Annotations")
        assert about is not None
        assert (about.attrib["Description"], about.attrib["X"], about.attrib["H"]) == (self.ABOUT.description, "10", "40")
        annotations = about.findall("Annotation")
        assert [a.attrib["Name"] for a in annotations] == ['a "b" <c>'] * 2
        assert annotations[0].attrib["Color"] == "#00ff10"
        assert [c.attrib["Order"] for c in annotations[0].iter("Coordinate")] == ["0", "1", "2"]
        assert [group.attrib["Name"] for group in root.iter("Group")] == ['a "b" <c>', "none"]

    def test_json(self) -> None:
        found = json.loads("".join(document("json", self.OUTLINES, self.ABOUT)))
        (element,) = found["annotations"][0]["annotation"]["elements"]
        assert element["contours"][0] == [[10, 20], [20, 20], [20, 30]]
        assert found["annotations"][0]["annotation"]["labels"] == {'a "b" <c>': [0, 255, 16], "none": [255, 0, 0]}
        assert (found["model"], found["latencies"]) == ("nuclei", {"infer": 1.5})

    @pytest.mark.parametrize("form", ["dsa", "asap", "json"])
    def test_nothing_found(self, form: str) -> None:
        text = "".join(document(form, Outlines(within=Window(0, 0, 1, 1), groups={"Nuclei": Polygons.joined([])}), self.ABOUT))
        assert (ET.fromstring(text) is not None) if form == "asap" else json.loads(text)


class TestMasks:
    @pytest.mark.parametrize("suffix", [".png", ".tiff"])
    def test_numbers_in_order(self, tmp_path: Path, suffix: str) -> None:
        labels = random_regions(3, 3.0)
        labels[ndimage.binary_dilation(labels == 0)] = 0
        labels = ndimage.label(labels)[0].astype(np.int32)
        which = np.unique(labels)[1:]
        outlines = Outlines(within=Window(0, 0, 110, 90), groups={"a": trace(labels, which, 0, 0, 1.0)})
        made = mask.mask_of(outlines)
        filled = np.zeros_like(labels)
        for number, label in enumerate(which, start=1):
            filled[ndimage.binary_fill_holes(labels == label)] = number
        assert (made != filled).mean() < 0.06
        assert made[filled == 0].max(initial=0) <= len(which)
        mask.write_mask(tmp_path / f"a{suffix}", made)
        read = tifffile.imread(tmp_path / "a.tiff") if suffix == ".tiff" else np.asarray(Image.open(tmp_path / "a.png"))
        assert np.array_equal(read, made)

    def test_too_large(self) -> None:
        with pytest.raises(InputError, match="too large"):
            mask.mask_of(Outlines(within=Window(0, 0, 1 << 14, 1 << 14), groups={}))
