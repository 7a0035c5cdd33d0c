"""MinHash: signatures and clusters are datatrove's; planted near duplicates are found; sharding changes nothing."""

import random
from collections import defaultdict
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import xxhash
from datatrove.data import Document
from datatrove.pipeline.dedup import minhash as datatrove
from datatrove.utils.binaryio import read_tuples_from_file
from tests.corpus.real_text import texts

from sidewinder.config.filters import MinHash
from sidewinder.corpus.duplicates import exact
from sidewinder.corpus.filters.words import words
from sidewinder.corpus.minhash import SHINGLES_AT_ONCE, Hashing, Signatures, join, near
from sidewinder.corpus.rows import KEY, Rows
from sidewinder.errors import CorruptArtifact, DataError

CONFIG = MinHash(kind="minhash")


@pytest.fixture(scope="module")
def real() -> list[str]:
    return [text for part in ("prose", "code", "translations") for _, text in texts(part)][:600]


def their_signature(folder: Path, config: MinHash) -> datatrove.MinhashDedupSignature:
    theirs = datatrove.MinhashConfig(config.ngram, config.buckets, config.hashes_per_bucket, config.seed)
    step = datatrove.MinhashDedupSignature(str(folder), theirs, language=words())
    step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # Newer xxhash takes no text.
    return step


