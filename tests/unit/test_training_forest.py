"""Training: what is learned, what is kept on disk, what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

try:
    import lightgbm  # noqa: F401
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

from delineate import runners
from delineate.errors import GeometryError, InputError, ModelError, TaskCancelledError
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure
from delineate.store.folders import ModelFolders
from delineate.testing.models.jobs import make_job
from delineate.testing.phantoms import Phantom, abdomen_mr, chest_ct
from delineate.training import applying
from delineate.training.features import NAMES, Features
from delineate.training.files import Reservoir, read_forest, write_forest
from delineate.training.forest import Forest, grow
from delineate.training.lessons import mirrored, twin
from delineate.training.sampling import Case, Samples, chosen, look
from delineate.training.shaping import filled, settled, smoothness
from delineate.training.speaking import speaking_planes
from delineate.training.trainer import Example, train, write_model
from delineate.training.trainers import FOREST
from delineate.training.trees import checked
from delineate.training.working import HU, RELATIVE, fingerprint, scale_of, working

SPACING = 5.0


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delineate.training.boosting.ROUNDS", 25)
        yield


def draw(of: Case, spacing: float, scale: str) -> Samples:
    """What is chosen of a case before it is continued."""
    return chosen(look(of, spacing, scale))


def chest(seed: int = 0, orientation: str = "LPS") -> Phantom:
    return chest_ct((80, 70, 50), (5.0, 5.2, 6.5), orientation, seed=seed)


def lungs(phantom: Phantom) -> Segmentation:
    return Segmentation.from_masks({n: phantom.segmentation.mask(n) for n in ("Lung_L", "Lung_R")}, phantom.volume.geometry)


def case(phantom: Phantom) -> Case:
    """Labels in every other slice."""
    labels = lungs(phantom)
    looked = (np.arange(labels.geometry.shape[0]) % 2 == 0)[:, None, None]
    return Case(phantom.volume, replace(labels, layers=tuple(layer * looked for layer in labels.layers)), looked)


@pytest.fixture(scope="module")
def forest() -> Forest:
    return grow([draw(case(chest()), SPACING, HU)], spacing=SPACING, scale=HU)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SLA"])
def test_lungs_of_another_phantom_from_half_the_slices(forest: Forest, orientation: str) -> None:
    other = chest(3, orientation)
    found = applying.segment(forest, other.volume)
    assert found.geometry == other.volume.geometry
    assert min(dice(found.mask(name), other.segmentation.mask(name)) for name in found.names) > 0.9


def test_features_do_not_depend_on_the_order_of_the_axes() -> None:
    first, second = (np.concatenate([b.rows for b in Features(working(chest(1, o).volume, SPACING, HU)).blocks()]) for o in ("LPS", "ASR"))
    np.testing.assert_allclose(first, second, atol=0.5)


def test_features_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features(working(chest().volume, SPACING, HU))
    whole = np.concatenate([block.rows for block in features.blocks()])
    monkeypatch.setattr("delineate.training.features._BLOCK_VOXELS", 5000)
    np.testing.assert_allclose(np.concatenate([block.rows for block in features.blocks()]), whole, atol=0.05)
    assert whole.shape[1] == len(NAMES) and np.isfinite(whole).all()


def test_mr_is_learned_whatever_its_units() -> None:
    first, second = abdomen_mr((70, 55, 25), (5.2, 5.4, 8.0)), abdomen_mr((70, 55, 25), (5.2, 5.4, 8.0), seed=4)
    assert scale_of(first.volume) == RELATIVE and scale_of(chest().volume) == HU
    grown = grow([draw(Case(*first), SPACING, RELATIVE)], spacing=SPACING, scale=RELATIVE)
    louder = replace(second.volume, voxels=(second.volume.voxels * 3).astype(np.uint16))
    assert dice(applying.segment(grown, louder).mask("Body"), second.segmentation.mask("Body")) > 0.95


def cone(planes: int = 12, tip: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A dark cone, widest at its foot in plane 0, that ends `tip` planes below the top; values and mask."""
    radius = np.clip(8 - 8 * np.arange(planes) / (planes - tip), 0, None)
    y, x = np.mgrid[-10:11, -10:11]
    mask = (y**2 + x**2)[None] < radius[:, None, None] ** 2
    return np.where(mask, -800, 50).astype(np.int16), mask


def test_slices_without_labels_between_labelled_ones_are_unknown() -> None:
    values, mask = cone()
    even = mask & (np.arange(12) % 2 == 0)[:, None, None]
    assert speaking_planes(even, values, 3.0).tolist() == [True, False] * 4 + [True, False, True, True]


