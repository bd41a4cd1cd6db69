"""Data for simulated phones."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnode.simulation.built_in_data import BUILT_IN, enlarge
from gridnode.simulation.datasets import Examples, load_dataset, load_examples, split_held_out
from gridnode.simulation.errors import InvalidDataset


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_digits_are_what_the_model_takes() -> None:
    digits = load_examples("digits")

    assert digits.inputs.shape == (1797, 784)
    assert digits.inputs.dtype == np.float32
    assert digits.inputs.min() == 0
    assert 0.99 < digits.inputs.max() <= 1
    assert digits.targets.shape == (1797, 10)
    assert digits.targets.dtype == np.float32
    assert (digits.targets.sum(axis=1) == 1).all()
    # UCI's set starts with 0 1 2 3 4 5 6 7 8 9.
    assert digits.labels[:10].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("name", "inputs", "targets"),
    [
        ("digits-8x8", (1797, 64), (1797, 10)),
        ("breast-cancer", (569, 30), (569, 2)),
        ("housing", (20_000, 8), (20_000, 1)),
    ],
)
def test_data_that_come_along(name: str, inputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    examples = load_examples(name)

    assert (examples.inputs.shape, examples.targets.shape) == (inputs, targets)
    assert examples.inputs.dtype == examples.targets.dtype == np.float32
    assert np.isfinite(examples.inputs).all()
    again = load_examples(name)
    assert (again.inputs == examples.inputs).all()
    assert (again.targets == examples.targets).all()


def test_measures_are_standardized() -> None:
    for name in ("breast-cancer", "housing"):
        inputs = load_examples(name).inputs
        np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(inputs.std(axis=0), 1, atol=1e-4)


def test_prices_are_like_those_of_the_census_and_can_be_learned_but_not_exactly() -> None:
    houses = load_examples("housing")
    prices = houses.targets[:, 0]
    design = np.column_stack([houses.inputs, np.ones(len(houses))])

    line, *_ = np.linalg.lstsq(design, prices, rcond=None)

    assert 1.5 < prices.mean() < 2.7
    assert prices.max() == 5.0
    assert 0.1 < ((design @ line - prices) ** 2).mean() < 0.5 * prices.var()


def test_all_data_that_come_along_can_be_split() -> None:
    assert set(BUILT_IN) == {"digits", "digits-8x8", "breast-cancer", "housing"}
    assert set(load_examples("breast-cancer").labels.tolist()) == {0, 1}
    with pytest.raises(InvalidDataset, match="--split iid or unequal"):
        _ = load_examples("housing").labels


def test_enlarging_interpolates_between_pixel_centres() -> None:
    image = np.array([[[0, 1], [2, 3]]], dtype=np.float32)

    enlarged = enlarge(image, 4)

    line = np.array([0, 0.25, 0.75, 1], dtype=np.float32)
    assert np.allclose(enlarged[0], line[np.newaxis, :] + 2 * line[:, np.newaxis])


def test_training_and_held_out_examples_are_a_partition() -> None:
    examples = Examples(np.arange(10.0), np.arange(10))

    training, held_out = split_held_out(examples, 0.3, seed=5)

    assert (len(training), len(held_out)) == (7, 3)
    assert sorted([*training.inputs.tolist(), *held_out.inputs.tolist()]) == list(range(10))
    assert (training.inputs == training.targets).all()
    assert split_held_out(examples, 0.3, seed=5)[1].inputs.tolist() == held_out.inputs.tolist()
    assert split_held_out(examples, 0.3, seed=6)[1].inputs.tolist() != held_out.inputs.tolist()


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_neither_part_is_empty(fraction: float) -> None:
    training, held_out = split_held_out(Examples(np.arange(3.0), np.arange(3)), fraction, seed=0)

    assert min(len(training), len(held_out)) == 1


def test_file_is_read_as_single_precision_and_other_types_stay(tmp_path: Path) -> None:
    path = save(tmp_path / "steps.npz", X=np.ones((4, 2)), y=np.array([0, 1, 2, 1], dtype=np.int16))

    examples = load_examples(str(path))

    assert examples.inputs.dtype == np.float32
    assert examples.targets.dtype == np.int16
    assert examples.labels.tolist() == [0, 1, 2, 1]
    assert load_dataset(str(path), seed=0).name == "steps"


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (np.eye(3)[[2, 0]], [2, 0]),
        (np.array([[4], [7]]), [4, 7]),
        (np.array([1.0, 3.0]), [1, 3]),
    ],
)
def test_labels_of_targets(targets: np.ndarray[Any, Any], expected: list[int]) -> None:
    assert Examples(np.zeros((2, 1)), targets).labels.tolist() == expected


@pytest.mark.parametrize("targets", [np.array([0.5, 1.0]), np.zeros((2, 3, 3))])
def test_targets_without_classes_have_no_labels(targets: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidDataset, match="no classes"):
        _ = Examples(np.zeros((2, 1)), targets).labels


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((3, 1))}, "no array y; it has: X"),
        ({"X": np.ones((3, 1)), "y": np.ones((2, 1))}, "X has 3 examples but y has 2"),
        ({"X": np.array([[1.0], [np.nan]]), "y": np.ones(2)}, "X holds NaN"),
        ({"X": np.ones((2, 1)), "y": np.array(["a", "b"])}, "y must be an array of numbers"),
        ({"X": np.ones((1, 1)), "y": np.ones(1)}, "at least 2"),
        ({"X": np.array(3.0), "y": np.ones(1)}, "X must be an array of numbers"),
        ({"X": np.ones((3, 1)), "y": np.ones(3), "owner": np.ones(2, int)}, "X has 3 examples but owner has 2"),
        ({"X": np.ones((3, 1)), "y": np.ones(3), "owner": np.ones(3)}, "owner must be one whole number"),
        ({"X": np.array([object(), object()]), "y": np.ones(2)}, "no readable"),
    ],
)
def test_unusable_file_is_refused_with_the_reason(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDataset, match=message):
        load_examples(str(save(tmp_path / "data.npz", **arrays)))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)

    with pytest.raises(InvalidDataset, match="no readable"):
        load_examples(str(path))


def test_single_array_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    path = tmp_path / "data.npz"
    path.write_bytes(buffer.getvalue())

    with pytest.raises(InvalidDataset, match="no readable"):
        load_examples(str(path))


@pytest.mark.parametrize(("source", "message"), [("mnist", "unknown"), ("missing.npz", "no file")])
def test_unknown_data_set_is_refused(source: str, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message):
        load_dataset(source, seed=0)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "walks.py").write_text(
        "import numpy as np\n"
        "def steps(): return np.ones((6, 2)), np.arange(6) % 2, np.array([7, 7, 8, 8, 9, 9])\n"
        "def plain(): return [[1.0], [2.0]], [0, 1]\n"
        "def nothing(): return None\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "walks", raising=False)
    return "walks"


def test_function_of_the_users_gives_data_and_whose_they_are(own_module: str) -> None:
    examples = load_examples(f"{own_module}:steps")

    assert examples.inputs.dtype == np.float32
    assert examples.owners is not None
    assert examples.take(np.array([0, 5])).owners.tolist() == [7, 9]  # type: ignore[union-attr]
    assert load_examples(f"{own_module}:plain").owners is None
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("walks:missing", "walks has no function 'missing'"),
        ("walks:number", "walks has no function 'number'"),
        ("walks:nothing", r"must return \(X, y\)"),
        ("nowhere:steps", "there is no module 'nowhere'"),
    ],
)
def test_what_is_no_function_with_data_is_refused(own_module: str, source: str, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message):
        load_examples(source)
