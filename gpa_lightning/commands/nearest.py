"""The name that is nearest to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

LIKE_ENOUGH = 0.6  # what difflib itself takes for a close match


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like a mistyped word, or None if none is like it.

    Capitals and kinds of dashes do not count. A word may also be the last part of a name, one of
    the words of that part (or of several, as "epoch" of "epochs"), or their first letters.

    Example:
        >>> nearest("EarlyStoping", ["EarlyStopping", "ModelPruning"])
        'EarlyStopping'
        >>> nearest("lr", ["model.learning_rate", "lr_scheduler"])
        'model.learning_rate'
    """
    scored = [(_likeness(_plain(word), _plain(name)), -len(name), name) for name in names]
    likeness, _, best = max(scored, default=(0, 0, None))
    return best if likeness >= LIKE_ENOUGH else None


def did_you_mean(word: str, names: Iterable[str], listed: bool = True) -> str:
    """Return the end of a message on a mistyped word: the nearest name, and the list of names.

    Without ``listed``, the list stands only where no name is near.

    Example:
        >>> did_you_mean("l3", ["l1", "l2"])
        '; choose from l1, l2'
    """
    names = sorted(names)
    near = nearest(word, names)
    choices = f"hoose from {', '.join(names)}"
    if near is None:
        return f"; c{choices}"
    return f"; did you mean {near}?" + (f" C{choices}" if listed else "")


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").strip("_+")


def _likeness(word: str, name: str) -> float:
    word_end, name_end = word.rpartition(".")[2], name.rpartition(".")[2]
    words = name_end.split("_")
    if word_end == "".join(each[:1] for each in words):
        return 1 if len(words) > 1 else 0
    if word_end in words or f"{word_end}s" in words:
        return 0.95
    pairs = ((word, name), (word_end, name_end))
    return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)