def test_beyond_a_tip_a_structure_is_absent() -> None:
    values, mask = cone()
    assert speaking_planes(mask, values, 3.0).all()


def test_beyond_a_cut_that_the_image_goes_on_behind_nothing_is_known() -> None:
    values, mask = cone()
    lower = mask & (np.arange(12) < 5)[:, None, None]
    assert speaking_planes(lower, values, 3.0).tolist() == [True] * 5 + [False] * 7
    assert speaking_planes(lower[::-1], values[::-1], 3.0).tolist() == [False] * 7 + [True] * 5


def test_beyond_a_flat_end_that_the_image_shows_a_structure_is_absent() -> None:
    mask = np.zeros((20, 9, 9), bool)
    mask[:8, 2:7, 2:7] = True
    values = np.where(mask, 300, 0).astype(np.int16)
    assert speaking_planes(mask, values, 5.0).all()
    lower = mask & (np.arange(20) < 4)[:, None, None]  # known again one centimetre after the image shows the end
    assert speaking_planes(lower, values, 5.0).tolist() == [True] * 4 + [False] * 6 + [True] * 10


def test_absence_is_known_for_ten_centimetres_only() -> None:
    mask = np.zeros((20, 9, 9), bool)
    mask[:2, 2:7, 2:7] = True
    assert speaking_planes(mask, np.where(mask, 300, 0), 20.0).tolist() == [True] * 7 + [False] * 13


def test_half_a_structure_labelled_without_a_word_is_learned_as_whole(tmp_path: Path) -> None:
    phantom, other = chest(), chest(3)
    labels = lungs(phantom)
    planes = np.flatnonzero(labels.mask("Lung_L").any(axis=(1, 2)))
    lower = (np.arange(labels.geometry.shape[0]) < (planes[0] + planes[-1]) // 2)[:, None, None]
    half = Case(phantom.volume, replace(labels, layers=tuple(layer * lower for layer in labels.layers)))
    grown = grow([draw(half, SPACING, HU)], spacing=SPACING, scale=HU)
    for image, truth in (phantom, other):
        found = applying.segment(grown, image)
        assert min(dice(found.mask(name), truth.mask(name)) for name in found.names) > 0.9


def test_an_image_that_was_learned_from_is_known_again(forest: Forest) -> None:
    taught, other = chest(), chest(3)
    assert [fingerprint(taught.volume).hex()] == list(forest.marks) and fingerprint(other.volume).hex() not in forest.marks
    turned = reorientation(taught.volume.geometry, "RSA")
    assert fingerprint(taught.volume.mapped(turned)).hex() in forest.marks
    assert all(grown.own and grown.own != grown.trees for grown in forest.structures)
    found = applying.segment(forest, taught.volume)
    assert min(dice(found.mask(name)[1::2], taught.segmentation.mask(name)[1::2]) for name in found.names) > 0.95


def test_room_air_teaches_what_gas_is_unless_a_structure_holds_gas() -> None:
    phantom = chest()
    value, depth = NAMES.index("value"), NAMES.index("depth")

    def gas(mask: np.ndarray) -> np.ndarray:
        samples = draw(Case(phantom.volume, Segmentation.from_masks({"it": mask}, phantom.volume.geometry)), SPACING, HU)
        shown = (samples.rows[:, value] < -980) & (samples.rows[:, depth] > 0) & (samples.truth == 0) & ~samples.held
        return samples.known[shown, 0]

    assert np.count_nonzero(gas(phantom.segmentation.mask("Lung_L"))) > 1000
    assert not gas(phantom.volume.values() < -980).all()


def ball(shape: tuple[int, int, int] = (24, 24, 24), radius: float = 9) -> np.ndarray:
    z, y, x = np.indices(shape) - np.array(shape)[:, None, None, None] // 2
    return z**2 + y**2 + x**2 <= radius**2


def test_a_core_that_nothing_parts_from_its_shell_belongs_to_it() -> None:
    whole, core = ball(), ball(radius=4)
    chance = np.where(whole & ~core, 245, np.where(core, 60, 3)).astype(np.uint8)
    alike = np.where(whole, -850, 50).astype(np.float32)
    assert ((settled(chance, alike, 400) > 127) == whole).mean() > 0.99
    apart = np.where(core, 50, alike).astype(np.float32)
    assert not (settled(chance, apart, 400) > 127)[core].any()


def test_gaps_are_closed_only_where_the_labels_had_none() -> None:
    whole = ball()
    pierced = whole.copy()
    pierced[:, 12, 12] = False
    planes = np.ones(24, bool)
    assert smoothness(whole, planes) == 3 and smoothness(pierced & (np.indices(whole.shape).sum(0) % 3 > 0), planes) == 0
    assert (filled(pierced, 2) == whole).mean() > 0.995
    assert (filled(pierced, 0) == pierced).all() and not filled(np.zeros_like(whole), 2).any()


def test_gaps_that_filling_leaves_are_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(30, 30, 30)), 2)
    ragged = (noise > 0.02) & ball((30, 30, 30), 13)
    final = filled(ragged, 2)
    assert (filled(final, 2) == final).all()
    monkeypatch.setattr("delineate.training.shaping._PASSES", 1)
    assert np.count_nonzero(filled(ragged, 2)) < np.count_nonzero(final)


