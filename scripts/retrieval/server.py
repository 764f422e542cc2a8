"""The page of scripts/search.py --serve: a search box, hits, clips that play from the right second.

    /                        the page
    /api/search?q=&k=&best=  hits for a text, JSON              /api/like?row=&k=&best=  hits for a row's vector
    /picture/N  /preview/N   JPEG, animated WebP of row N       /video/N                 its file, by ranges

Bound to 127.0.0.1 and answering only to that name, so that no other page can use it under a name of its own; what
another site's page asks for, by what the browser says, is refused too. Rows are numbers: no path comes in, so no file
that is not in the index goes out (see media.py).
"""

import html
import json
import secrets
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import numpy as np

from data_loader.decode import process
from parse_config import UserError
from scripts.retrieval.media import MediaFiles, parse_range
from scripts.retrieval.query_encoder import QueryEncoder
from scripts.retrieval.search_index import SearchIndex

PAGE = Path(__file__).with_name("page.html")
HOSTS = ("127.0.0.1", "localhost")
BLOCK_SIZE = 1 << 18  # bytes read at once
MAX_BODY = 1 << 20  # bytes of a request's body, which nothing here needs
OWN_FETCH_SITES = (None, "same-origin", "none")  # of the header Sec-Fetch-Site
MAX_HITS = 100
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOT_FOUND = "there is nothing here"


