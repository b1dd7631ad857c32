"""What the server signs so that it knows it again: addresses that end, and receipts of deletions.

HMAC-SHA256 with a key of 256 random bits. Replicas that share their jobs must share the key.
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
from superres.common.files import writing

KEY_BYTES = 32


class Signer:
    """Signs and checks; a signature for one `purpose` is worth nothing for another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """43 characters that fit into an address."""
        digest = hmac.digest(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def verify(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(self.sign(purpose, text).encode(), signature.encode())

    def signed(self, purpose: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """The value with its `signature`."""
        return {**value, "signature": self.sign(purpose, _canonical(value))}

    def is_signed(self, purpose: str, value: Mapping[str, Any]) -> bool:
        """Whether `signed` made this value, and nobody changed it since."""
        rest = {name: each for name, each in value.items() if name != "signature"}
        return self.verify(purpose, _canonical(rest), str(value.get("signature", "")))

    def derived(self, purpose: str, text: str) -> bytes:
        """32 bytes that only who has the key can tell; the same every time."""
        return hmac.digest(self._key, f"{purpose}\n{text}".encode(), hashlib.sha256)


def load_signer(path: Path) -> Signer:
    """The signer with a file's key; a missing file is made, readable by its owner alone.

    Raises SharplineError where the file cannot be made or is not a key.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text().strip())
    if len(key) < KEY_BYTES:
        raise SharplineError(f"{path} must hold {KEY_BYTES} bytes as hexadecimal digits")
    return Signer(key)


def _make_key(path: Path) -> None:
    """Replicas that start together end up with one key: the first link wins."""
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
