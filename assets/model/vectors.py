"""Item vectors: each text encoded once per encoder, kept under the hash of its content.

```
<cache>/<encoder hash>/<anything>.parquet   text (SHA-256, 32 bytes), vector (float32 × dimensions)
```

Every writer adds files of its own by one rename and changes none, so any number of processes may encode at
the same time. Where two have encoded the same text, the file whose name comes first counts. Vectors of an
encoder that nobody has asked for a month are removed: they can always be made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resources.aside import replacing, sha256_of
from resources.crash import crash_point
from resources.devices import CPU, LEASED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from assets.model.eight_bits import Encode

SCHEME = "mean-pooled, 2"
"""Part of the encoder hash; to be changed with the way in which a vector is made."""
TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Tokens at a time: enough to keep a few cores, or a GPU, busy; more do not fit the caches of a CPU."""
LEAST_TOKENS = 512
"""Tokens at a time at least, on processors with AMX: with fewer, oneDNN chooses kernels by how many there
are, and a text's vector would depend on what is beside it.
"""
SAVE_EVERY = 20.0
"""Seconds of encoding after which vectors are written, so that an interruption loses no more than that."""
FORGOTTEN = 30 * 86400.0
"""Seconds after which the vectors of an encoder that nobody asks for are removed."""
LONGEST = 512
"""Tokens, where the tokenizer sets no bound of its own."""
PRECISION = "item_vectors.txt"
"""File of an encoder that says how it encodes, so part of its hash: a word of a recipe's `item_vectors`."""

Log = Callable[[str], None]


def item_vectors(
    encoder_dir: Path,
    texts: list[str],
    cache: Path,
    log: Log = lambda message: None,
    device: torch.device | None = None,
) -> NDArray[np.float32]:
    """Vectors of texts, in their order.

    Texts that the cache knows are not encoded again; with all known, torch is not even imported.

    Args:
        encoder_dir: a Hugging Face encoder with its tokenizer, whose `model_max_length` bounds the tokens.
        texts: may repeat; an empty one gets a vector of zeros.
        cache: folder of all encoders' vectors (`Home.vectors`).
        log: told about every five seconds of encoding how far it is.
        device: where to encode; where absent, on the GPU if this process holds a lease for one
            (`resources.devices`), else on the CPU.

    Returns:
        float32 [len(texts), dimensions], rows of length 1 (0 for an empty text).

    Raises:
        resources.text_encoder.EncoderError: the encoder cannot be loaded.
    """
    folder = cache / encoder_hash(encoder_dir)
    if folder.exists():
        os.utime(folder)
    _forget(cache)
    keys = [_key(text) for text in texts]
    known = _known(folder, set(keys))
    unseen = {key: text for key, text in zip(keys, texts, strict=True) if text.strip() and key not in known}
    if unseen:
        log(f"encoding {len(unseen):,} texts that this encoder has not seen ({len(texts):,} in all)")
        for vectors in _encoded(encoder_dir, unseen, log, device or _leased()):
            _add(folder, vectors)
            known |= vectors
    width = len(next(iter(known.values()), ())) or _width(encoder_dir)
    nothing = np.zeros(width, np.float32)
    return np.stack([known.get(key, nothing) for key in keys]) if keys else np.zeros((0, width), np.float32)


def encoder_hash(encoder_dir: Path) -> str:
    """16 hex digits over every file of the encoder, by name and content, and over the way of pooling."""
    digest = hashlib.sha256(SCHEME.encode())
    for file in sorted(path for path in encoder_dir.rglob("*") if path.is_file()):
        digest.update(f"\0{file.relative_to(encoder_dir).as_posix()}\0{sha256_of(file)}".encode())
    return digest.hexdigest()[:16]


def encode_as(encoder_dir: Path, precision: str) -> None:
    """Have this encoder's vectors made in another precision than the device's own: `int8`, on a CPU."""
    if precision != "native":
        (encoder_dir / PRECISION).write_text(precision, encoding="utf-8")