def test_a_structure_that_an_image_does_not_list_is_unknown_there() -> None:
    both, one = chest(), chest(1)
    only_left = Case(one.volume, Segmentation.from_masks({"Lung_L": one.segmentation.mask("Lung_L")}, one.volume.geometry))
    grown = grow([draw(case(both), SPACING, HU), draw(only_left, SPACING, HU)], spacing=SPACING, scale=HU)
    found = applying.segment(grown, chest(2).volume)
    assert dice(found.mask("Lung_R"), chest(2).segmentation.mask("Lung_R")) > 0.9


def test_sides_that_mirror_each_other_teach_each_other() -> None:
    other, samples = chest(3), draw(case(chest()), SPACING, HU)
    left = np.flatnonzero(samples.truth == 1)
    samples.known[left[10:], 0] = False  # ten voxels are fewer than a leaf needs
    found = applying.segment(grow([samples], spacing=SPACING, scale=HU), other.volume)
    assert min(dice(found.mask(name), other.segmentation.mask(name)) for name in found.names) > 0.9
    samples.rows[left, NAMES.index("value")] += 900  # another tissue: now nothing is learned of the right one
    assert twin(samples, 0) is None
    assert not applying.segment(grow([samples], spacing=SPACING, scale=HU), other.volume).mask("Lung_L").any()


def test_threads_are_those_that_were_given_or_half_the_cores(forest: Forest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Booster:
        def predict(self, rows: np.ndarray, num_threads: int) -> np.ndarray:
            asked.append(num_threads)
            return np.zeros(len(rows))

    rows, one = np.zeros((2, len(NAMES)), np.float32), replace(forest, structures=forest.structures[:1], _boosters={(0, False): Booster()})
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    one.probabilities(rows)
    one.probabilities(rows, threads=3)
    assert asked == [4, 3]


def test_each_side_has_its_own_twin() -> None:
    samples = draw(case(chest()), SPACING, HU)
    assert (twin(samples, 0), twin(samples, 1)) == (1, 0)
    back = mirrored(mirrored(samples.rows))
    assert (back == samples.rows).all()
    left = samples.truth == 1
    assert (np.sign(mirrored(samples.rows[left])[:, NAMES.index("across")]) == -np.sign(samples.rows[left][:, NAMES.index("across")])).all()
    towards = [NAMES.index(f"mean@4{way}L15") for way in "+-"]
    assert (mirrored(samples.rows)[:, towards] == samples.rows[:, towards[::-1]]).all()


def test_agreement_is_judged_on_slices_held_back(forest: Forest) -> None:
    assert [grown.name for grown in forest.structures] == ["Lung_L", "Lung_R"]
    assert all(grown.dice is not None and 0.9 < grown.dice <= 1 for grown in forest.structures)


def test_what_it_has_not_seen_is_less_certain(forest: Forest) -> None:
    known, strange = chest(5).volume, chest(5).volume
    noise = np.random.default_rng(0).normal(0, 250, strange.voxels.shape)
    strange = replace(strange, voxels=(strange.voxels + noise).astype(np.int16))
    certain, uncertain = applying.uncertainty(forest, known), applying.uncertainty(forest, strange)
    assert 0 <= certain < uncertain <= 1


def test_labels_on_another_grid_or_none_are_refused() -> None:
    phantom = chest()
    with pytest.raises(GeometryError):
        Case(phantom.volume, lungs(chest_of_another_size()))
    with pytest.raises(InputError):
        draw(Case(phantom.volume, lungs(phantom), np.zeros((1, 1, 1))), SPACING, HU)


def chest_of_another_size() -> Phantom:
    return chest_ct((40, 40, 20), (9.0, 9.0, 15.0))


def test_a_forest_is_a_model_folder(forest: Forest, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "mine", forest, name="mine", version="7")
    model = ModelFolders([(tmp_path / "models", "folder")]).models()["mine"]
    assert model.model.labels == {"Lung_L": 1, "Lung_R": 2} and model.model.version == "7"
    (tmp_path / "job").mkdir()
    phantom = chest(4)
    result = runners.create(model.model, model.folder).segment(make_job(tmp_path / "job", [phantom.volume]))
    assert isinstance(result, Segmentation)
    assert dice(result.mask("Lung_R"), phantom.segmentation.mask("Lung_R")) > 0.9


def test_a_forest_comes_back_from_disk(forest: Forest, tmp_path: Path) -> None:
    write_forest(tmp_path / FOREST, forest)
    understood = [replace(grown, trees=checked(grown.trees), own=grown.own and checked(grown.own)) for grown in forest.structures]
    assert read_forest(tmp_path / FOREST) == replace(forest, structures=tuple(understood))
    assert [path.name for path in tmp_path.iterdir()] == [FOREST]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x04pickle"])
def test_a_file_that_is_no_forest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FOREST).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_forest(tmp_path / FOREST)
    assert caught.value.kind == "start"


