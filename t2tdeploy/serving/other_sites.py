"""Keeps pages of other sites from asking the server through the browser of somebody who can reach it.

No answer of the server allows another origin to read it (no CORS). But a browser sends some requests without asking
first, and such a request could unload a model: POST with no body, or with a type that HTML forms know. Those are
refused when a browser says that a page made them. With any other type, a browser asks first (a "preflight"), and is not
allowed. Works behind proxies, for it compares no host names.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from t2tdeploy.serving.http import Handler, json_response

UNASKED_TYPES = frozenset({"", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""Types of a body that a page may send anywhere without being allowed to: the Fetch standard's safelist."""

_OF_BROWSERS = (hdrs.ORIGIN, "Sec-Fetch-Site")


@web.middleware
async def refuse_unasked(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers 403 to what a page of another site could send unasked."""
    sent_by_a_page = any(name in request.headers for name in _OF_BROWSERS)
    kind = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if request.method == hdrs.METH_POST and sent_by_a_page and kind in UNASKED_TYPES:
        error = f"Content-Type: '{kind[:40]}' from a page (send application/json)"
        return json_response({"error": error}, status=403)
    return await handler(request)
