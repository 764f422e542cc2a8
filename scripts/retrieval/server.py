"""The page of scripts/search.py --serve: a search box, answers, clips that play from the right second.

    /                        the page
    /api/search?q=&k=&best=  answers to a text, JSON            /api/like?row=&k=&best=  what is like a row
    /picture/N  /preview/N   JPEG, moving WebP of row N         /video/N                 its file, by ranges

Bound to 127.0.0.1 and answering only to that name, so that no other page can make itself its host. Rows are numbers:
no path comes in, so none that is not in the index goes out (see search_files).
"""

import html
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from parse_config import UserError
from scripts.retrieval.media import Files, span
from scripts.retrieval.query_encoder import Queries
from scripts.retrieval.search_index import SearchIndex

PAGE = Path(__file__).with_name("page.html")
HOSTS = ("127.0.0.1", "localhost")
BLOCK, MOST = 1 << 18, 100  # bytes read at once; answers at most
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Bad(Exception):
    """An answer that is none: status, and a word about it."""


class Server(ThreadingHTTPServer):
    """Ready to `serve_forever`; `url` is where it is. UserError if the port is taken."""

    daemon_threads = True

    def __init__(self, index: SearchIndex, queries: Queries, port: int):
        self.index, self.queries, self.files = index, queries, Files(index.rows)
        self.faiss_lock = threading.Lock()
        try:
            super().__init__((HOSTS[0], port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: cannot be used ({error}); choose another, or 0 for any"
            ) from None
        bare = HOSTS if self.server_port == 80 else ()
        self.names = {*bare, *(f"{host}:{self.server_port}" for host in HOSTS)}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOSTS[0]}:{self.server_port}/"

    def answers(self, query_E: Any, asked: dict[str, str], began: float) -> dict[str, Any]:
        """What the page shows: hits without their paths on disk, and milliseconds of encoding and of searching."""
        encoded = time.perf_counter()
        with self.faiss_lock:
            hits = self.index.search(
                query_E, min(MOST, max(1, number(asked.get("k", "10")))), asked.get("best") == "1"
            )
        done = time.perf_counter()
        shown = [
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
            "hits": shown,
            "rows": len(self.index),
            "encode_ms": round(1e3 * (encoded - began), 1),
            "search_ms": round(1e3 * (done - encoded), 2),
        }


class Handler(BaseHTTPRequestHandler):
    """One request. GET and HEAD alone."""

    protocol_version, server_version, sys_version = "HTTP/1.1", "search", ""
    timeout = 30
    server: Server

    def do_GET(self):
        """Answer, or say why not."""
        try:
            if self.headers.get("Host", "") not in self.server.names:
                raise Bad(403, "open it by its own address")
            address = split(self.path)
            first, _, rest = address.path.removeprefix("/").partition("/")
            routes = {
                "": self.page,
                "api": self.api,
                "picture": self.picture,
                "preview": self.picture,
                "video": self.video,
            }
            if first not in routes:
                raise Bad(404, "there is nothing here")
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            routes[first](first if first in ("picture", "preview") else rest, rest, asked)
        except Bad as error:
            self.reply(
                error.args[0], json.dumps({"error": error.args[1]}).encode(), "application/json"
            )
        except FileNotFoundError:
            self.reply(404, b'{"error": "there is nothing here"}', "application/json")
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser has seen enough

    do_HEAD = do_GET

    def page(self, name: str, rest: str, asked: dict[str, str]):
        """The page itself; its one script is allowed by a word that is new each time."""
        if rest:
            raise Bad(404, "there is nothing here")
        word = secrets.token_urlsafe(16)
        text = (
            PAGE.read_text(encoding="utf-8")
            .replace("{{word}}", word)
            .replace(
                "{{name}}",
                html.escape(f"{self.server.index.folder.name}: {len(self.server.index):,} rows"),
            )
        )
        self.reply(
            200,
            text.encode(),
            "text/html; charset=utf-8",
            {
                "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{word}'; script-src 'nonce-{word}'; "
                "connect-src 'self'; img-src 'self' data:; media-src 'self'; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'"
            },
        )

    def api(self, name: str, rest: str, asked: dict[str, str]):
        """Answers as JSON."""
        began = time.perf_counter()
        if rest == "search":
            if not asked.get("q", "").strip():
                raise Bad(400, "say what to look for")
            query_E = self.server.queries.text(asked["q"].encode(errors="replace").decode())
        elif rest == "like":
            row = number(asked.get("row", ""))
            if not 0 <= row < len(self.server.index):
                raise Bad(404, "there is no such row")
            query_E = self.server.index.vector(row)
        else:
            raise Bad(404, "there is nothing here")
        self.reply(
            200, json.dumps(self.server.answers(query_E, asked, began)).encode(), "application/json"
        )

    def picture(self, name: str, rest: str, asked: dict[str, str]):
        """A row as a picture, still or moving."""
        files = self.server.files
        made = files.picture(number(rest)) if name == "picture" else files.preview(number(rest))
        self.reply(200, made, "image/jpeg" if name == "picture" else "image/webp")

    def video(self, name: str, rest: str, asked: dict[str, str]):
        """A row's file, or the part that is asked for."""
        file, size, kind = self.server.files.open(number(rest))
        with file:
            try:
                part = span(self.headers.get("Range"), size)
            except ValueError:
                self.reply(416, b"", kind, {"Content-Range": f"bytes */{size}"})
                return
            start, end = part or (0, size)
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if part else {}
            self.head(
                206 if part else 200, end - start, kind, {**headers, "Accept-Ranges": "bytes"}
            )
            file.seek(start)
            while start < end and self.command == "GET":
                block = file.read(min(BLOCK, end - start))
                if not block:  # it has become shorter meanwhile
                    self.close_connection = True
                    break
                self.wfile.write(block)
                start += len(block)

    def reply(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None):
        """A whole answer."""
        self.head(status, len(body), kind, headers or {})
        if self.command == "GET":
            self.wfile.write(body)

    def head(self, status: int, length: int, kind: str, headers: dict[str, str]):
        """The first lines of an answer."""
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(length),
            **HEADERS,
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


def split(path: str) -> SplitResult:
    """What a request asks for, in parts. Raises Bad."""
    try:
        return urlsplit(path)
    except ValueError:
        raise Bad(400, "this is no address") from None


def number(text: str) -> int:
    """A number of at most 18 plain digits. Raises Bad."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Bad(404, "there is nothing here")
    return int(text)


def serve(index: SearchIndex, queries: Queries, port: int):
    """Until Ctrl-C."""
    with Server(index, queries, port) as server:
        print(f"{server.url}  ({len(index):,} rows; Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