def cut(items: list[str], shards: int) -> list[list[str]]:
    """Contiguous shards, the last one empty if there is more than one."""
    if shards == 1:
        return [items]
    step = -(-len(items) // (shards - 1))
    return [items[start : start + step] for start in range(0, step * (shards - 1), step)] + [[]]


def left_out(folder: Path, shards: list[list[str]], config: MinHash = CONFIG) -> tuple[list[list[int]], int, int]:
    """Places left out of each shard, exact and near documents counted."""
    folder.mkdir(exist_ok=True)
    paths: dict[str, list[Path]] = defaultdict(list)
    for number, shard in enumerate(shards):
        for kind in ("keys", "signatures", "exact", "places"):
            paths[kind].append(folder / f"{kind}-{number:05d}.npy")
        with Rows(paths["keys"][-1], KEY) as keys, Signatures(paths["signatures"][-1], config) as signatures:
            for document in signatures.run(Document(text=text, id="") for text in shard):
                encoded = document.text.encode()
                keys.append((blake2b(encoded, digest_size=16).digest(), len(encoded)))
    equal = exact(paths["keys"], paths["exact"])
    close = near(paths["signatures"], paths["keys"], paths["exact"], paths["places"], config, memory_bytes=2**26)
    places = [np.load(path).tolist() for path in paths["places"]]
    sizes = [sum(len(shard[place].encode()) for place in own) for shard, own in zip(shards, places, strict=True)]
    assert [one.bytes + other.bytes for one, other in zip(equal, close, strict=True)] == sizes
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return places, sum(entry.documents for entry in equal), sum(entry.documents for entry in close)


@pytest.mark.parametrize("config", [CONFIG, MinHash(kind="minhash", ngram=3, buckets=5, hashes_per_bucket=4, seed=7)])
def test_signatures_are_datatroves(real: list[str], tmp_path: Path, config: MinHash) -> None:
    theirs, ours = their_signature(tmp_path, config), Hashing(config)
    long = " ".join(real)[:60_000]
    assert len(ours.shingles(long)) > 4 * SHINGLES_AT_ONCE
    for text in [*real[:150], *real[-100:], long, "", "one two", "café naïve 12.5 ＡＢＣ ﬁ" * 3]:
        shingles = theirs.get_shingles(text)
        assert np.array_equal(shingles.ravel(), ours.shingles(text))
        if shingles.size:
            assert np.array_equal(np.concatenate(theirs.get_signature(shingles)), ours.signature(ours.shingles(text)))


def test_the_last_step_of_the_modulus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values whose remainder folds to the prime itself or a little above: they occur once in 10¹⁷."""
    ours = Hashing(CONFIG)
    prime = 2**61 - 1
    shingles = np.array([prime, prime + 3, 2 * prime, 7 * prime + 5, 2**64 - 1, 12345], np.uint64)
    monkeypatch.setattr(ours, "parameters", (np.ones((1, 112), np.uint64), np.zeros((1, 112), np.uint64)))
    for some in ([0], [1], [2, 4], [3], [4], [5], range(6)):
        expected = min(int(value) % prime for value in shingles[list(some)])
        assert set(ours.signature(shingles[list(some)]).tolist()) == {expected}


def test_clusters_are_those_of_datatroves_stages(real: list[str], tmp_path: Path) -> None:
    """datatrove's own buckets and clusters, run in a fresh folder: the same documents together."""
    texts_of = with_near_duplicates(real)[0]
    shards = cut(texts_of, 4)[:-1]
    theirs = datatrove.MinhashConfig()
    folders = [str(tmp_path / name) for name in ("signatures", "buckets", "clusters")]
    for rank, shard in enumerate(shards):
        their_signature(tmp_path / "signatures", CONFIG).run([Document(text=text, id="") for text in shard], rank, 3)
    for rank in range(theirs.num_buckets):
        list(
            datatrove.MinhashDedupBuckets(folders[0], folders[1], config=theirs).run(None, rank, theirs.num_buckets)
            or ()
        )
    list(
        datatrove.MinhashDedupCluster(folders[1], folders[2], config=theirs, save_cluster_id=True).run(None, 0, 1) or ()
    )
    clusters: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for path in sorted((tmp_path / "clusters").glob("*.clusters")):
        with path.open("rb") as stream:
            for place, cluster in read_tuples_from_file(stream, "2I"):
                clusters[cluster].append((int(path.name.split(".")[0]), place))
    expected: list[list[int]] = [[] for _ in shards]
    for members in clusters.values():
        for shard, place in sorted(members)[1:]:  # All but the first of each cluster.
            expected[shard].append(place)
    places, equal, close = left_out(tmp_path / "ours", shards)
    short = [
        [place for place in own if len(Hashing(CONFIG).shingles(shard[place]))]
        for own, shard in zip(places, shards, strict=True)
    ]
    assert short == [sorted(own) for own in expected]  # datatrove leaves texts without an n-gram alone, equal or not.
    assert sum(map(len, expected)) > 50
    assert equal + close == sum(map(len, places))


def with_near_duplicates(real: list[str], seed: int = 3) -> tuple[list[str], int, int]:
    """The texts with copies of long ones strewn in: one word in a hundred changed (near), one in four (not)."""
    rng = random.Random(seed)
    long = [text for text in dict.fromkeys(real) if 300 < len(text.split()) < 3000][:80]
    close, far = [changed(text, 0.01, rng) for text in long], [changed(text, 0.25, rng) for text in long]
    result = [*dict.fromkeys(real), *close, *far]
    rng.shuffle(result)
    return result, len(close), len(far)


def changed(text: str, share: float, rng: random.Random) -> str:
    parts = text.split(" ")
    for place in rng.sample(range(len(parts)), max(1, int(share * len(parts)))):
        parts[place] = f"word{rng.randrange(10**9)}x"
    return " ".join(parts)


def test_planted_near_duplicates_are_found_and_distant_copies_are_not(tmp_path: Path) -> None:
    rng = random.Random(8)
    vocabulary = [f"{rng.randbytes(3).hex()}" for _ in range(5000)]
    originals = [" ".join(rng.choice(vocabulary) for _ in range(400)) for _ in range(150)]
    close = [changed(text, 0.01, rng) for text in originals]  # They share some 95 % of their 5-grams: J = 0.9.
    far = [changed(text, 0.25, rng) for text in originals]  # 24 %: J = 0.13.
    shards = [originals, far, close]
    places, equal, found = left_out(tmp_path, shards)
    missed = len(close) - len(places[2])
    assert (equal, places[0], places[1]) == (0, [], [])
    assert found == len(places[2])
    assert missed <= 3  # A pair at J = 0.9 is missed once in 2,700 times.


@pytest.mark.parametrize("shards", [2, 5, 9])
def test_what_is_left_out_does_not_depend_on_the_shards(real: list[str], tmp_path: Path, shards: int) -> None:
    items = with_near_duplicates(real[:300] + real[-100:])[0]
    items += [*items[:20], *["two words"] * 4]  # And equal ones, some of them too short for an n-gram.
    (whole,), *counts = left_out(tmp_path / "one", cut(items, 1))
    parts, *others = left_out(tmp_path / "many", cut(items, shards))
    starts = np.cumsum([0, *(len(shard) for shard in cut(items, shards))])
    assert [int(start) + place for start, own in zip(starts, parts, strict=False) for place in own] == whole
    assert counts == others
    assert counts[0] >= 23
    assert len(whole) == sum(counts)


def test_the_first_of_a_cluster_stays() -> None:
    """Against components found one by one, on random graphs that need many rounds."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        count, edges = 200, rng.integers(0, 200, (rng.integers(1, 400), 2))
        parents = np.arange(count)
        for batch in np.array_split(edges, 5):
            join(parents, batch[:, 0], batch[:, 1])
        groups = [{place} for place in range(count)]
        for one, other in edges:
            together = groups[one] | groups[other]
            for place in together:
                groups[place] = together
        assert [place for place in range(count) if parents[place] == place] == sorted({min(group) for group in groups})


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def damage_other_settings(path: Path) -> None:
    with Signatures(path, MinHash(kind="minhash", buckets=3)) as signatures:
        signatures.add("one two three four five six")


@pytest.mark.parametrize("damage", [damage_truncate, damage_other_settings])
def test_signatures_that_do_not_fit_are_named(real: list[str], tmp_path: Path, damage: Callable[[Path], None]) -> None:
    left_out(tmp_path, [real[:20]])
    damage(tmp_path / "signatures-00000.npy")
    paths = {kind: [tmp_path / f"{kind}-00000.npy"] for kind in ("signatures", "keys", "exact", "places")}
    with pytest.raises(CorruptArtifact, match=r"signatures-00000\.npy"):
        near(*paths.values(), CONFIG)


def test_memory_that_is_too_little_is_named(real: list[str], tmp_path: Path) -> None:
    left_out(tmp_path, [real[:20]])
    paths = [[tmp_path / f"{kind}-00000.npy"] for kind in ("signatures", "keys", "exact", "places")]
    with pytest.raises(DataError, match="MinHash deduplication of 24 documents does not fit"):
        near(*paths, CONFIG, memory_bytes=100)


def interrupted(path: Path) -> None:
    with Signatures(path, CONFIG) as signatures:
        signatures.add("one two three four five six")
        raise KeyError


def test_signing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        interrupted(tmp_path / "signatures.npy")
    assert not list(tmp_path.iterdir())
