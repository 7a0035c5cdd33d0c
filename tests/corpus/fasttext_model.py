"""Writes a language model in fastText's binary format whose answer is known: the share of each language's own words.

A word's vector is the unit vector of its language, scaled; a text's hidden vector is their mean, and the output layer
is the identity. So a text of words of one language only gets a score near 1 for it.
"""

import struct
from pathlib import Path

import numpy as np

MAGIC, VERSION = 793_712_314, 12
SUPERVISED, SOFTMAX, WORD, LABEL = 3, 3, 0, 1
SCALE = 12.0


def write_model(path: Path, languages: dict[str, list[str]]) -> Path:
    """`languages`: label → its words, which no other language may have."""
    words = [(word, place) for place, own in enumerate(languages.values()) for word in own]
    dimension = len(languages)
    vectors = np.zeros((len(words), dimension), np.float32)
    for row, (_, place) in enumerate(words):
        vectors[row, place] = SCALE
    # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
    settings = struct.pack("<12id", dimension, 5, 1, 1, 5, 1, SOFTMAX, SUPERVISED, 0, 0, 0, 100, 1e-4)
    entries = len(words) + len(languages)
    counts = struct.pack("<3i2q", entries, len(words), len(languages), 1000, -1)
    dictionary = b"".join(word.encode() + b"\0" + struct.pack("<qb", 10, WORD) for word, _ in words)
    labels = b"".join(f"__label__{name}".encode() + b"\0" + struct.pack("<qb", 10, LABEL) for name in languages)
    content = struct.pack("<2i", MAGIC, VERSION) + settings + counts + dictionary + labels
    content += _matrix(vectors) + _matrix(np.eye(dimension, dtype=np.float32))
    path.write_bytes(content)
    return path


def _matrix(values: np.ndarray) -> bytes:
    """A matrix that is not quantised."""
    return b"\0" + struct.pack("<2q", *values.shape) + values.astype("<f4").tobytes()
