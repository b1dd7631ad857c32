"""Signatures of the server: expiring URLs and receipts of deletions.

HMAC-SHA256 with a key of 256 random bits. Replicas that share jobs must share the key.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from superres.common.errors import SharplineError
from superres.common.files import translate_write_errors

KEY_BYTES = 32


class Signer:
    """Signs and verifies; a signature is valid only for its `purpose`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """The signature: 43 URL-safe characters."""
        digest = hmac.digest(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def verify(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self.sign(purpose, text).encode(), signature.encode())

    def signed(self, purpose: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """The value with its `signature`."""
        return {**value, "signature": self.sign(purpose, _canonical(value))}

    def is_signed(self, purpose: str, value: Mapping[str, Any]) -> bool:
        """Whether `signed` returned this value, unchanged."""
        rest = {name: each for name, each in value.items() if name != "signature"}
        return self.verify(purpose, _canonical(rest), str(value.get("signature", "")))

    def derive_secret(self, purpose: str, text: str) -> bytes:
        """A secret of 32 bytes, derived from the key; deterministic."""
        return hmac.digest(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256)


def load_signer(path: Path) -> Signer:
    """The signer with a file's key; a missing file is created, readable only by its owner.

    Raises SharplineError if the file cannot be created or holds no key.
    """
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text().strip())
    if len(key) < KEY_BYTES:
        raise SharplineError(f"{path} must hold {KEY_BYTES} bytes in hexadecimal")
    return Signer(key)


def _make_key(path: Path) -> None:
    """Create the key file atomically: of replicas that start together, the first link wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
