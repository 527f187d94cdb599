from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import fit
from sklearn.preprocessing import StandardScaler

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.data.table import FEATURES, DataError


def set_up(path, **settings) -> GPADataModule:
    data = GPADataModule(path=str(path), **settings)
    data.prepare_data()
    data.setup()
    return data


def raw(data: GPADataModule, name: str) -> np.ndarray:
    """The raw scores of a set, computed back from the standardised ones."""
    state = data.state_dict()
    x = data.dataset(name).tensors[0].double()
    return (x * state["scale"] + state["mean"]).numpy()


def test_the_sets_partition_the_table(table):
    data = set_up(table)
    assert data.rows == {"training": 343, "validation": 86, "test": 108}
    rows = np.vstack([raw(data, name) for name in data.rows])
    expected = pd.read_csv(table)[list(FEATURES)].to_numpy()
    np.testing.assert_allclose(np.sort(rows, axis=0), np.sort(expected, axis=0), rtol=1e-6)
    assert all(tensor.dtype == torch.float32 for tensor in data.dataset("training").tensors)


def test_features_stay_with_their_target(table):
    data = set_up(table)
    frame = pd.read_csv(table)
    pairs = set(zip(frame["physics"].round(2), frame["gpa"].round(4), strict=True))
    for name in data.rows:
        physics = raw(data, name)[:, 0].round(2)
        target = data.dataset(name).tensors[1][:, 0].double().numpy().round(4)
        assert set(zip(physics, target, strict=True)) <= pairs


def test_the_scaler_is_scikit_learns_on_the_training_rows(table):
    data = set_up(table)
    scaler = StandardScaler().fit(raw(data, "training"))
    np.testing.assert_allclose(data.state_dict()["mean"], scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(data.state_dict()["scale"], scaler.scale_, rtol=1e-6)


def test_no_held_out_row_influences_the_training_data(table, tmp_path):
    data = set_up(table)
    frame = pd.read_csv(table)
    order = np.random.default_rng(data.seed).permutation(len(frame))
    held_out = order[data.rows["training"] :]
    frame.iloc[held_out] = frame.iloc[held_out] * -1000 + 5
    changed = tmp_path / "changed.csv"
    frame.to_csv(changed, index=False)
    other = set_up(changed)
    for before, after in zip(
        data.dataset("training").tensors, other.dataset("training").tensors, strict=True
    ):
        assert torch.equal(before, after)
    assert not torch.equal(data.dataset("test").tensors[0], other.dataset("test").tensors[0])


def test_the_split_depends_on_the_seed_alone(table):
    torch.manual_seed(7)
    first, again, other = (
        set_up(table, seed=1),
        set_up(table, seed=1, batch_size=7),
        set_up(table, seed=2),
    )
    x = first.dataset("test").tensors[0]
    assert torch.equal(x, again.dataset("test").tensors[0])
    assert not torch.equal(x, other.dataset("test").tensors[0])


def test_the_seed_is_that_of_seed_everything(table, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert GPADataModule(path=str(table)).seed == 5
    assert GPADataModule(path=str(table), seed=6).seed == 6


def test_without_validation_rows_the_test_set_doubles_and_the_program_says_so(table, caplog):
    data = set_up(table, val_size=0)
    assert data.rows == {"training": 429, "validation": 108, "test": 108}
    assert torch.equal(data.dataset("validation").tensors[0], data.dataset("test").tensors[0])
    assert "test set doubles as the validation set" in caplog.text


def test_batches(table):
    data = set_up(table, batch_size=100)
    assert [len(x) for x, _ in data.train_dataloader()] == [100, 100, 100, 43]
    data = set_up(table, batch_size="full")
    assert [x.shape for x, _ in data.train_dataloader()] == [(343, 9)]


def test_predictions_are_for_the_rows_of_the_test_set(table):
    data = set_up(table)
    (batch,) = data.predict_dataloader()
    assert all(map(torch.equal, batch, data.dataset("test").tensors))


def test_any_table_with_the_target_last(tmp_path):
    frame = pd.DataFrame({"width": range(20), "height": range(20, 40), "price": range(40, 60)})
    path = tmp_path / "houses.csv"
    frame.to_csv(path, index=False)
    data = set_up(path)
    assert data.feature_names == ("width", "height")
    assert data.in_features == 2


def test_a_constant_feature_becomes_zeros(tmp_path, table):
    frame = pd.read_csv(table).assign(math=500.0)
    path = tmp_path / "constant.csv"
    frame.to_csv(path, index=False)
    data = set_up(path)
    column = FEATURES.index("math")
    assert data.dataset("test").tensors[0][:, column].eq(0).all()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"batch_size": 0}, "--data.batch_size"),
        ({"test_size": 1.0}, "--data.test_size"),
        ({"val_size": -0.1}, "--data.val_size"),
    ],
)
def test_impossible_settings_name_their_flag(settings, flag):
    with pytest.raises(DataError, match=flag):
        GPADataModule(**settings)


