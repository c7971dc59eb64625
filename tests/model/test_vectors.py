"""Item vectors: the right ones, each encoded once, whoever asks at the same time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from assets.model.network import has_bfloat16
from assets.model.vectors import FORGOTTEN, encode_as, encoder_hash, item_vectors
from resources.text_encoder import EncoderError, load_encoder, resolve_encoder
from tests.model.little_shop import ADJECTIVES, NOUNS, tiny_encoder

TEXTS = [f"{a} {n} " + " ".join(ADJECTIVES[: k % 7]) for k, a in enumerate(ADJECTIVES) for n in NOUNS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def reference(encoder: Path, texts: list[str]) -> np.ndarray:
    """One text at a time, straight from the library."""
    model, tokenizer = load_encoder(str(encoder))
    model.eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(0).numpy()
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    """To the last digits in float32; where the machine multiplies bfloat16, to the third."""
    if has_bfloat16(torch.device("cpu")):
        assert (found * wanted).sum(axis=1).min() > 0.9998
        np.testing.assert_allclose(found, wanted, atol=1e-2)
    else:
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_they_are_the_normalised_mean_of_the_tokens(encoder: Path, tmp_path: Path) -> None:
    found = item_vectors(encoder, TEXTS, tmp_path)
    assert found.dtype == np.float32
    assert_near(found, reference(encoder, TEXTS))


@pytest.mark.parametrize("name", ["tiny", "genuine"])
def test_a_text_has_the_same_vector_whatever_is_encoded_beside_it(
    encoder: Path, tmp_path: Path, name: str
) -> None:
    """To the last bit: a night that encodes ten new texts makes what one that encodes all of them makes."""
    folder = encoder if name == "tiny" else Path(resolve_encoder("default"))
    texts = TEXTS[:60] if name == "genuine" else TEXTS
    together = item_vectors(folder, texts, tmp_path / "together")
    random = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        some = random.permutation(len(texts))[:size]
        alone = item_vectors(folder, [texts[n] for n in some], tmp_path / str(size))
        assert (alone == together[some]).all()


def test_in_eight_bits_vectors_are_nearly_the_same_and_kept_apart(tmp_path: Path) -> None:
    folder, texts = tmp_path / "encoder", TEXTS[:60]
    shutil.copytree(resolve_encoder("default"), folder)
    native = encoder_hash(folder)
    encode_as(folder, "int8")
    assert encoder_hash(folder) != native
    found = item_vectors(folder, texts, tmp_path / "vectors")
    cosine = (found * reference(folder, texts)).sum(axis=1)
    assert 0.995 < cosine.min() < 0.9999
    alone = item_vectors(folder, texts[:7], tmp_path / "alone")
    assert (alone == found[:7]).all()


def test_eight_bits_without_openvino_name_what_to_install(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    encode_as(folder, "int8")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EncoderError, match=r"pip install 'nightshelf\[int8\]'"):
        item_vectors(folder, TEXTS[:3], tmp_path / "vectors")


def test_only_unseen_texts_are_encoded(encoder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    first = item_vectors(encoder, TEXTS[:10], tmp_path, told.append)
    assert told[0] == "encoding 10 texts that this encoder has not seen (10 in all)"
    told.clear()
    mixed = [TEXTS[3], TEXTS[20], "", TEXTS[3], "   ", TEXTS[21]]
    second = item_vectors(encoder, mixed, tmp_path, told.append)
    assert told[0] == "encoding 2 texts that this encoder has not seen (6 in all)"
    assert (second[0] == first[3]).all()
    assert (second[3] == first[3]).all()
    assert not second[[2, 4]].any()
    np.testing.assert_allclose(np.linalg.norm(second[[0, 1, 3, 5]], axis=1), 1, atol=1e-6)
    told.clear()
    assert (item_vectors(encoder, mixed, tmp_path, told.append) == second).all()
    assert told == []
    assert item_vectors(encoder, [], tmp_path).shape == (0, 32)


def test_an_encoder_whose_config_names_its_width_otherwise(tmp_path: Path) -> None:
    """DistilBERT has `dim` where BERT has `hidden_size`."""
    folder = tiny_encoder(tmp_path / "tiny")
    vocabulary = len((folder / "vocab.txt").read_text().splitlines())
    config = DistilBertConfig(vocab_size=vocabulary, dim=24, n_layers=1, n_heads=2, hidden_dim=48)
    DistilBertModel(config).save_pretrained(folder)
    assert "hidden_size" not in json.loads((folder / "config.json").read_text())
    found = item_vectors(folder, [*TEXTS[:3], ""], tmp_path / "cache")
    assert found.shape == (4, 24)
    assert_near(found[:3], reference(folder, TEXTS[:3]))
    assert item_vectors(folder, [""], tmp_path / "cache").shape == (1, 24)


def test_texts_longer_than_the_tokenizers_bound_are_cut(encoder: Path, tmp_path: Path) -> None:
    long = " ".join(["shoe"] * 500)
    cut = " ".join(["shoe"] * 62)  # and two special tokens: 64
    found = item_vectors(encoder, [long, cut], tmp_path)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_another_encoder_has_other_vectors(encoder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    assert encoder_hash(other) == encoder_hash(encoder)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert encoder_hash(other) != encoder_hash(encoder)


def test_vectors_that_nobody_has_asked_for_are_forgotten(encoder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    (other / "note.txt").write_text("another encoder")
    cache = tmp_path / "cache"
    item_vectors(encoder, TEXTS, cache)
    item_vectors(other, TEXTS, cache)
    long_ago = time.time() - FORGOTTEN - 60
    for folder in cache.iterdir():
        os.utime(folder, (long_ago, long_ago))
    item_vectors(encoder, TEXTS, cache)
    assert [folder.name for folder in cache.iterdir()] == [encoder_hash(encoder)]


def test_a_full_cache_needs_no_torch(encoder: Path, tmp_path: Path) -> None:
    item_vectors(encoder, ["red shoe"], tmp_path)
    code = (
        "import sys; from pathlib import Path; from assets.model.vectors import item_vectors\n"
        f"assert item_vectors(Path({str(encoder)!r}), ['red shoe'], Path({str(tmp_path)!r})).any()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_several_processes_may_fill_the_cache_at_once(encoder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from assets.model.vectors import item_vectors\n"
        "from tests.model.test_vectors import TEXTS\n"
        f"n = int(sys.argv[1]); texts = TEXTS[n:n + 50]\n"
        f"v = item_vectors(Path({str(encoder)!r}), texts, Path({str(tmp_path)!r}))\n"
        "assert v.any(axis=1).all()"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in (0, 10)]
    assert [process.wait() for process in running] == [0, 0]
    told: list[str] = []
    found = item_vectors(encoder, TEXTS[:60], tmp_path, told.append)
    assert told == []
    assert_near(found, reference(encoder, TEXTS[:60]))
    assert not list(tmp_path.rglob("*.making"))


def test_the_genuine_encoder_gives_the_published_vectors(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["Trail running shoe. Acme. footwear", "Sneaker for joggers", "Electric kettle, 1.7 litres"]
    folder = Path(resolve_encoder("default"))
    found = item_vectors(folder, texts, tmp_path)
    published = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    assert_near(found, published)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
