"""site.toml: paths from its own folder, every mistake at once, the template is sound."""

from pathlib import Path

import pytest

import common
from clients.site_file import load_site, split_address
from common.errors import InputError

TEMPLATE = Path(common.__file__).parents[1] / "configs" / "site.toml"


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = TEMPLATE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_the_template_is_sound_and_its_paths_start_from_its_folder(tmp_path: Path) -> None:
    site = load_site(written(tmp_path))
    assert site.site.data_root == Path("/data")
    assert site.site.data_folder == Path("/data/us")
    assert site.site.folder == tmp_path / "work"
    assert site.gate.folder == tmp_path / "gate"
    assert site.gate.node_key == tmp_path / "gate" / "node.key"
    assert site.upstream.ca == tmp_path / "keys" / "ca.pem"
    assert site.gate.listen == "127.0.0.1:9701"
    assert not site.network.allow_open_network


def test_a_relative_name_of_the_file_gives_whole_paths_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_site(Path("site.toml")).gate.folder == tmp_path / "gate"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ('policy = "policy.toml"', 'polcy = "policy.toml"'),
        ('"127.0.0.1:9701"', '"0.0.0.0:9701"'),
        ('"center.example:9443"', '"https://center.example/"'),
        ('role = "target"', 'role = "hospital"'),
        ('proxy = ""', 'proxy = "http://proxy:3128"'),
        ('certificate = "keys/site.pem"', ""),
        ("[network]", "[networks]"),
    )
    with pytest.raises(InputError) as caught:
        load_site(path)
    told = "\n".join(caught.value.problems)
    for words in (
        "gate.polcy: unknown key; did you mean 'policy'?",
        "gate.listen: should be an address of this machine alone, such as 127.0.0.1:9701",
        "upstream.address: should be one host:port, without https:// and path",
        "upstream.proxy: should be one host:port",
        "upstream.certificate: is missing",
        "site.role: input should be 'source' or 'target'",
        "networks: unknown key; did you mean 'network'?",
    ):
        assert words in told, told
    assert len(caught.value.problems) == 7


def test_what_is_no_file_is_told_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; configs/site.toml is the template"):
        load_site(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[site")
    with pytest.raises(InputError, match="not readable as TOML"):
        load_site(broken)


@pytest.mark.parametrize(
    ("address", "found"),
    [("a.example:1", ("a.example", 1)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses(address: str, found: tuple[str, int]) -> None:
    assert split_address(address) == found


@pytest.mark.parametrize(
    "address", ["", "a", "a:", ":1", "a:0", "a:65536", "a:1/x", "user@a:1", "http://a:1", "a:-1"]
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)