def test_too_few_rows_for_the_split(tmp_path, table):
    path = tmp_path / "few.csv"
    pd.read_csv(table).head(5).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"few\.csv: 5 rows are too few for a split into"):
        set_up(path)


def test_raw_scores_in_the_checkpoints_units(table):
    data = set_up(table)
    np.testing.assert_allclose(
        data.standardise(raw(data, "test")), data.dataset("test").tensors[0], atol=1e-5
    )


def test_another_tables_features_are_put_into_the_checkpoints_units(table, tmp_path):
    trained = set_up(table)
    frame = pd.read_csv(table).sample(200, random_state=1)
    path = tmp_path / "other.csv"
    frame.to_csv(path, index=False)
    other = set_up(path)
    expected = trained.standardise(raw(other, "test"))
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other.dataset("test").tensors[0], expected, atol=1e-5, rtol=1e-4)


# Any table: the target is the number of the row

finite = st.floats(-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("any") / "table.csv"


def row_numbers(data: GPADataModule, name: str) -> list[int]:
    return data.dataset(name).tensors[1][:, 0].int().tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.floats(0.001, 0.999), st.floats(0, 0.999), st.integers(0, 2**63 - 1))
def test_any_split_has_each_row_once(scratch, rows, test_size, val_size, seed):
    scratch.write_text("a,y\n" + "".join(f"{i % 7},{i}\n" for i in range(rows)))
    try:
        data = set_up(scratch, test_size=test_size, val_size=val_size, seed=seed)
    except DataError as error:
        assert f"{rows} rows are too few for a split into" in str(error)  # noqa: PT017
        return
    names = ["training", "validation", "test"] if val_size else ["training", "test"]
    assert sorted(i for name in names for i in row_numbers(data, name)) == list(range(rows))
    assert min(data.rows.values()) >= 2
    again = set_up(scratch, test_size=test_size, val_size=val_size, seed=seed)
    assert all(row_numbers(data, name) == row_numbers(again, name) for name in names)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(finite, finite | st.just(1.5)), min_size=10, max_size=60))
def test_any_features_are_scaled_as_scikit_learn_does_it(scratch, features):
    lines = (f"{a!r},{b!r},{i}\n" for i, (a, b) in enumerate(features))
    scratch.write_text("a,b,y\n" + "".join(lines))
    data = set_up(scratch)
    scaler = StandardScaler().fit(np.array(features)[row_numbers(data, "training")])
    for name in data.rows:
        expected = scaler.transform(np.array(features)[row_numbers(data, name)])
        found = data.dataset(name).tensors[0].numpy()
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        np.testing.assert_array_equal(
            data.standardise(np.array(features)[row_numbers(data, name)]).numpy(), found
        )


@pytest.mark.parametrize("name", ["val", "test", "predict"])
def test_evaluation_takes_each_row_once_in_order(name):
    data = GPADataModule(source="synthetic")
    data.setup()
    batches = [*getattr(data, f"{name}_dataloader")()]
    rows = data.dataset("validation" if name == "val" else "test").tensors
    assert len(batches) > 1
    for batch, whole in zip(zip(*batches, strict=True), rows, strict=True):
        assert torch.equal(torch.cat(batch), whole)


def test_a_network_of_another_number_of_inputs_is_refused_with_the_right_one(table):
    model, data = GPARegressor(in_features=4, hidden_sizes=(2,)), GPADataModule(path=str(table))
    with pytest.raises(DataError, match=r"9 feature .*GPARegressor\(in_features=9\)"):
        fit(model, data)