def test_an_array_that_says_it_is_endless_is_refused(tmp_path: Path) -> None:
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / FOREST, "w") as file:
        file.writestr("facts.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(ModelError, match="is no forest"):
        read_forest(tmp_path / FOREST)


def test_a_pickle_in_a_forest_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / FOREST, facts=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ModelError):
        read_forest(tmp_path / FOREST)


@pytest.mark.parametrize("key", ["left_child", "right_child", "split_feature", "threshold", "leaf_value", "num_leaves", "num_cat"])
@pytest.mark.parametrize("value", ["0", "99999", "-99999", "0 0", "x"])
def test_trees_that_lead_astray_are_refused(forest: Forest, key: str, value: str) -> None:
    lines = forest.structures[0].trees.split("\n")
    place = next(i for i, line in enumerate(lines) if line.startswith(key + "="))
    if lines[place] == f"{key}={value}":
        return
    lines[place] = f"{key}={value}"
    with pytest.raises(ValueError):
        checked("\n".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x\n"}, {"name": ""}, {"name": "x" * 300}, {"name": "Lung_L"}, {"volume": float("nan")}, {"contrast": float("inf")},
        {"parts": 10**30}, {"parts": -1}, {"dice": float("nan")}, {"dice": 2.0},
    ],
)  # fmt: skip
def test_a_forest_of_odd_facts_is_refused(forest: Forest, tmp_path: Path, change: dict[str, object]) -> None:
    left, right = forest.structures
    write_forest(tmp_path / FOREST, replace(forest, structures=(left, replace(right, **change))))
    with pytest.raises(ModelError, match="is no forest"):
        read_forest(tmp_path / FOREST)


def test_what_was_seen_is_not_looked_at_again(tmp_path: Path) -> None:
    loads: list[str] = []

    def example(seed: int, version: str = "1") -> Example:
        def load() -> Case:
            loads.append(f"{seed}.{version}")
            return case(chest(seed))

        return Example(image=f"patient-{seed}", version=version, load=load)

    def stop(fraction: float, message: str) -> None:
        if fraction:
            raise TaskCancelledError("stopped")

    reservoir, said = Reservoir(tmp_path), []
    with pytest.raises(TaskCancelledError):  # as a kill would: what is on disk is what is known
        train([example(0), example(1)], reservoir, spacing=SPACING, scale=HU, report=stop)
    train([example(0), example(1)], reservoir, spacing=SPACING, scale=HU, report=lambda f, m: said.append(f))
    train([example(0), example(1, "2")], reservoir, spacing=SPACING, scale=HU)
    assert loads == ["0.1", "1.1", "1.2"]
    assert said == sorted(said) and said[-1] == pytest.approx(1)
    assert not any("patient" in path.name for path in tmp_path.iterdir())


def test_an_image_that_was_sent_as_its_label_is_refused() -> None:
    phantom = chest()
    values = np.arange(phantom.volume.voxels.size, dtype=np.uint16).reshape(phantom.volume.voxels.shape) % 300
    structures = tuple(Structure(f"label {label}", label) for label in range(1, 300))
    with pytest.raises(InputError, match="299 structures"):
        draw(Case(phantom.volume, Segmentation(phantom.volume.geometry, (values,), structures)), SPACING, HU)


def test_an_image_that_cannot_be_used_is_left_out_and_told(tmp_path: Path) -> None:
    lines: list[str] = []
    good = Example(image="a", version="1", load=lambda: case(chest()))
    flat = chest(1)
    empty = replace(flat.volume, voxels=np.zeros_like(flat.volume.voxels))
    bad = Example(image="b", version="1", load=lambda: Case(empty, lungs(flat)))
    grown = train([good, bad], Reservoir(tmp_path), spacing=SPACING, scale=HU, log=lines.append)
    assert grown.images == 1 and lines[-1].startswith("image 2 was left out")
