"""The search server as browsers treat it: clients that leave, bodies, other sites' pages, many requests at once."""

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from parse_config import UserError, printable
from scripts import extract, index, search
from scripts.retrieval.search_index import SearchIndex
from scripts.synthetic.miniatures import write_media
from tests.helpers import search_home
from tests.test_house import ROOT

TIMEOUT = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("server")
    search_home.build(made)
    return made


@pytest.fixture(scope="module")
def server(home):
    with search_home.serving(home / "index") as server:
        yield server


def get(port, path, **headers):
    """(status, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=TIMEOUT)


def request_line(server, path, *headers):
    host = f"Host: 127.0.0.1:{server.server_port}"
    return "\r\n".join([f"GET {path} HTTP/1.1", host, *headers, "", ""]).encode()


def leave_rudely(client):
    """Closes a connection by a reset, as a browser that is killed does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.slow
def test_six_pictures_at_once_after_each_start_are_all_there(home):
    """A decoder whose process was forked under another thread's lock never answers: its picture is a 404."""
    command = [sys.executable, "scripts/search.py", str(home / "index"), "--serve"]
    for _ in range(3):
        started = subprocess.Popen(
            [*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            url = started.stdout.readline()
            port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
            with ThreadPoolExecutor(6) as pool:
                answers = list(
                    pool.map(get, [port] * 6, [f"/picture/{row}" for row in range(6)])
                )
            assert [status for status, _ in answers] == [200] * 6
        finally:
            started.kill()
            started.wait(TIMEOUT)
            started.stdout.close()


def test_the_decoder_is_started_before_the_port_is_open(home, monkeypatch):
    from data_loader.decode import process

    threads_at_fork = []
    monkeypatch.setattr(
        process, "start", lambda: threads_at_fork.append(threading.active_count())
    )
    before = threading.active_count()
    with search_home.serving(home / "index"):
        assert threads_at_fork == [before]


def test_clients_that_leave_leave_no_traceback(home, server, capfd):
    """Before, within and after the request, and while the answer is sent."""
    large = home / "clips" / "long.mp4"
    content = large.read_bytes()
    number = row_of(home, "long.mp4")
    with open(large, "ab") as file:  # more than the system keeps for a reader
        file.truncate(200 << 20)
    try:
        whole = request_line(server, f"/video/{number}")
        for sent in (
            b"",
            b"GET /vid",
            whole[:-2],
            whole,
            request_line(server, "/nothing/here"),
            request_line(server, "/api/search?q=a"),
            request_line(server, "/", "Content-Length: 99"),
        ):
            client = connect(server)
            client.sendall(sent)
            leave_rudely(client)
        client = connect(server)
        client.sendall(whole)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        leave_rudely(client)
        assert get(server.server_port, "/")[0] == 200
    finally:
        large.write_bytes(content)
    threads = [
        thread for thread in threading.enumerate() if "process_request" in thread.name
    ]
    for thread in threads:
        thread.join(TIMEOUT)
    assert capfd.readouterr() == ("", "")


def row_of(home, name):
    rows = SearchIndex(home / "index").rows
    return next(number for number, row in enumerate(rows) if row["id"] == name)


def test_an_error_of_the_server_itself_is_still_printed(server, capfd):
    server_error = ZeroDivisionError("a mistake in the server")
    try:
        raise server_error
    except ZeroDivisionError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert "a mistake in the server" in capfd.readouterr().err


def test_the_body_of_a_get_is_not_taken_for_the_next_request(server):
    body = request_line(server, "/etc/passwd")
    length = f"Content-Length: {len(body)}"
    client = connect(server)
    try:
        client.sendall(request_line(server, "/api/like?row=0&k=1", length) + body)
        client.sendall(request_line(server, "/api/like?row=1&k=1", "Connection: close"))
        with client.makefile("rb") as file:
            answers = file.read().split(b"HTTP/1.1 ")[1:]
    finally:
        client.close()
    assert [answer[:3] for answer in answers] == [b"200", b"200"]
    rows = [json.loads(answer.split(b"\r\n\r\n")[1])["hits"] for answer in answers]
    assert [hits[0]["row"] for hits in rows] == [0, 1]


@pytest.mark.parametrize(
    "headers",
    [
        ["Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["Content-Length: 1_0"],
        ["Content-Length: 99999999999"],
    ],
)
def test_a_body_of_unknown_length_ends_the_connection(server, headers):
    client = connect(server)
    try:
        client.sendall(request_line(server, "/", *headers))
        with client.makefile("rb") as file:
            answer = file.read()  # until the server closes
    finally:
        client.close()
    assert answer.startswith(b"HTTP/1.1 413") and b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["/", "/api/search?q=a", "/picture/0", "/video/0"])
def test_what_another_page_asks_for_is_refused(server, path):
    port = server.server_port
    for site in ("cross-site", "same-site", "anything"):
        status, body = get(port, path, Sec_Fetch_Site=site)
        assert status == 403 and "another page" in json.loads(body)["error"]
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        assert get(port, path, Origin=origin)[0] == 403
    assert get(port, "/", Sec_Fetch_Site="none")[0] == 200
    assert get(port, "/", Sec_Fetch_Site="same-origin")[0] == 200
    assert get(port, "/", Origin=f"http://localhost:{port}")[0] == 200


def test_a_mistake_in_a_query_is_answered_in_a_line(server, monkeypatch):
    def fail(text):
        raise UserError("the features are\nnot finite")

    monkeypatch.setattr(server.query_encoder, "encode_text", fail)
    status, body = get(server.server_port, "/api/search?q=a")
    assert (status, json.loads(body)) == (
        500,
        {"error": "the features are not finite"},
    )


def test_a_file_that_is_a_folder_now_is_not_found(home, server):
    number = row_of(home, "below/a red.mp4")
    path = home / "clips" / "below" / "a red.mp4"
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    open_files = len(os.listdir("/proc/self/fd"))
    try:
        for _ in range(5):
            assert get(server.server_port, f"/video/{number}")[0] == 404
        assert len(os.listdir("/proc/self/fd")) <= open_files + 4
    finally:
        path.rmdir()
        path.write_bytes(content)


def test_no_name_of_a_file_steers_the_terminal(home, tmp_path, capsys):
    """Colours, the bell, the title, text that runs backwards, a line that would look like another hit."""
    name = (
        "red\x1b[31m\x07\x1b]0;title\x07\u202egpj\x9b2J\n  1   1.0000  fake\udcff.png"
    )
    write_media(tmp_path / "clips" / name, 1)
    (tmp_path / "clips" / "broken\x1b[2J.mp4").write_bytes(b"<html>")
    given = ["-r", str(home / "ckpt.pth"), str(tmp_path / "clips")]
    extract.cli([*given, str(tmp_path / "f"), "-d", "cpu", "--workers", "0"])
    index.cli(["build", str(tmp_path / "f"), str(tmp_path / "ix")])
    search.cli([str(tmp_path / "ix"), "a red dog"])
    with pytest.raises(SystemExit, match="2"):
        broken = str(tmp_path / "clips" / "broken\x1b[2J.mp4")
        search.cli([str(tmp_path / "ix"), "--video", broken])
    printed = "".join(capsys.readouterr())
    assert "red\\x1b[31m\\x07" in printed and "broken\\x1b[2J" in printed
    assert "\\u202egpj\\x9b2J\\n  1   1.0000  fake\\udcff.png" in printed
    assert all(
        line == printable(line) for line in printed.replace("\r", "").split("\n")
    )


def test_readable_text_stays_as_it_is():
    for text in ("a red dog", "\u00e4\u4e2d\U0001f600 'x' \\ \"y\"", ""):
        assert printable(text) == text
    assert printable("a\tb\nc", keep="\n\t") == "a\tb\nc"
