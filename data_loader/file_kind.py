"""What a file is that was expected to be a video or a folder, by its first bytes; what a path is that is none.

Descriptions are the end of a sentence that begins with the path: "is empty".
"""

import codecs
import os
import re
import stat

HEADER = 1024  # bytes that are read
TAR_MAGIC = slice(257, 262)
GIT_LFS = b"version https://git-lfs.github.com/spec/"
# what a web page may begin with, in lower case, after a byte order mark and white space
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<!--")
# first bytes -> (kind, remedy); kinds that have no video in them
MAGIC = (
    (b"PK\x03\x04", "a zip archive", "unpack it (unzip)"),
    (b"PK\x05\x06", "an empty zip archive", "fetch it again"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it (unrar x)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it (7z x)"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it (gunzip)"),
    (b"BZh", "compressed with bzip2", "unpack it (bunzip2)"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it (unzstd)"),
    (b"\0\x05\x16\x07", "a resource file of macOS", "delete it"),
    (b"%PDF-", "a PDF document", "fetch the file again"),
)
# one slash is left of two where the URL has been a Path
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def describe_file(path: str | os.PathLike) -> str:
    """What a file is that holds no video, with the remedy: "is a zip archive; unpack it (unzip)".

    An empty text for anything that is not recognised, which may be a video, and for a file that cannot be read. Only
    regular files are opened: a pipe or a device is named, never waited for.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return _describe_special(mode)
        # what became of it since then must not block either
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            header = os.read(descriptor, HEADER)
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    return describe_bytes(header)


def _describe_special(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a folder"
    if stat.S_ISFIFO(mode):
        return "is a pipe, not a file"
    return "is a device or a socket, not a file"


def describe_bytes(header: bytes) -> str:
    """`describe_file` for a file that begins with `header`, up to `HEADER` bytes of it."""
    if not header:
        return "is empty"

    for magic, format_name, remedy in MAGIC:
        if header.startswith(magic):
            return f"is {format_name}; {remedy}"
    if header[TAR_MAGIC] == b"ustar":
        return "is a tar archive; unpack it (tar xf), or read it with the data set TarShards"

    text = header.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(GIT_LFS):
        return "is a Git LFS pointer, not the file itself; fetch it (git lfs pull)"
    if text.startswith(WEB_PAGE):
        return "is a web page, not a video"
    if not header.strip(b"\0"):
        return "begins with zeros alone, as an unfinished download does; fetch the file again"
    return _describe_text(header)


def _describe_text(header: bytes) -> str:
    """Of a file that begins with nothing but text, its first line."""
    try:
        # a character may go on behind the header
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(header).strip()
    except UnicodeDecodeError:
        return ""
    lines = text.splitlines()
    if not lines or not all(line.replace("\t", " ").isprintable() for line in lines):
        return ""
    return f"is no video but text: {lines[0][:60]!r}"


def describe_path(path: str) -> str:
    """Why a path names no file on this machine, with the remedy; an empty text for an ordinary path."""
    if URL.match(path):
        return "is a URL, and only local files are read; download it and give its path"
    if path.startswith("~"):
        return '"~" is not expanded; write ${HOME} in a config, or the whole path'
    if WINDOWS_DRIVE.match(path):
        return "is a path of Windows; give the path on this machine"
    if "\\" in path:
        return 'has "\\" between its folders; write "/"'
    return ""


def describe_absent_folder(path: str | os.PathLike) -> str:
    """What is at `path`, where a folder is needed and none is: "no such folder", or what else it is."""
    text = os.fspath(path)
    if not os.path.lexists(text):
        return describe_path(text) or "no such folder"
    if not os.path.exists(text):
        return "is a broken link; make it point at the folder"
    return f"{describe_file(text) or 'is a file'}; a folder is needed"
