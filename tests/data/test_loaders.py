from itertools import chain

import pytest
import torch

from gpa_lightning.data.loaders import BatchSampler, TableDataset, table_loader


def dataset(rows: int) -> TableDataset:
    return TableDataset(torch.arange(rows, dtype=torch.float32).view(-1, 1), torch.zeros(rows, 1))


def drawn(sampler: BatchSampler, rows: int, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    table = torch.arange(rows)
    return [table[batch].tolist() for batch in sampler]


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 3), (10, 5), (10, 10), (10, 99), (1, 1)])
def test_an_epoch_has_every_row_once(rows, batch_size):
    sampler = BatchSampler(dataset(rows), batch_size, shuffle=True)
    batches = drawn(sampler, rows)
    assert sorted(chain(*batches)) == list(range(rows))
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_the_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(1)
    first = drawn(BatchSampler(dataset(50), 7, shuffle=True, seed=3), 50, epoch=2)
    torch.manual_seed(2)
    sampler = BatchSampler(dataset(50), 7, shuffle=True, seed=3)
    drawn(sampler, 50, epoch=1)
    assert drawn(sampler, 50, epoch=2) == first
    assert drawn(sampler, 50, epoch=3) != first
    assert drawn(BatchSampler(dataset(50), 7, shuffle=True, seed=2), 50, epoch=3) != first


def test_replicas_together_see_the_batches_of_a_single_process():
    single = drawn(BatchSampler(dataset(40), 10, shuffle=True, seed=1), 40)
    parts = [
        drawn(BatchSampler(dataset(40), 5, True, 1, num_replicas=2, rank=rank), 40)
        for rank in (0, 1)
    ]
    together = [sorted(a + b) for a, b in zip(*parts, strict=True)]
    assert together == [sorted(batch) for batch in single]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rows", "batch_size"), [(11, 4), (13, 4), (14, 2), (2, 4), (9, None)])
def test_replicas_have_every_row_once_in_equally_many_training_steps(rows, batch_size, shuffle):
    samplers = [
        BatchSampler(dataset(rows), batch_size, shuffle, num_replicas=3, rank=rank)
        for rank in range(3)
    ]
    batches = [drawn(sampler, rows) for sampler in samplers]
    assert sorted(chain(*chain(*batches))) == list(range(rows))
    steps = [len(each) for each in batches]
    assert steps == [len(sampler) for sampler in samplers]
    if shuffle:
        assert len(set(steps)) == 1
    else:
        assert [] not in chain(*batches)


def test_a_full_batch_is_a_view_of_the_table():
    table = dataset(20)
    loader = table_loader(table, BatchSampler(table, batch_size=None, shuffle=True))
    ((x, _),) = list(loader)
    assert x.data_ptr() == table.tensors[0].data_ptr()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rows", "batch_size"), [(9000, 100), (9001, 5000), (13, 4), (7, 3)])
def test_batches_are_those_of_the_sampler(rows, batch_size, shuffle):
    table = dataset(rows)
    for rank in range(3):
        sampler = BatchSampler(table, batch_size, shuffle, seed=1, num_replicas=3, rank=rank)
        loader = table_loader(table, sampler)
        expected = drawn(sampler, rows)
        assert [x[:, 0].int().tolist() for x, _ in loader] == expected
        assert [len(y) for _, y in loader] == [len(batch) for batch in expected]
        assert len(loader) == len(expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(num_workers):
    table = dataset(33)
    loader = table_loader(table, BatchSampler(table, 4, shuffle=True), num_workers)
    expected = drawn(BatchSampler(table, 4, shuffle=True), 33)
    assert [x[:, 0].int().tolist() for x, _ in loader] == expected


@pytest.mark.parametrize("batch_size", [1, 7, 33])
def test_every_batch_lies_alike_in_memory(batch_size):
    """Or else a matrix product could round differently by where in a block a batch stands."""
    rows = TableDataset(torch.rand(100, 9), torch.rand(100, 1))
    loader = table_loader(rows, BatchSampler(rows, batch_size, shuffle=True))
    assert {part.data_ptr() % 64 for batch in loader for part in batch} == {0}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_after_the_batches_that_were_taken(num_workers):
    rows = TableDataset(torch.arange(100.0)[:, None], torch.zeros(100, 1))
    sampler = BatchSampler(rows, batch_size=7, shuffle=True)
    loader = table_loader(rows, sampler, num_workers)
    sampler.set_epoch(1)
    whole = [x.flatten().tolist() for x, _ in loader]
    batches = iter(loader)
    taken = [next(batches)[0].flatten().tolist() for _ in range(4)]
    state = loader.state_dict()

    resumed = table_loader(rows, sampler, num_workers)
    resumed.load_state_dict(state)
    batches = iter(resumed)
    taken += [next(batches)[0].flatten().tolist() for _ in range(3)]
    again = table_loader(rows, sampler, num_workers)
    again.load_state_dict(resumed.state_dict())
    rest = [x.flatten().tolist() for x, _ in again]
    assert taken + rest == whole
    resumed.load_state_dict(state)
    assert [x.flatten().tolist() for x, _ in resumed] == whole[4:]
    assert [x.flatten().tolist() for x, _ in resumed] == whole  # the next epoch is whole again
