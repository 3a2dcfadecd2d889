"""The three files of joining: which one a file is, in words that say what to do."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.joining import Admission, Invitation, Request, read_file


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (
            Request,
            '{"format": "sonofed-invitation-1"}',
            "is no request but an invitation; SITE.req",
        ),
        (Request, '{"format": "sonofed-admission-1"}', "is no request but an admission"),
        (Admission, '{"format": "sonofed-request-1"}', "is no admission but a request"),
        (Invitation, "site = 1", "is no invitation; SITE.invitation, from the coordinator"),
        (Invitation, '{"format": "other"}', "is no invitation; SITE.invitation"),
        (Invitation, "[]", "is no invitation;"),
        (Request, '{"format": "sonofed-request-1", "site": "a"}', "do not fit: certificate, node"),
    ],
)
def test_the_wrong_file_is_called_by_its_name(
    tmp_path: Path, kind: type[Request], text: str, words: str
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_file(path, kind)
    assert words in str(error.value)
    for word in ("Field", "Input", "JSON", "validation"):
        assert word not in str(error.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_file(tmp_path / "none", Request)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_file(tmp_path, Request)
