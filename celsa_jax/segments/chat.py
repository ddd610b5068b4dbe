"""Chat completions of an OpenAI-compatible endpoint, which may be anyone's (extra `llm`).

The openai package would follow a redirect to another host with all it was to send, unpack what
comes to any size, and wait for ever for one that comes byte by byte.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai

_LARGEST = 1 << 20  # bytes of an answer; a name takes some hundred
_N_RETRIES = 4
_ON_RETRIES = ("Retry-After", "Retry-After-Ms", "X-Should-Retry")  # headers


class NoAnswer(Exception):
    """What came instead of an answer; `status` of HTTP, if one came."""

    def __init__(self, problem: str, status: int | None = None):
        super().__init__(problem)
        self.status = status


class Chat:
    """Asks a model at temperature 0; belongs to the event loop that it is made in.

    Args:
      base_url, model, key: of the endpoint.
      timeout: seconds to wait without a byte; then, and after errors that pass, the request is
        sent again.
      deadline: seconds for an answer with all repetitions.
      at_once: requests at the same time.
    """

    def __init__(
        self, base_url: str, model: str, key: str, timeout: float, deadline: float, at_once: int
    ):
        self._model, self._deadline = model, deadline
        self._turn = asyncio.Semaphore(at_once)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=_N_RETRIES,
            http_client=_Client(timeout=timeout),
        )

    async def ask(self, system: str, user: str) -> str:
        """What the model says to two messages; NoAnswer where it says nothing."""
        messages: list[Any] = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
        ]
        try:
            async with self._turn, asyncio.timeout(self._deadline):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self._model, temperature=0, max_tokens=64, messages=messages
                )
        except TimeoutError:
            raise NoAnswer(f"no whole answer in {self._deadline:g} s") from None
        except openai.OpenAIError as error:  # a status, a timeout, no connection
            status = getattr(error, "status_code", None)
            cause = error if status else error.__cause__ or error
            raise NoAnswer(f"{type(cause).__name__}: {cause}", status) from None
        status, content = response.status_code, response.http_response.content
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            text = None
        if not isinstance(text, str):
            shown = content.decode(errors="replace")
            raise NoAnswer(f"no chat completion: {shown}", status)
        return text


class _Client(openai.DefaultAsyncHttpxClient):
    async def send(self, request: Any, **options: Any) -> Any:
        """The whole answer as JSON in UTF-8, or what is wrong with it in its place."""
        request.headers["Accept-Encoding"] = "identity"
        options |= {"stream": True, "follow_redirects": False}
        response = await super().send(request, **options)
        content = bytearray()
        try:
            async for part in response.aiter_raw():
                content += part
                if len(content) > _LARGEST:
                    content[:] = b"an answer of more than %d bytes" % _LARGEST
                    break
        finally:
            await response.aclose()
        packing = response.headers.get("Content-Encoding", "identity")
        if packing != "identity":
            content[:] = f"an answer packed as {packing}".encode()
        headers = {n: response.headers[n] for n in _ON_RETRIES if n in response.headers}
        headers["Content-Type"] = "application/json"  # whatever encoding was claimed
        return type(response)(
            response.status_code, headers=headers, content=bytes(content), request=request
        )