class RequestError(Exception):
    """A request that gets an error as its answer: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class SearchServer(ThreadingHTTPServer):
    """Serves the page over an index after `serve_forever`; `port` 0 is any free one.

    Raises UserError if the port cannot be used.
    """

    daemon_threads = True

    def __init__(
        self, index: SearchIndex, query_encoder: QueryEncoder, port: int
    ) -> None:
        self.index = index
        self.query_encoder = query_encoder
        self.files = MediaFiles(index.rows)
        self.faiss_lock = threading.Lock()
        process.start()  # before any thread that serves holds a lock, and before the port is open
        try:
            super().__init__((HOSTS[0], port), RequestHandler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: cannot be used ({error}); choose another, or 0 for any"
            ) from None
        self.allowed_hosts = {f"{host}:{self.server_port}" for host in HOSTS}
        if self.server_port == 80:  # browsers leave this port out
            self.allowed_hosts.update(HOSTS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is no error; anything else is, and is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOSTS[0]}:{self.server_port}/"

    def search(
        self, query_E: np.ndarray, parameters: dict[str, str], start_time: float
    ) -> dict[str, Any]:
        """Hits as the page shows them, without paths on disk, and milliseconds of encoding and of searching.

        parameters: "k" and "best" of the request. start_time: when the encoding of the query began.
        """
        encoded_time = time.perf_counter()
        k = min(MAX_HITS, max(1, parse_number(parameters.get("k", "10"))))
        with self.faiss_lock:
            hits = self.index.search(
                query_E, k, best_of_each=parameters.get("best") == "1"
            )
        searched_time = time.perf_counter()
        public_hits = [
            {
                "row": hit["row"],
                "score": round(hit["score"], 4),
                "name": hit.get("text", hit["id"]),
                "start": hit.get("start"),
                "end": hit.get("end"),
                "form": self.files.form(hit),
            }
            for hit in hits
        ]
        return {
            "hits": public_hits,
            "rows": len(self.index),
            "encode_ms": round(1e3 * (encoded_time - start_time), 1),
            "search_ms": round(1e3 * (searched_time - encoded_time), 2),
        }


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one request, GET or HEAD."""

    protocol_version = "HTTP/1.1"
    server_version = "search"
    sys_version = ""
    timeout = 30
    server: SearchServer

    def do_GET(self) -> None:
        """Answers the request, or sends an error as JSON; nobody is told of a client that has left."""
        try:
            try:
                self._discard_body()
                self._refuse_other_sites()
                self._route()
            except RequestError as error:
                self._send_json(error.status, {"error": error.message})
            except FileNotFoundError:
                self._send_json(404, {"error": NOT_FOUND})
            except UserError as error:
                self._send_json(500, {"error": " ".join(str(error).split())})
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has seen enough

    do_HEAD = do_GET

    def _discard_body(self) -> None:
        """Reads what came with a request, which would else be taken for the next one. Raises RequestError."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        length = lengths[0]
        is_number = length.isascii() and length.isdigit() and len(length) <= 18
        if (
            "Transfer-Encoding" in self.headers
            or len(lengths) > 1
            or not is_number
            or int(length) > MAX_BODY
        ):
            self.close_connection = True
            raise RequestError(413, "a request needs no body here")
        self.rfile.read(int(length))

    def _refuse_other_sites(self) -> None:
        """Raises RequestError for a request under another host name, or that another site's page makes."""
        if self.headers.get("Host", "") not in self.server.allowed_hosts:
            raise RequestError(403, "open it by its own address")
        origin = self.headers.get("Origin")
        is_own_origin = origin is None or (
            origin.removeprefix("http://") in self.server.allowed_hosts
        )
        if (
            self.headers.get("Sec-Fetch-Site") not in OWN_FETCH_SITES
            or not is_own_origin
        ):
            raise RequestError(403, "another page asks for this; open it by itself")

    def _route(self) -> None:
        """Calls the handler of the first part of the path. Raises RequestError, FileNotFoundError."""
        address = parse_address(self.path)
        route, _, rest = address.path.removeprefix("/").partition("/")
        parameters = {
            name: values[0] for name, values in parse_qs(address.query).items()
        }
        if route == "":
            self._send_page(rest)
        elif route == "api":
            self._send_hits(rest, parameters)
        elif route == "picture":
            self._send(200, self.server.files.picture(parse_number(rest)), "image/jpeg")
        elif route == "preview":
            self._send(200, self.server.files.preview(parse_number(rest)), "image/webp")
        elif route == "video":
            self._send_video(parse_number(rest))
        else:
            raise RequestError(404, NOT_FOUND)

    def _send_page(self, rest: str) -> None:
        """Sends the page; its script and style are allowed by a nonce that is new each time."""
        if rest:
            raise RequestError(404, NOT_FOUND)
        nonce = secrets.token_urlsafe(16)
        index = self.server.index
        title = html.escape(f"{index.folder.name}: {len(index):,} rows")
        page = PAGE.read_text(encoding="utf-8")
        page = page.replace("{{nonce}}", nonce).replace("{{title}}", title)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src 'self' data:; media-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy}
        self._send(200, page.encode(), "text/html; charset=utf-8", headers)

    def _send_hits(self, action: str, parameters: dict[str, str]) -> None:
        """Sends the hits of a text ("search") or of what is like a row ("like") as JSON."""
        start_time = time.perf_counter()
        if action == "search":
            text = parameters.get("q", "")
            if not text.strip():
                raise RequestError(400, "say what to look for")
            valid_text = text.encode(errors="replace").decode()
            query_E = self.server.query_encoder.encode_text(valid_text)
        elif action == "like":
            row = parse_number(parameters.get("row", ""))
            if not 0 <= row < len(self.server.index):
                raise RequestError(404, "there is no such row")
            query_E = self.server.index.vector(row)
        else:
            raise RequestError(404, NOT_FOUND)
        self._send_json(200, self.server.search(query_E, parameters, start_time))

    def _send_video(self, number: int) -> None:
        """Sends a row's file, or the range of it that is asked for."""
        file, size, content_type = self.server.files.open(number)
        with file:
            try:
                byte_range = parse_range(self.headers.get("Range"), size)
            except ValueError:
                self._send(416, b"", content_type, {"Content-Range": f"bytes */{size}"})
                return
            headers = {"Accept-Ranges": "bytes"}
            if byte_range is None:
                status = 200
                start, end = 0, size
            else:
                status = 206
                start, end = byte_range
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_headers(status, end - start, content_type, headers)
            file.seek(start)
            while start < end and self.command == "GET":
                try:
                    block = file.read(min(BLOCK_SIZE, end - start))
                except OSError:
                    block = b""
                if (
                    not block
                ):  # the file has become shorter meanwhile, or its disk fails
                    self.close_connection = True
                    break
                self.wfile.write(block)
                start += len(block)

    def _send_json(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(
        self,
        status: int,
        body: bytes,
        content_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Sends a complete answer; for HEAD without its body."""
        self._send_headers(status, len(body), content_type, headers or {})
        if self.command == "GET":
            self.wfile.write(body)

    def _send_headers(
        self, status: int, length: int, content_type: str, headers: dict[str, str]
    ) -> None:
        """Sends the status line and all headers; `headers` are added to those of every answer."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


def parse_address(path: str) -> SplitResult:
    """The parts of a request's address. Raises RequestError."""
    try:
        return urlsplit(path)
    except ValueError:
        raise RequestError(400, "this is no address") from None


def parse_number(text: str) -> int:
    """A number of at most 18 ASCII digits. Raises RequestError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError(404, NOT_FOUND)
    return int(text)


def serve(index: SearchIndex, query_encoder: QueryEncoder, port: int) -> None:
    """Serves the page until Ctrl-C."""
    with SearchServer(index, query_encoder, port) as server:
        print(f"{server.url}  ({len(index):,} rows; Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/search.py --help")
