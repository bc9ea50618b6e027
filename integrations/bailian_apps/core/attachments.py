"""Images and files of a request: what the cloud fetches, and what travels inside the request.

The cloud takes an image by its address, which it fetches, or as a Data URL, which holds the image.
An image of this machine (a path, bytes, or base64 in a message) becomes an `InlineImage`. It is
read, checked and encoded when the request is built, so those of earlier turns are not, as long as
the cloud's session holds them. But a conversation is compared with its session by digests, so each
call hashes its images, those of earlier turns too: about 30 ms for the largest. An async call does
that on the event loop.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeGuard, TypeVar, cast

from bailian_apps.core.errors import InvalidInputError
from bailian_apps.core.language import N_

_T = TypeVar("_T")

URL_SCHEMES = ("http://", "https://", "oss://")
"""How the address of an image or a file begins, which the cloud fetches."""

MAX_DATA_URL_BYTES = 10 * 1024 * 1024
"""The longest Data URL that the cloud takes, about 7.5 MiB of image. Its error for a longer one is
"Exceeded limit on max bytes per data-uri item : 10485760"
(https://github.com/QwenLM/qwen-code/issues/1880)."""

IMAGE_TYPES = N_("PNG, JPEG, GIF, WebP, BMP, TIFF or HEIC")
"""The types of images, as an error names them: those of the vendor's page on vision models, and
GIF, which its page on file uploads adds."""

MEDIA_OPTIONS = ("image_list", "file_list")
"""The options of a call that hold its images and files."""

_MAX_IMAGE_BYTES = (MAX_DATA_URL_BYTES - 32) // 4 * 3  # less what stands before the base64
_HEAD_BYTES = 48  # enough to know the type
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class InlineImage:
    """An image that travels inside the request. Its repr and its str show its type and size only.

    Two of them are equal if they have the same content; for files, the same path.
    """

    __slots__ = ("_content", "_digest", "_where")

    def __init__(self, content: str | bytes | Path, where: str) -> None:
        """Keep an image. Nothing is read or checked yet.

        Args:
            content: A Data URL; the image's bytes, or their base64 as bytes, as LlamaIndex keeps
                them; or a file.
            where: The image's place in an error, such as `messages[2].content[1]`.
        """
        self._content = content
        self._digest = ""
        self._where = where

    @property
    def path(self) -> Path | None:
        """The file that is read for each request; None for an image in memory."""
        return self._content if isinstance(self._content, Path) else None

    def data_url(self) -> str:
        """Return the image as a Data URL, its type judged by the content.

        Raises:
            InvalidInputError: It cannot be read, is not an image, or is too large.
        """
        content = self._content
        if isinstance(content, Path):
            content = self._read(content)
        elif not content:
            self._refuse("is empty", "Pass the bytes of an image")
        if isinstance(content, bytes) and (kind := media_type(content)):
            self._check_size(len(content))
            return f"data:{kind};base64,{base64.b64encode(content).decode()}"
        head, payload = self._split(content)
        payload = _join_lines(payload)
        decoded = _decode(payload)
        if decoded is None and isinstance(content, bytes):
            self._type_of(b"")
        self._check_size(len(payload) * 3 // 4)
        if decoded is None:
            self._refuse(
                "is not valid base64",
                "Pass base64.b64encode(data).decode(), where data are the bytes of the image",
            )
        kind = self._type_of(decoded)
        right_head = f"data:{kind};base64,"
        if isinstance(content, str) and len(content) == len(head + payload) and head == right_head:
            return content
        return right_head + payload

    def digest(self) -> str:
        """Return a digest of the content, of a file: of its path. Equal images have the same."""
        self._digest = self._digest or self._compute_digest()
        return self._digest

    def _compute_digest(self) -> str:
        content = self._content
        if isinstance(content, Path):
            content = f"file {content}"
        elif isinstance(content, str):
            content = _join_lines(content.partition(",")[2])
        elif media_type(content):
            content = base64.b64encode(content)  # as in a Data URL, which other frameworks store
        else:
            content = b"".join(content.split())
        if isinstance(content, str):
            content = content.encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()

    def __repr__(self) -> str:
        """Show the type and the size, or the path of a file."""
        content = self._content
        if isinstance(content, Path):
            return str(content)
        if isinstance(content, bytes) and media_type(content):
            return f"data:{media_type(content)};base64,… ({len(content)} bytes)"
        payload = content.partition(",")[2] if isinstance(content, str) else content.decode("latin")
        payload = _join_lines(payload)
        try:
            kind = media_type(base64.b64decode(payload[: _HEAD_BYTES * 4 // 3]))
        except ValueError:
            kind = ""
        size = len(payload) * 3 // 4 - payload[-2:].count("=")
        return f"data:{kind};base64,… ({size} bytes)"

    def __eq__(self, other: object) -> bool:
        """Whether both have the same content."""
        return isinstance(other, InlineImage) and self._content == other._content

    def __hash__(self) -> int:
        """Hash the content."""
        return hash(self._content)

    def _read(self, path: Path) -> bytes:
        """Return the content of a file, which is an image."""
        try:
            if not path.is_file():  # a device may have no end
                kind = N_("a file that does not exist")
                if os.path.lexists(path):  # a pipe, a device, or a link to itself
                    kind = N_("what is not a regular file")
                    if path.is_dir():
                        kind = N_("a directory")
                hint = N_("Check the path; a relative one starts in the working directory")
                self._refuse(N_("is the path of {kind}").format(kind=kind), hint)
            self._check_size(path.stat().st_size)
            content = path.read_bytes()
        except OSError as error:
            hint = N_("Check the permissions of the file")
            self._refuse(
                N_("is the path of a file that cannot be read ({reason})").format(
                    reason=error.strerror
                ),
                hint,
            )
        if not content:
            self._refuse("is the path of an empty file", "Pass the path of an image")
        self._type_of(content)
        return content

    def _split(self, content: str | bytes) -> tuple[str, str]:
        """Return the head of a Data URL, with its comma, and the base64 after it."""
        if isinstance(content, bytes):
            return "", content.decode("latin")
        head, comma, payload = content.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            self._refuse(
                "is a Data URL without base64",
                "Pass data:image/png;base64,… or the bytes of the image",
            )
        if not payload:
            self._refuse("is an empty Data URL", "Add the base64 of the image")
        return head + comma, payload

    def _check_size(self, size: int) -> None:
        if size > _MAX_IMAGE_BYTES:
            self._refuse(
                N_("has {size:,} bytes, and the cloud takes {most:,} at most").format(
                    size=size, most=_MAX_IMAGE_BYTES
                ),
                "Scale the image down, or upload it and pass its address",
            )

    def _type_of(self, content: bytes) -> str:
        kind = media_type(content)
        if not kind:
            self._refuse(
                "is not an image of a known type",
                N_("Pass {types}").format(types=IMAGE_TYPES),
            )
        return kind

    def _refuse(self, problem: str, hint: str) -> NoReturn:
        raise InvalidInputError(self._where, problem, hint) from None


def _join_lines(encoded: str) -> str:
    return "".join(encoded.split())  # some encoders break lines


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


Image: TypeAlias = str | InlineImage
"""The address of an image, or the image itself."""


def media_type(content: bytes) -> str:
    """Return the MIME type of an image by its first bytes; `""` for anything else."""
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        return "image/heic"
    if content[:2] == b"BM" and int.from_bytes(content[14:18], "little") in _BMP_HEADER_BYTES:
        return "image/bmp"
    return ""


def read_image(value: object, where: str) -> Image:
    """Return an image in the form that a request keeps.

    Text is never taken for a path, so whoever supplies only text cannot have a file read.

    Args:
        value: An address, a Data URL, a path (`pathlib.Path`), or bytes.
        where: Its place in an error.

    Raises:
        InvalidInputError: It is something else.
    """
    if isinstance(value, InlineImage) or is_fetchable(value):
        return value
    if isinstance(value, str) and value[:5].lower() == "data:":
        return InlineImage(value, where)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return InlineImage(bytes(cast("bytes", value)), where)
    if isinstance(value, os.PathLike):
        return InlineImage(Path(os.fsdecode(cast("os.PathLike[str]", value))), where)
    problem = N_("is text that is neither an http(s) URL nor a Data URL")
    if value is None or (isinstance(value, str) and not value):
        problem = N_("has neither an address nor content")
    elif not isinstance(value, str):
        problem = N_("is of type {type}, which is not an image").format(type=type(value).__name__)
    raise InvalidInputError(
        where,
        problem,
        "Pass an http:// or https:// address, a Data URL, bytes, or a pathlib.Path for a file on "
        "this machine",
    )


def read_file(value: object, where: str) -> str:
    """Return the address of a file.

    Args:
        value: The address.
        where: Its place in an error.

    Raises:
        InvalidInputError: The cloud cannot fetch it.
    """
    if is_fetchable(value):
        return value
    raise InvalidInputError(
        where,
        "is not an http(s) URL",
        "Pass an http:// or https:// address that the cloud can fetch, or upload the file and pass "
        "its id in rag_options, as session_file_ids",
    )


def read_images(values: Iterable[object], field: str) -> tuple[Image, ...]:
    """Return images as `read_image`; an error names `field` and the index of each that is wrong."""
    return _read_all(read_image, unwrap_images(values), field, N_("images"))


def read_files(values: Iterable[object], field: str) -> tuple[str, ...]:
    """Return the addresses of files as `read_file`; an error is as that of `read_images`."""
    return _read_all(read_file, values, field, N_("addresses"))


def _read_all(
    read: Callable[[object, str], _T], values: Any, field: str, what: str
) -> tuple[_T, ...]:
    kind = type(values).__name__
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        problem = N_("must be a list of {what}, and is of type {kind}").format(what=what, kind=kind)
        raise InvalidInputError(field, problem, "Put a single one into a list too")
    items: list[_T] = []
    problems: list[InvalidInputError] = []
    for index, value in enumerate(cast("Iterable[object]", values)):
        try:
            items.append(read(value, f"{field}[{index}]"))
        except InvalidInputError as error:
            problems.append(error)
    if problems:
        raise InvalidInputError.of(problems)
    return tuple(items)


def is_fetchable(url: object) -> TypeGuard[str]:
    """Whether it is a URL that the cloud can fetch."""
    return isinstance(url, str) and url[:8].lower().startswith(URL_SCHEMES)


class _ShortImages(list[str]):
    """Images for a trace: those that are not addresses by type and size. It keeps the originals."""

    __slots__ = ("original",)

    def __init__(self, original: Sequence[object]) -> None:
        super().__init__(map(_shorten, original))
        self.original = original

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        return list, (list(self),)


def with_short_images(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that a trace may show and a call still takes.

    A list of images in `image_list` shows their type and size; `unwrap_images` returns the images.
    """
    images: object = arguments.get("image_list")
    if not isinstance(images, (list, tuple)) or isinstance(images, _ShortImages):
        return dict(arguments)
    return {**arguments, "image_list": _ShortImages(cast("Sequence[object]", images))}


def unwrap_images(values: Any) -> Any:
    """Return the images that `with_short_images` has replaced; any other value unchanged."""
    return values.original if isinstance(values, _ShortImages) else values


def images_digest(values: object) -> str:
    """Return a digest of what `with_short_images` leaves out of a list; `""` if that is nothing."""
    if not isinstance(values, (list, tuple)):
        return ""
    images = [_as_image(value) for value in unwrap_images(values)]
    digests = [image.digest() for image in images if isinstance(image, InlineImage)]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def _shorten(value: object) -> str:
    image = _as_image(value)
    return f"({type(value).__name__})" if image is None else str(image)


def _as_image(value: object) -> Image | None:
    try:
        return read_image(value, "")
    except InvalidInputError:
        return None  # the call refuses it