def _width(encoder_dir: Path) -> int:
    """Dimensions of an encoder's vectors, which not every config.json calls `hidden_size`."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(encoder_dir, local_files_only=True, trust_remote_code=False)
    return int(config.hidden_size)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _known(folder: Path, wanted: set[bytes]) -> dict[bytes, NDArray[np.float32]]:
    found: dict[bytes, NDArray[np.float32]] = {}
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file, partitioning=None)
        keys = table["text"].to_pylist()
        vectors = table["vector"].combine_chunks()
        matrix = vectors.flatten().to_numpy().reshape(len(keys), -1)
        for key, vector in zip(keys, matrix, strict=True):
            if key in wanted:
                found.setdefault(key, vector)
    return found


def _forget(cache: Path) -> None:
    for folder in cache.glob("?" * 16):
        with suppress(FileNotFoundError):  # another process has been here
            if time.time() - folder.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(folder)


def _add(folder: Path, vectors: dict[bytes, NDArray[np.float32]]) -> None:
    flat = pa.array(np.concatenate(list(vectors.values())), pa.float32())
    table = pa.table(
        {
            "text": pa.array(list(vectors), pa.binary(32)),
            "vector": pa.FixedSizeListArray.from_arrays(flat, len(flat) // len(vectors)),
        }
    )
    # The time first, so that the oldest file comes first by name.
    with replacing(folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet") as aside:
        pq.write_table(table, aside, compression="zstd")
        crash_point("vectors.written")
    crash_point("vectors.in_place")


def _leased() -> torch.device:
    import torch

    leased = os.environ.get(LEASED, CPU)
    return torch.device("cuda" if leased != CPU and torch.cuda.is_available() else "cpu")


def _encoded(
    encoder_dir: Path, texts: dict[bytes, str], log: Log, device: torch.device
) -> Iterator[dict[bytes, NDArray[np.float32]]]:
    """Vectors by key, in portions worth writing."""
    import torch

    from assets.model.batches import Tokens, longest, of_one_length
    from assets.model.eight_bits import in_eight_bits
    from resources.text_encoder import load_encoder

    encoder, tokenizer = load_encoder(str(encoder_dir))
    keys = list(texts)
    tokens = Tokens.of(list(texts.values()), tokenizer, longest(encoder, tokenizer, LONGEST))
    in_eight = device.type == "cpu" and (encoder_dir / PRECISION).exists()
    vectors_of = in_eight_bits(encoder) if in_eight else _natively(encoder, device)
    portion: dict[bytes, NDArray[np.float32]] = {}
    began = saved = told = time.monotonic()
    done = 0
    with torch.inference_mode():
        # Of one length: nothing is spent on padding, and on a CPU a text's vector is the same whatever is
        # beside it. (A GPU's products pick kernels by the number of rows, which shows in the last bits.)
        for rows in of_one_length(tokens.lengths, TOKENS[device.type]):
            vectors = vectors_of(*tokens.batch(rows, device))
            portion |= dict(zip((keys[row] for row in rows), vectors, strict=True))
            done, now = done + len(rows), time.monotonic()
            if now - told > 5:
                log(f"encoded {done:,} of {len(texts):,} texts, {done / (now - began):.0f} a second")
                told = now
            if now - saved > SAVE_EVERY:
                yield portion
                portion, saved = {}, now
    log(f"encoded {done:,} texts in {time.monotonic() - began:.1f} s on {device}")
    if portion:
        yield portion


def _natively(encoder: PreTrainedModel, device: torch.device) -> Encode:
    import torch

    from assets.model.network import has_bfloat16

    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    torch.nn.Module.to(encoder, device, dtype).eval()
    # Preferred on an H100, cuDNN's attention plans anew for every shape: tens of milliseconds each.
    torch.backends.cuda.enable_cudnn_sdp(False)

    has_amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> NDArray[np.float32]:
        rows = len(ids)
        if has_amx and ids.numel() < LEAST_TOKENS:
            times = -(-LEAST_TOKENS // ids.numel())
            ids, mask = ids.repeat(times, 1), mask.repeat(times, 1)
        mean = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float().mean(1)
        return torch.nn.functional.normalize(mean, dim=1)[:rows].cpu().numpy()

    return encode
