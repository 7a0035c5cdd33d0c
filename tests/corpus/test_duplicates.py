"""Exact duplicates over shards: what a dictionary in memory finds, in little memory and whatever the sharding."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.corpus.real_text import texts

from sidewinder.corpus.duplicates import LEAST_RECORDS, WORKING_BYTES, exact
from sidewinder.corpus.rows import KEY, Rows, save
from sidewinder.errors import CorruptArtifact, DataError

TIGHT = LEAST_RECORDS * WORKING_BYTES + 100_000  # Ten thousand records at a time.


def written(folder: Path, shards: list[list[tuple[bytes, int]]]) -> list[Path]:
    """A keys.npy for each shard of (hash, bytes)."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"keys-{place:05d}.npy" for place in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        with Rows(path, KEY) as rows:
            for entry in shard:
                rows.append(entry)
    return paths


def found(keys: list[Path], memory_bytes: int = 2**28) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Places left out, and what was counted, for each shard."""
    places = [path.with_name(path.name.replace("keys", "places")) for path in keys]
    dropped = exact(keys, places, memory_bytes=memory_bytes)
    return [np.load(path).tolist() for path in places], [(entry.documents, entry.bytes) for entry in dropped]


def expected(shards: list[list[tuple[bytes, int]]]) -> tuple[list[list[int]], list[tuple[int, int]]]:
    seen: set[bytes] = set()
    places: list[list[int]] = []
    for shard in shards:
        own = []
        for place, (key, _) in enumerate(shard):
            if key in seen:
                own.append(place)
            seen.add(key)
        places.append(own)
    sizes = [(len(own), sum(shard[place][1] for place in own)) for own, shard in zip(places, shards, strict=True)]
    return places, sizes


def key(number: int) -> bytes:
    """Hash of a document, spread as BLAKE2 spreads."""
    return random.Random(number).randbytes(16)


def corpus(seed: int, count: int, different: int) -> list[tuple[bytes, int]]:
    rng = random.Random(seed)
    return [(key(number), 10 + number % 90) for number in (rng.randrange(different) for _ in range(count))]


def cut(entries: list[tuple[bytes, int]], shards: int) -> list[list[tuple[bytes, int]]]:
    """Shards of uneven lengths, some empty."""
    rng = random.Random(shards)
    bounds = sorted(rng.randrange(len(entries) + 1) for _ in range(shards - 1))
    return [entries[start:end] for start, end in zip([0, *bounds], [*bounds, len(entries)], strict=True)]


@pytest.mark.parametrize("shards", [1, 2, 7, 40])
@pytest.mark.parametrize("memory_bytes", [2**28, TIGHT])
def test_finds_what_a_set_finds(tmp_path: Path, shards: int, memory_bytes: int) -> None:
    entries = cut(corpus(1, 50_000, 40_000), shards)
    assert found(written(tmp_path, entries), memory_bytes) == expected(entries)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_planted_duplicates_are_all_found_and_nothing_else(tmp_path: Path) -> None:
    from hashlib import blake2b

    real = list(dict.fromkeys(text for part in ("prose", "translations") for _, text in texts(part)))
    rng = random.Random(5)
    planted = [rng.choice(real) for _ in range(500)]
    near = [text + "." for text in real[:200] if text + "." not in set(real)]  # Not equal: they stay.
    entries = [(blake2b(text.encode(), digest_size=16).digest(), len(text.encode())) for text in real + near + planted]
    places, dropped = found(written(tmp_path, cut(entries, 5)))
    assert sum(map(len, places)) == len(planted)
    assert sum(size for _, size in dropped) == sum(len(text.encode()) for text in planted)
    assert expected(cut(entries, 5))[0] == places


def test_a_text_repeated_everywhere_fills_no_bucket(tmp_path: Path) -> None:
    entries = cut([*corpus(2, 20_000, 30_000), *[(key(0), 7)] * 60_000, *corpus(3, 20_000, 30_000)], 9)
    assert found(written(tmp_path, entries), TIGHT) == expected(entries)


def test_keys_that_agree_in_half_are_different(tmp_path: Path) -> None:
    """Buckets and sorting go by the second half of a hash; the first must count too."""
    halves = [bytes(8), b"\1" * 8, b"\xff" * 8]
    entries = [[(first + second, 1) for first in halves for second in halves] for _ in range(2)]
    assert found(written(tmp_path, entries)) == expected(entries)


def test_empty_shards(tmp_path: Path) -> None:
    assert found(written(tmp_path, [[], [(key(1), 5)], [], [(key(1), 5)], []])) == (
        [[], [], [], [0], []],
        [(0, 0)] * 3 + [(1, 5), (0, 0)],
    )
    assert found(written(tmp_path / "none", [[]])) == ([[]], [(0, 0)])


def test_memory_that_is_too_little_is_named(tmp_path: Path) -> None:
    keys = written(tmp_path, [[(key(1), 5)]])
    with pytest.raises(DataError, match=r"does not fit in 1,000 bytes of memory\n  remedy: give the job at least"):
        found(keys, 1000)


@pytest.mark.parametrize("harm", ["missing", "truncated", "lengthened", "type", "text"])
def test_a_damaged_file_is_named(tmp_path: Path, harm: str) -> None:
    keys = written(tmp_path, [[(key(number), 5) for number in range(100)], [(key(1), 5)]])
    content = keys[0].read_bytes()
    if harm == "missing":
        keys[0].unlink()
    elif harm == "type":
        save(keys[0], np.zeros(100))
    else:
        keys[0].write_bytes({"truncated": content[:-5], "lengthened": content + b"1", "text": b"hello"}[harm])
    with pytest.raises(CorruptArtifact, match=r"keys-00000\.npy"):
        found(keys)


def test_rows_are_an_array_that_numpy_reads(tmp_path: Path) -> None:
    entries = corpus(4, 40_000, 10**9)
    path = written(tmp_path, [entries])[0]
    array = np.load(path)
    assert array.dtype == KEY
    assert [(bytes(row["hash"]), int(row["bytes"])) for row in array[[0, 16_383, 16_384, -1]]] == [
        entries[place] for place in (0, 16_383, 16_384, -1)
    ]
    assert len(array) == len(entries)


def interrupted(path: Path) -> None:
    with Rows(path, KEY) as rows:
        rows.append((key(1), 1))
        raise KeyError


def test_rows_leave_nothing_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        interrupted(tmp_path / "keys.npy")
    assert not list(tmp_path.iterdir())


SCRIPT = """
import resource, sys
from pathlib import Path
from sidewinder.corpus.duplicates import exact
keys = sorted(Path(sys.argv[1]).glob("keys-*.npy"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
places = [path.with_name(path.name.replace("keys", "places")) for path in keys]
dropped = exact(keys, places, memory_bytes=int(sys.argv[2]))
print(sum(entry.documents for entry in dropped), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_within_what_was_given(tmp_path: Path) -> None:
    """Four million documents, whose keys alone are 96 MB, in 24 MB."""
    rng = np.random.default_rng(1)
    repeated = 0
    for shard in range(8):
        array = np.zeros(500_000, KEY)
        array["hash"] = np.frombuffer(rng.bytes(16 * len(array)), "V16")
        array["hash"][:1000] = array["hash"][-1000:]
        repeated += 1000
        save(tmp_path / f"keys-{shard:05d}.npy", array)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(24 * 2**20)]
    documents, kib = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert documents == repeated
    assert kib < 32 * 2**10
