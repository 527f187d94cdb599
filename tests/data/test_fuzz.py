"""Tables and checkpoints with random damage: read, or explained in one line, whatever it is."""

import gzip
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import long

from gpa_lightning.data.sources import load_table, read_scores
from gpa_lightning.data.table import FEATURES, TARGET, DataError
from gpa_lightning.resuming.checkpoint import DATA_KEY, CheckpointError, read_checkpoint, stamp

TOKENS = [
    *(b"\n", b"\r", b"\r\n", b",", b";", b'"', b"'", b"\t", b" ", b"\0", b".", b"-", b"+", b"e"),
    *(b"nan", b"inf", b"1e39", b"1e-400", b"9" * 40, b"0x1p3", b"1_0", b"\xff", b"\xef\xbb\xbf"),
    *(b"gpa", b"MATH", b"math", b"physics,", b'""', b'"\n"', b"\xd9\xa3", b"#", b"\x1b[2J"),
]


def course_table(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(rows)
    scores = random.normal(550, 100, (rows, len(FEATURES))).round(2)
    gpas = random.uniform(0, 4, rows).round(2)
    return pd.DataFrame(scores, columns=list(FEATURES)).assign(**{TARGET: gpas})


def as_csv(frame: pd.DataFrame, **kwargs: object) -> bytes:
    return frame.to_csv(index=False, **kwargs).encode()


def as_parquet(frame: pd.DataFrame, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, **kwargs)
    return buffer.getvalue()


SMALL = course_table(5)
CSV = [
    as_csv(SMALL),
    as_csv(SMALL, header=False),
    as_csv(SMALL, quoting=1),
    as_csv(SMALL, lineterminator="\r\n"),
    as_csv(pd.DataFrame({"a": [1, 2], "b c": ["x,y", 'z"\n'], "d": [3.5, -4e10]})),
]
PARQUET = [
    as_parquet(SMALL),
    as_parquet(SMALL, compression=None),
    as_parquet(SMALL.astype("float32"), compression="zstd", use_dictionary=False),
    as_parquet(pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [[1], []], "d": [0.5, 1]})),
]


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Draw one of some files, cut and pasted about in a few places."""
    content = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 0, 1, 1, 2, 4, 50]))
        new = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
        content[start : start + length] = new
    return bytes(content)


FILES = {
    ".csv": damaged(CSV) | st.binary(),
    ".csv.gz": damaged(CSV).map(gzip.compress) | damaged([gzip.compress(c) for c in CSV]),
    ".parquet": damaged(PARQUET),
}


def said(error: Exception, path: Path) -> None:
    message = str(error)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message.partition("--data.drop")[0]) < len(str(path)) + 350


def read(path: Path) -> None:
    """Read a table for training and for predicting; either works or is refused as it should be."""
    try:
        table = load_table("file", path)
    except DataError as error:
        said(error, path)
    else:
        assert np.isfinite(table.features).all()
        assert np.isfinite(table.target).all()
        assert np.abs(table.features).max() <= np.finfo(np.float32).max
        assert table.features.shape == (len(table.target), len(table.feature_names))
    for names in (FEATURES, ("a", "D")):
        try:
            scores = read_scores(path, names)
        except DataError as error:
            said(error, path)
        else:
            assert not np.isinf(scores.features).any()
            assert scores.features.shape == (len(scores.frame), len(names))


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    content = {"state_dict": {"w": torch.arange(9.0)}, DATA_KEY: {"mean": torch.ones(2)}}
    stamp(content)
    torch.save(content, buffer)
    return buffer.getvalue()


def fuzzer(folder: Path, examples: int) -> Callable[[], None]:
    """Return a function that tries a number of new damaged files of every kind."""

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.one_of(st.tuples(st.just(suffix), content) for suffix, content in FILES.items())
        | st.tuples(st.just(".ckpt"), damaged([checkpoint()]))
    )
    def fuzz(example: tuple[str, bytes]) -> None:
        suffix, content = example
        path = folder / f"fuzzed{suffix}"
        path.write_bytes(content)
        if suffix != ".ckpt":
            read(path)
            return
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            said(error, path)

    return fuzz


def test_damaged_files_are_read_or_explained(tmp_path: Path) -> None:
    fuzzer(tmp_path, 200)()


@pytest.mark.long
def test_damaged_files_for_ten_minutes(tmp_path: Path) -> None:
    end, rounds = time.monotonic() + long(600), 0
    while time.monotonic() < end:
        fuzzer(tmp_path, 1000)()
        rounds += 1
    print(f"{1000 * rounds:,} damaged files in {long(600)} s")
    assert rounds
