"""The MR model against phantoms whose truth is known."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.models.body_mr.model import BodyMR
from delineate.models.outline import threshold
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.testing.phantoms import abdomen_mr
from delineate.volume import Volume


def segment(volume: Volume, logs: list[str] | None = None) -> Segmentation:
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
    return BodyMR({}, None).segment(job)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("bias", [0.0, 0.65, 0.9])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_agrees_with_the_truth(bias: float, scale: float) -> None:
    phantom = abdomen_mr((120, 96, 14), (3.0, 3.1, 8.0), bias=bias)
    volume = Volume((phantom.volume.voxels * scale).astype(np.float32), phantom.volume.geometry)
    assert dice(segment(volume).mask("Body"), phantom.segmentation.mask("Body")) > 0.96


def test_fine_grid() -> None:
    phantom = abdomen_mr((360, 300, 6), (1.0, 1.0, 6.0))
    body = segment(phantom.volume).mask("Body")
    assert dice(body, phantom.segmentation.mask("Body")) > 0.97
    # Gas and bone inside are filled.
    assert np.count_nonzero(phantom.segmentation.mask("Body") & ~body) < 0.01 * np.count_nonzero(body)


def test_masked_background() -> None:
    phantom = abdomen_mr((120, 96, 14), (3.0, 3.1, 8.0))
    truth = phantom.segmentation.mask("Body")
    volume = Volume(np.where(truth, phantom.volume.voxels, 0).astype(np.uint16), phantom.volume.geometry)
    assert dice(segment(volume).mask("Body"), truth) > 0.98


def test_an_image_inside_the_body_is_all_body() -> None:
    phantom = abdomen_mr((60, 50, 10), (2.0, 2.0, 8.0), bias=0.3)
    logs: list[str] = []
    values = phantom.volume.voxels[:, :, :].astype(np.int16) + 150
    assert segment(Volume(values, phantom.volume.geometry), logs).mask("Body").mean() > 0.99
    assert any("no air" in line for line in logs)


def test_threshold_lies_between_noise_and_tissue() -> None:
    rng = np.random.default_rng(0)
    noise, tissue = rng.rayleigh(15, 50_000), rng.normal(400, 60, 30_000)
    level = threshold(np.concatenate([noise, tissue]))
    assert np.mean(noise < level) > 0.95 and np.mean(tissue > level) > 0.99


@pytest.mark.parametrize("values", [np.zeros((3, 4, 5), np.int16), np.full((3, 4, 5), np.nan, np.float32)], ids=["constant", "nan"])
def test_nothing_to_see(values: np.ndarray) -> None:
    with pytest.raises(ModelError) as caught:
        segment(Volume(values, Geometry((5, 4, 3))))
    assert caught.value.kind == "input" and caught.value.advice


@pytest.mark.parametrize("size", [(2, 1, 1), (2, 3, 4), (1, 40, 30), (30, 1, 20), (64, 64, 1)])
def test_tiny_volumes_do_not_crash(size: tuple[int, int, int]) -> None:
    geometry = Geometry(size, (3.0, 2.0, 5.0))
    values = np.random.default_rng(1).integers(0, 1000, geometry.shape).astype(np.int16)
    assert segment(Volume(values, geometry)).layers[0].shape == geometry.shape
