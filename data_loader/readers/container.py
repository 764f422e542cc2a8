"""Opens a file with ffmpeg: only formats that hold their pictures themselves, and only through our file object."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import av
from av.container import InputContainer

from data_loader.annotations.file_lookup import VIDEO_EXTENSIONS
from data_loader.file_kind import describe_file
from data_loader.readers import BrokenVideo
from data_loader.readers.regular_file import open_regular

# ffmpeg's names of the formats that are read. Not among them: what only names other files or addresses (concat, hls,
# dash, sdp, patterns of image2), devices, text that ffmpeg would draw, subtitles.
VIDEO_FORMATS = (
    "3gp 4xm apng asf av1 avi avs avs2 avs3 bink cavsvideo cdxl dhav dirac dnxhd dv dxa ea evc film_cpk flic flv gif "
    "gxf h261 h263 h264 hevc idcin ipmovie iv8 ivf jpegxl_anim kux live_flv lvf m4v matroska mjpeg mjpeg_2000 mm "
    "mov mp4 mpeg mpegts mpegvideo mpjpeg mtv mv mvi mxf nsv nut nuv obu ogg pva r3d rl2 rm roq rpl smjpeg smk "
    "swf thp tmv ty vc1 vc1test vivo vmd vvc wc3movie webm wtv wv xmv yop yuv4mpegpipe"
)
PICTURE_FORMATS = (
    "bmp_pipe dds_pipe dpx_pipe exr_pipe gif_pipe hdr_pipe j2k_pipe jpeg_pipe jpegls_pipe jpegxl_pipe jpegxs_pipe "
    "pam_pipe pbm_pipe pcx_pipe pfm_pipe pgm_pipe pgmyuv_pipe phm_pipe png_pipe ppm_pipe psd_pipe qoi_pipe sgi_pipe "
    "sunrast_pipe tiff_pipe webp_pipe xbm_pipe xpm_pipe xwd_pipe"
)
# without pictures: so that the message can say so
SOUND_FORMATS = "aac ac3 aiff amr au caf dts eac3 flac mp3 w64 wav"
CONTAINER_OPTIONS = {
    "format_whitelist": ",".join(
        f"{VIDEO_FORMATS} {PICTURE_FORMATS} {SOUND_FORMATS}".split()
    ),
    "protocol_whitelist": "none",  # nothing is opened besides the file itself
}
HEIF_BRANDS = ("heic", "heix", "heim", "heis", "mif1")
# beginnings of files that name other files
PLAYLISTS = (
    b"ffconcat",
    b"#extm3u",
    b"#ext-x-",
    b"v=0",
    b"[playlist]",
    b"[reference]",
    b"<mpd",
    b"<asx",
    b"<smil",
    b"rtsptext",
)


class _InputFile:
    """A regular file as PyAV wants it. Raises what `open_regular` raises."""

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        # ffmpeg looks at the extension where the content is not clear, and must not take the rest for a pattern
        extension = os.path.splitext(path)[1].lower()
        self.name = f"media{extension if extension in VIDEO_EXTENSIONS else ''}"
        self.read = self._file.read
        self.tell = self._file.tell
        self.close = self._file.close

    def seek(self, offset: int, whence: int) -> int:
        """The new position; -1 where there is none: ffmpeg tries it."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


@contextmanager
def open_container(path: str, options: Mapping[str, str]) -> Iterator[InputContainer]:
    """The open file. `options`: of ffmpeg's demuxer and decoders.

    Raises BrokenVideo for what is no regular file or no video, OSError for what cannot be opened.
    """
    with closing(_InputFile(path)) as file, _open(path, file, options) as container:
        if container.metadata.get("major_brand") in HEIF_BRANDS:
            raise BrokenVideo(
                path,
                "is a HEIF picture, whose tiles are not put together; convert it to JPEG",
            )
        yield container


def _open(path: str, file: _InputFile, options: Mapping[str, str]) -> InputContainer:
    """`av.open`, whose errors become BrokenVideo with the reason."""
    try:
        return av.open(
            file,
            "r",
            options=dict(options),
            container_options=CONTAINER_OPTIONS,
            metadata_errors="ignore",
        )
    except av.FFmpegError as error:
        if _is_playlist(path):
            reason = "is a playlist, which only names other files; a video must hold its pictures itself"
        else:
            reason = describe_file(path) or f"is no video ({error.strerror})"
        raise BrokenVideo(path, reason) from None
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 whatever the demuxer raises
        raise BrokenVideo(path, f"is no video ({error})") from None


def _is_playlist(path: str) -> bool:
    """Whether a file that ffmpeg refused begins like a playlist or manifest."""
    with open_regular(path) as file:
        header = (file.read(1024) or b"").lstrip().lower()
    return header.startswith(PLAYLISTS) or b"<mpd" in header
