"""The bytes of an answer, piece by piece."""

from collections import deque
from collections.abc import AsyncGenerator


class BodyChunks:
    """The pieces of a file: those that are there already, then those that are to come."""

    def __init__(self, first: list[bytes], rest: AsyncGenerator[bytes]) -> None:
        self._first = deque(first)
        self._rest = rest

    def __aiter__(self) -> "BodyChunks":
        return self

    async def __anext__(self) -> bytes:
        return self._first.popleft() if self._first else await anext(self._rest)

    async def aclose(self) -> None:
        """Give up what is to come; harmless at the end."""
        await self._rest.aclose()
