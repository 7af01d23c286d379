"""Text whose words have tags: CoNLL columns, and `word/tag` lines; one row a word, sentence after sentence.

A CoNLL file has a word a line, columns between blanks or tabs, the last of which is the tag, and an empty line between
sentences; lines that begin with `#` are comments. CoNLL-U (.conllu) has ten columns between tabs, of which the second
is the word and the fourth its tag. In the other form a line is a sentence, and each word is followed by a slash and its
tag. Without tags, to be given some: a column of words alone, or in a `.tagged` file sentences without slashes.

Tjong Kim Sang & De Meulder (2003), *Introduction to the CoNLL-2003 shared task*; Ratnaparkhi (1996), *A maximum entropy
model for part-of-speech tagging*, for what is read off a word: affixes and shape.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from thalweg.data.dataset import Dataset
from thalweg.data.reading import reading
from thalweg.errors import DataError

#: The columns of a sentence's number, of a word and of its tag.
SENTENCE, WORD, TAG = "sentence", "word", "tag"
#: Bytes of text that are read at once.
LARGEST = 1 << 29
#: Lengths of the affixes that become columns.
PREFIXES, SUFFIXES = (1, 2, 3), (1, 2, 3, 4)
#: Columns of CoNLL-U, and those of the word and its universal tag among them.
_UNIVERSAL, _FORM, _UPOS = 10, 1, 3

#: A word with what stands beside it, and its tag, if it has one.
Token = tuple[str, tuple[str, ...], str | None]


def read_tagged(path: Path) -> Dataset:
    """The words of a file, with their affixes, shape, tags and the sentences that they are in.

    Raises `DataError`, naming the line, for one that has other columns than those before, or a word without a tag
    among words that have one.
    """
    lines = _lines(path)
    universal = ".conllu" in path.name.lower()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    slashed = bool(first) and not universal and all("/" in token for token in first.split())
    if not slashed and ".tagged" in path.name.lower():
        found = list(_slashed(lines, path) if "/" in first else _untagged(lines))
    else:
        found = list(_slashed(lines, path) if slashed else _columns(lines, path, universal))
    if not found:
        raise DataError(f"{path} has no words: it is empty, or all of it is comments")
    table = _table(found)
    kinds = {name: kind for name, kind in _kinds(len(found[0][1][1])).items() if name in table.column_names}
    return Dataset(table, path.name.split(".")[0], kinds=kinds, path=str(path))


def features(words: list[str]) -> dict[str, list[str | None]]:
    """What is read off each word: itself, without capitals, its affixes and its shape."""
    lower = [word.lower() for word in words]
    columns: dict[str, list[str | None]] = {WORD: list(words), "lower": list(lower)}
    for n in PREFIXES:
        columns[f"prefix{n}"] = [word[:n] if len(word) > n else None for word in lower]
    for n in SUFFIXES:
        columns[f"suffix{n}"] = [word[-n:] if len(word) > n else None for word in lower]
    columns["shape"] = [shape(word) for word in words]
    return columns


def shape(word: str) -> str:
    """`X` for capitals, `x` for other letters, `0` for digits and all else as it is; runs are cut to two."""
    kinds = re.sub(r"[^\W\d_]", lambda found: "X" if found[0].isupper() else "x", word)
    return re.sub(r"(.)\1{2,}", r"\1\1", re.sub(r"\d", "0", kinds))


def _lines(path: Path) -> list[str]:
    with reading(path), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if packed else file as plain:
            text = plain.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise DataError(f"{path} has more than the {LARGEST:,} bytes that are read at once: divide it")
    try:
        return text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it"
        ) from error


def _slashed(lines: list[str], path: Path) -> Iterator[tuple[int, Token]]:
    for number, line in enumerate(lines, 1):
        for token in line.split():
            word, slash, tag = token.rpartition("/")
            if not (slash and word and tag):
                raise DataError(f"{path}, line {number}: {token!r} is no word with a tag, as in walk/VERB")
            yield number, (word, (), tag)


def _untagged(lines: list[str]) -> Iterator[tuple[int, Token]]:
    for number, line in enumerate(lines, 1):
        for word in line.split():
            yield number, (word, (), None)


def _columns(lines: list[str], path: Path, universal: bool) -> Iterator[tuple[int, Token]]:
    sentence, width = 0, 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            sentence += 1
            continue
        if line.startswith("#") and (universal or len(line.split()) != width):
            continue
        cells = line.split("\t") if universal else line.split()
        width = width or len(cells)
        if len(cells) != width or (universal and width != _UNIVERSAL):
            raise DataError(
                f"{path}, line {number}: {len(cells)} columns where "
                + (f"CoNLL-U has {_UNIVERSAL}" if universal else f"the first word has {width}")
                + ": a line is a word with its tag last, or every line a word alone; an empty line between sentences"
            )
        if width == 1:
            yield sentence, (cells[0], (), None)
        elif not universal:
            yield sentence, (cells[0], tuple(cells[1:-1]), cells[-1])
        elif cells[0].isdecimal():  # not a range of words written as one, nor a word left out
            yield sentence, (cells[_FORM], (), cells[_UPOS])


def _table(found: list[tuple[int, Token]]) -> pa.Table:
    numbers = np.array([number for number, _ in found])
    columns = {SENTENCE: pa.array(np.cumsum(np.diff(numbers, prepend=numbers[:1]) != 0))}
    columns |= {
        name: pa.array(cells, pa.string()) for name, cells in features([t[0] for _, t in found]).items()
    }
    for i in range(len(found[0][1][1])):
        columns[f"column{i + 2}"] = pa.array([token[1][i] for _, token in found])
    tags = [token[2] for _, token in found]
    return pa.table(columns if tags[0] is None else {**columns, TAG: pa.array(tags)})


def _kinds(others: int) -> dict[str, str]:
    words = [name for name in features([]) if name != "shape"]
    beside = [f"column{i + 2}" for i in range(others)]
    return {SENTENCE: "sequence", TAG: "categorical"} | dict.fromkeys((*words, "shape", *beside), "word")
