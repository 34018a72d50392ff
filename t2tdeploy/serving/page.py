"""The page to try a model in a browser: its files, and what browsers may do with them.

Under /ui/; it asks the server's own JSON routes beside it (translation_http.py). All its addresses are relative, so a
proxy may put a path before them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath

from aiohttp import hdrs, web

from t2tdeploy.errors import InputError
from t2tdeploy.serving.http import Handler, Routes

INDEX = "index.html"
MAX_EXAMPLES = 20
MAX_EXAMPLE_LENGTH = 500
EXAMPLES = (
    "Two dogs run across a green field.",
    "A woman in a red coat is reading a book on a bench in the park.",
    "The meeting is on May 3, 2024.",
)
"""Shown where the server is given none: English, like the sources of the problems that come with t2tdeploy."""

_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    # Nothing inline, nothing from elsewhere, and in browsers that know it no string becomes HTML or a script.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept, but asked for again each time: a newer server brings a newer page.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page, as it is and packed by gzip."""

    content: bytes
    packed: bytes
    content_type: str
    digest: str

    @classmethod
    def of(cls, content: bytes, content_type: str) -> Asset:
        """The asset of these bytes."""
        return cls(content, gzip.compress(content, mtime=0), content_type, hashlib.sha256(content).hexdigest()[:32])

    def answer(self, request: web.Request) -> web.Response:
        """The file, or that the browser has it already (304)."""
        pack = takes_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
        etag = f"{self.digest}-gzip" if pack else self.digest
        headers = {**HEADERS, hdrs.ETAG: f'"{etag}"'}
        if any(known.value in (etag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        if pack:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        body = self.packed if pack else self.content
        return web.Response(body=body, content_type=self.content_type, charset="utf-8", headers=headers)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a client that sends this header can unpack gzip."""
    for choice in accept_encoding.lower().split(","):
        name, _, quality = choice.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", quality)
    return False


def add_page_routes(routes: Routes) -> None:
    """The page, its files and its examples.

    Raises:
        InputError: the file of examples is not there, or holds none.
    """
    path = routes.frontend.options.ui_examples
    examples = json.dumps(EXAMPLES if path is None else read_examples(Path(path)), ensure_ascii=False)
    served = {**page_files(), "examples.json": Asset.of(examples.encode(), "application/json")}
    for name, asset in served.items():
        routes.get(f"/ui/{'' if name == INDEX else name}", _answering(asset), always=True)
    for place in ("/", "/ui"):  # `ui/` is beside both, whatever a proxy puts before them
        routes.get(place, _to_the_page, always=True)


def page_files() -> dict[str, Asset]:
    """The page's files by name."""
    return {
        entry.name: Asset.of(entry.read_bytes(), _TYPES[suffix])
        for entry in files("t2tdeploy.serving").joinpath("ui").iterdir()
        if (suffix := PurePath(entry.name).suffix) in _TYPES
    }


def read_examples(path: Path) -> list[str]:
    """The sentences of a file, one a line; blank lines are skipped.

    Raises:
        InputError: it cannot be read, holds none, too many, or one that is too long for a button.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise InputError(f"the examples {path} cannot be read: {error.strerror or error}", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"the examples {path} are not UTF-8", path=path, help="save the file as UTF-8") from error
    found = [line for line in lines if line]
    if not 0 < len(found) <= MAX_EXAMPLES:
        raise InputError(
            f"the examples {path} hold {len(found)} sentences, the page takes 1 to {MAX_EXAMPLES}",
            path=path,
            help="write one a line",
        )
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_EXAMPLE_LENGTH:
            raise InputError(
                f"{path}, line {number}: {len(line)} characters, an example has at most {MAX_EXAMPLE_LENGTH}",
                path=path,
                line=number,
            )
    return found


def page_url(host: str, port: int, *, scheme: str = "http") -> str:
    """Where to open the page on the server's own machine."""
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/ui/"


def _answering(asset: Asset) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return asset.answer(request)

    return handler


async def _to_the_page(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={hdrs.LOCATION: "ui/"})
