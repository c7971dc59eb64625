"""Pseudonyms: what stands for a shopper everywhere behind the drop folder.

User ids are guessable, so a plain hash of one is no secret. HMAC-SHA256 (RFC 2104) with a key that lies
outside the warehouse is: without the key nobody can try ids until one fits, and dropping the key cuts every
link at once.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

    from resources.home import Home

KEY_BYTES = 32
_BLOCK_BYTES, _PADS = 64, {"inner_pad": 0x36, "outer_pad": 0x5C}
"""Of SHA-256 and of HMAC."""
NAME = "k1"
"""Name of the key, in front of every pseudonym: a later key can then live beside it."""


class IdentityKeyError(ValueError):
    """The key file cannot be used; the message names the file and the next step."""


class IdentityKey:
    """The key that turns raw ids into pseudonyms. Same key, namespace and id: same pseudonym."""

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: 32 secret bytes.

        Raises:
            IdentityKeyError: there are not 32 of them.
        """
        if len(key) != KEY_BYTES:
            raise IdentityKeyError(f"an identity key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def __repr__(self) -> str:
        return "IdentityKey(…)"

    @classmethod
    def load(cls, home: Home) -> IdentityKey:
        """The shop's key, `home/keys/identity.k1`; made on first use, readable by its owner only.

        Raises:
            IdentityKeyError: the file holds no key, or is gone while the raw zone holds rows: under a new key
                everybody in them would come back as somebody else.
        """
        file = home.keys / f"identity.{NAME}"
        if not file.exists():
            if _has_loads(home):
                raise IdentityKeyError(
                    f"{file} is not there, and {home.loads} holds rows whose shoppers it names. Put the file "
                    f"back from a backup; or, to begin anew without them, remove {home.loads.parent}."
                )
            _make(file)
        try:
            return cls(bytes.fromhex(file.read_text(encoding="ascii").strip()))
        except ValueError as error:
            raise IdentityKeyError(
                f"{file}: not {2 * KEY_BYTES} hexadecimal digits. Put the file back from a backup: with a "
                "new key no shopper is recognised again."
            ) from error

    @classmethod
    def throwaway(cls) -> IdentityKey:
        """A key that is never written down, for looking at data without keeping it."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def hex(self) -> str:
        """The key itself, for the child process that reads a file. Never to be written or logged."""
        return self._key.hex()

    def pseudonym(self, raw_id: str, namespace: str = "shop") -> str:
        """`k1:` and the first 32 hexadecimal digits of HMAC-SHA256(key, namespace + NUL + raw id)."""
        message = namespace.encode() + b"\0" + raw_id.encode()
        return f"{NAME}:{hmac.digest(self._key, message, 'sha256').hex()[:32]}"

    def give_to(self, db: duckdb.DuckDBPyConnection) -> None:
        """Let `pseudonym_sql` work in this connection. The key goes into two of its variables, and so appears
        in no later statement, whose text an error could quote.
        """
        padded = self._key.ljust(_BLOCK_BYTES, b"\0")
        for name, pad in _PADS.items():
            db.execute(f"SET VARIABLE {name} = unhex('{bytes(byte ^ pad for byte in padded).hex()}')")


def pseudonym_sql(raw_id: str, namespace: str = "shop") -> str:
    """DuckDB's SQL of the pseudonym of the text `raw_id`, by RFC 2104: the same as `IdentityKey.pseudonym`, a
    hash of the outer pad and the hash of the inner pad and the message.
    """
    inner, outer = (f"getvariable('{name}')" for name in _PADS)
    message = f"unhex('{namespace.encode().hex()}00') || encode({raw_id})"
    return f"'{NAME}:' || left(sha256({outer} || unhex(sha256({inner} || {message}))), 32)"


def _has_loads(home: Home) -> bool:
    return any(not found.parent.name.startswith("_") for found in home.loads.glob("*/outcome.json"))


def _make(file: Path) -> None:
    """Two processes may both come here: whoever links first has made the key, and both use that one."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as out:
        out.write(secrets.token_bytes(KEY_BYTES).hex())
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(aside, file)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
