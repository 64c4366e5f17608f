"""The CT models against phantoms whose truth is known."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.models.body_ct.model import BodyCT
from delineate.models.bones_ct.model import BonesCT
from delineate.models.hounsfield import hounsfield
from delineate.models.lungs_ct.model import LungsCT
from delineate.orientation import reorientation
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.testing.phantoms import Phantom, abdomen_mr, chest_ct
from delineate.volume import Volume

SIZE, SPACING = (80, 68, 66), (5.0, 5.2, 5.1)
ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations((("L", "R"), ("P", "A"), ("S", "I")))
    for letters in itertools.product(*pairs)
]  # fmt: skip


def segment(model: type[Any], volume: Volume, logs: list[str] | None = None) -> Segmentation:
    job = Job(
        images=(volume,),
        input_folder=Path(),
        output_folder=Path(),
        prompts={},
        report=lambda fraction, message: None,
        log=(logs if logs is not None else []).append,
        deadline=time.monotonic() + 600,
        task="test",
    )
    result = model({}, None).segment(job)
    assert isinstance(result, Segmentation) and result.geometry.matches(volume.geometry)
    return result


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


@cache
def chest(**details: Any) -> Phantom:
    return chest_ct(SIZE, SPACING, **details)


@cache
def small_chest() -> Phantom:
    return chest_ct((42, 34, 33), (9.6, 10.2, 10.0))


def scores(phantom: Phantom, volume: Volume | None = None) -> dict[str, float]:
    found = segment(LungsCT, volume or phantom.volume)
    return {name: dice(found.mask(name), phantom.segmentation.mask(name)) for name in found.names}


class TestBody:
    @pytest.mark.parametrize("details", [{}, {"table": False}, {"clothes": False}, {"lungs": "L"}], ids=str)
    def test_agrees_with_the_truth(self, details: dict[str, Any]) -> None:
        phantom = chest(**details)
        assert dice(segment(BodyCT, phantom.volume).mask("Body"), phantom.segmentation.mask("Body")) > 0.985

    def test_arms_are_body_and_the_gap_is_not(self) -> None:
        phantom = chest_ct((108, 68, 50), SPACING, arms=True)
        body = segment(BodyCT, phantom.volume).mask("Body")
        assert dice(body, phantom.segmentation.mask("Body")) > 0.985

    def test_the_couch_is_left_out(self) -> None:
        phantom = chest()
        body = segment(BodyCT, phantom.volume).mask("Body")
        y = (np.arange(SIZE[1]) - (SIZE[1] - 1) / 2) * SPACING[1]
        assert not body[:, y > 122].any()

    def test_a_patient_on_the_belly(self) -> None:
        """The same voxels, mirrored: the couch is in front of the patient."""
        phantom = chest()
        volume = replace(phantom.volume, voxels=np.ascontiguousarray(phantom.volume.voxels[:, ::-1]))
        assert dice(segment(BodyCT, volume).mask("Body"), phantom.segmentation.mask("Body")[:, ::-1]) > 0.985

    def test_air_inside_is_body(self) -> None:
        """Also where lungs and airways are cut at the first and last slice."""
        phantom = chest()
        part = slice(21, 50)
        geometry = replace(phantom.volume.geometry, size=(*SIZE[:2], 29))
        body = segment(BodyCT, Volume(phantom.volume.voxels[part].copy(), geometry)).mask("Body")
        for name in ("Lung_L", "Lung_R", "Trachea", "Bronchus_Main"):
            inside = phantom.segmentation.mask(name)[part]
            assert inside.any() and not (inside & ~body).any()

    def test_a_lung_that_the_image_cuts_off(self) -> None:
        phantom = chest()
        part = (slice(None), slice(10, 53), slice(16, 64))
        voxels = np.ascontiguousarray(phantom.volume.voxels[part])
        volume = Volume(voxels, Geometry((48, 43, 66), SPACING))
        assert dice(segment(BodyCT, volume).mask("Body"), phantom.segmentation.mask("Body")[part]) > 0.97

    @pytest.mark.parametrize(
        ("size", "spacing"), [((160, 140, 6), (2.4, 2.4, 5.0)), ((330, 280, 5), (1.2, 1.2, 4.0)), ((200, 168, 8), (2.0, 2.0, 0.6))]
    )
    def test_spacings(self, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
        phantom = chest_ct(size, spacing)
        assert dice(segment(BodyCT, phantom.volume).mask("Body"), phantom.segmentation.mask("Body")) > 0.985

    def test_nothing_but_air(self) -> None:
        values = np.random.default_rng(0).integers(-1010, -990, (10, 20, 30)).astype(np.int16)
        logs: list[str] = []
        assert not segment(BodyCT, Volume(values, Geometry((30, 20, 10), (5, 5, 5))), logs).mask("Body").any()
        assert any("no body" in line for line in logs)


class TestLungs:
    @pytest.mark.parametrize("details", [{}, {"table": False}, {"contrast": True}, {"seed": 3}], ids=str)
    def test_agree_with_the_truth(self, details: dict[str, Any]) -> None:
        found = scores(chest(**details))
        assert found["Lung_L"] > 0.97 and found["Lung_R"] > 0.95

    def test_airways_are_left_out(self) -> None:
        phantom = chest_ct((136, 106, 54), (3.0, 3.0, 5.8))
        lungs = segment(LungsCT, phantom.volume).layers[0] > 0
        airways = phantom.segmentation.mask("Trachea") | phantom.segmentation.mask("Bronchus_Main")
        assert np.count_nonzero(lungs & airways) < 0.03 * np.count_nonzero(airways)

    @pytest.mark.parametrize("side", ["L", "R"])
    def test_one_lung_alone_keeps_its_side(self, side: str) -> None:
        logs: list[str] = []
        phantom = chest(lungs=side)
        found = segment(LungsCT, phantom.volume, logs)
        other = "R" if side == "L" else "L"
        assert dice(found.mask(f"Lung_{side}"), phantom.segmentation.mask(f"Lung_{side}")) > 0.95
        assert not found.mask(f"Lung_{other}").any()
        assert any(f"Lung_{other} was not found" in line for line in logs)

    @pytest.mark.parametrize("half", ["L", "R"])
    def test_half_an_image(self, half: str) -> None:
        phantom = chest()
        part = (slice(None), slice(None), slice(40, 80) if half == "L" else slice(0, 40))
        volume = Volume(np.ascontiguousarray(phantom.volume.voxels[part]), Geometry((40, *SIZE[1:]), SPACING))
        found = segment(LungsCT, volume)
        assert dice(found.mask(f"Lung_{half}"), phantom.segmentation.mask(f"Lung_{half}")[part]) > 0.95

    def test_no_lungs_but_stomach_gas(self) -> None:
        found = segment(LungsCT, chest(lungs="").volume)
        assert not found.layers[0].any()

    def test_lungs_that_touch_are_parted(self) -> None:
        phantom = chest()
        z, y, x = np.indices(phantom.volume.voxels.shape)
        place = np.stack([x, y, z], axis=-1) - (np.array(SIZE) - 1) / 2
        place *= SPACING
        bridge = (np.abs(place[..., 0] - 3) < 6) & (np.abs(place[..., 1] + 62) < 12) & (np.abs(place[..., 2] - 45) < 30)
        voxels = phantom.volume.voxels.copy()
        voxels[bridge] = -770
        found = segment(LungsCT, replace(phantom.volume, voxels=voxels))
        for name in ("Lung_L", "Lung_R"):
            assert dice(found.mask(name) & ~bridge, phantom.segmentation.mask(name) & ~bridge) > 0.95

    @pytest.mark.parametrize("change", [-75, 220], ids=["emphysema", "expiration"])
    def test_densities_of_lungs_vary(self, change: int) -> None:
        phantom = chest()
        voxels = phantom.volume.voxels.copy()
        for name in ("Lung_L", "Lung_R"):
            voxels[phantom.segmentation.mask(name) & (voxels < -700)] += change
        assert min(scores(phantom, replace(phantom.volume, voxels=voxels)).values()) > 0.95

    def test_fluid_is_no_lung_and_the_rest_keeps_its_side(self) -> None:
        phantom = chest()
        lung = phantom.segmentation.mask("Lung_R")
        fluid = lung & (np.arange(SIZE[2])[:, None, None] < 48)
        voxels = phantom.volume.voxels.copy()
        voxels[fluid] = 15
        found = segment(LungsCT, replace(phantom.volume, voxels=voxels))
        assert dice(found.mask("Lung_R"), lung & ~fluid) > 0.9
        assert dice(found.mask("Lung_L"), phantom.segmentation.mask("Lung_L")) > 0.96

    def test_stomach_gas_that_touches_the_lung(self) -> None:
        phantom = chest()
        z, y, x = np.indices(phantom.volume.voxels.shape)
        place = (np.stack([x, y, z], axis=-1) - (np.array(SIZE) - 1) / 2) * SPACING
        pocket = ((place - (62, -20, -118)) ** 2).sum(axis=-1) < 34**2
        leak = ((place - (80, -10, -92)) ** 2).sum(axis=-1) < 9**2
        lung = phantom.segmentation.mask("Lung_L")
        voxels = phantom.volume.voxels.copy()
        voxels[pocket & ~lung] = -1000
        voxels[leak & ~lung] = -900
        found = segment(LungsCT, replace(phantom.volume, voxels=voxels)).mask("Lung_L")
        assert dice(found, lung) > 0.95
        assert np.count_nonzero(found & pocket & ~lung) < 0.1 * np.count_nonzero(pocket)

    @pytest.mark.parametrize("first", [24, 42])
    @pytest.mark.parametrize("slices", [1, 2, 3])
    def test_few_slices(self, first: int, slices: int) -> None:
        phantom = chest()
        part = slice(first, first + slices)
        volume = Volume(phantom.volume.voxels[part].copy(), replace(phantom.volume.geometry, size=(*SIZE[:2], slices)))
        found = segment(LungsCT, volume)
        for name in ("Lung_L", "Lung_R"):
            assert dice(found.mask(name), phantom.segmentation.mask(name)[part]) > 0.92

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_left_is_left_in_every_orientation(self, codes: str) -> None:
        straight = small_chest()
        turn = reorientation(straight.volume.geometry, codes)
        phantom = Phantom(straight.volume.mapped(turn), straight.segmentation.mapped(turn))
        assert phantom.volume.geometry.axis_codes == codes
        axes = reorientation(phantom.volume.geometry, "LPS")
        image = phantom.volume.mapped(axes)
        found = segment(LungsCT, replace(image, voxels=np.ascontiguousarray(image.voxels))).mapped(axes.inverse())
        places = {n: found.geometry.to_world(np.argwhere(found.mask(n))[:, ::-1].mean(axis=0)) for n in found.names}
        assert places["Lung_L"][0] > places["Lung_R"][0] + 60
        for name in found.names:
            assert dice(found.mask(name), phantom.segmentation.mask(name)) > 0.9


class TestBones:
    @pytest.mark.parametrize("details", [{}, {"contrast": True}], ids=str)
    def test_agree_with_the_truth_without_contrast_medium(self, details: dict[str, Any]) -> None:
        phantom = chest_ct((330, 280, 14), (1.2, 1.2, 3.0), **details)
        bones = segment(BonesCT, phantom.volume).mask("Bone")
        assert dice(bones, phantom.segmentation.mask("Bone")) > 0.9
        assert np.count_nonzero(bones & phantom.segmentation.mask("Heart")) < 0.02 * np.count_nonzero(bones)
        assert not (bones & ~phantom.segmentation.mask("Body")).any()

    def test_bones_are_solid_and_the_spinal_canal_is_open(self) -> None:
        phantom = chest_ct((330, 280, 14), (1.2, 1.2, 3.0))
        bones = segment(BonesCT, phantom.volume).mask("Bone")
        truth = phantom.segmentation.mask("Bone")
        assert np.count_nonzero(truth & ~bones) < 0.02 * np.count_nonzero(truth)
        middle = (np.array(phantom.volume.geometry.size) - 1) / 2
        x, y = int(middle[0]), int(middle[1] + 87 / 1.2)
        assert not bones[:, y - 3 : y + 4, x - 3 : x + 4].any()

    def test_no_bone(self) -> None:
        rng = np.random.default_rng(0)
        values = np.full((12, 40, 40), -1000, dtype=np.int16)
        values[:, 8:32, 8:32] = rng.integers(20, 60, (12, 24, 24))
        logs: list[str] = []
        assert not segment(BonesCT, Volume(values, Geometry((40, 40, 12), (4, 4, 4))), logs).mask("Bone").any()
        assert any("Bone was not found" in line for line in logs)


class TestInput:
    @pytest.mark.parametrize("padding", [-2000, -3024, -32768, np.nan])
    def test_padding_is_no_tissue(self, padding: float) -> None:
        phantom = chest()
        z, y, x = np.ogrid[: SIZE[2], : SIZE[1], : SIZE[0]]
        outside = ((x - 39.5) ** 2 * 25 + (y - 33.5) ** 2 * 27 > 195**2) & (z >= 0)
        voxels = np.where(outside, padding, phantom.volume.voxels).astype(np.float32 if np.isnan(padding) else np.int16)
        found = scores(phantom, Volume(voxels, phantom.volume.geometry))
        assert min(found.values()) > 0.95

    def test_unsigned_values_without_an_intercept(self) -> None:
        phantom = chest()
        logs: list[str] = []
        stored = (phantom.volume.voxels.astype(np.int32) + 1024).astype(np.uint16)
        found = segment(LungsCT, Volume(stored, phantom.volume.geometry), logs)
        assert dice(found.mask("Lung_L"), phantom.segmentation.mask("Lung_L")) > 0.97
        assert any("-1024" in line for line in logs)

    def test_slope_and_intercept(self) -> None:
        phantom = chest()
        stored = (phantom.volume.voxels.astype(np.int32) + 1024).astype(np.uint16)
        volume = Volume(stored, phantom.volume.geometry, intercept=-1024.0)
        np.testing.assert_array_equal(hounsfield(volume, print), np.clip(phantom.volume.voxels, -1024, 3071))

    @pytest.mark.parametrize("model", [BodyCT, LungsCT, BonesCT])
    @pytest.mark.parametrize("case", ["constant", "nan", "below air", "mr", "mr by modality", "grey levels", "shares"])
    def test_what_cannot_be_a_ct(self, model: type[Any], case: str) -> None:
        values = chest().volume.voxels
        magnitude = abdomen_mr((60, 50, 8), (6.0, 6.0, 9.0)).volume
        volume = {
            "constant": Volume(np.zeros((4, 5, 6), dtype=np.int16), Geometry((6, 5, 4))),
            "nan": Volume(np.full((4, 5, 6), np.nan, dtype=np.float32), Geometry((6, 5, 4))),
            "below air": Volume(np.random.default_rng(0).integers(-9000, -3000, (4, 5, 6)).astype(np.int16), Geometry((6, 5, 4))),
            "mr": replace(magnitude, modality=""),
            "mr by modality": magnitude,
            "grey levels": Volume((np.clip((values + 160) / 400, 0, 1) * 255).astype(np.uint8), chest().volume.geometry),
            "shares": Volume(np.clip((values + 1000) / 2000, 0, 1).astype(np.float32), chest().volume.geometry),
        }[case]
        with pytest.raises(ModelError) as caught:
            segment(model, volume)
        assert caught.value.kind == "input" and caught.value.advice

    @pytest.mark.parametrize("model", [BodyCT, LungsCT, BonesCT])
    @pytest.mark.parametrize("size", [(3, 2, 4), (1, 40, 30), (30, 1, 20), (64, 64, 1), (9, 9, 9)])
    def test_tiny_volumes_do_not_crash(self, model: type[Any], size: tuple[int, int, int]) -> None:
        geometry = Geometry(size, (3.0, 2.0, 5.0))
        values = np.random.default_rng(1).integers(-1000, 1000, geometry.shape).astype(np.int16)
        assert segment(model, Volume(values, geometry)).layers[0].shape == geometry.shape

    def test_input_is_left_alone(self) -> None:
        phantom = chest_ct((50, 42, 40), (8.0, 8.4, 8.2))
        before = phantom.volume.voxels.copy()
        phantom.volume.voxels.setflags(write=False)
        for model in (BodyCT, LungsCT, BonesCT):
            segment(model, phantom.volume)
            assert np.array_equal(phantom.volume.voxels, before)
