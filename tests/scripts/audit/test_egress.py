"""`sonofed site check --egress` on a site whose study has other weights than float32."""

from pathlib import Path

import pytest

from clients.gate.manifest import Manifest, digest, dump
from clients.site_file import SiteFile, load_site
from common.ledger_check import read, verify
from scripts.audit.door import make_door, small_bundle, write_site_file
from scripts.audit.egress import check_egress
from tests.scripts.audit.test_tricks import ROOT, manifest_of, tensors_of


def site_of(folder: Path, manifest: Manifest) -> SiteFile:
    """A site with the template's policy for one study."""
    text = (ROOT / "configs" / "policy.toml").read_text(encoding="utf-8")
    entry = f'[studies.wrist]\nmanifest = "wrist.json"\nsha256 = "{digest(manifest)}"\n'
    text = text.replace('site = "hospital-1"', 'site = "west"')
    text = text.replace("\n[studies]\n", f"\n[studies]\n{entry}", 1)
    folder.mkdir()
    (folder / "wrist.json").write_text(dump(manifest), encoding="utf-8")
    policy = folder / "policy.toml"
    text = text.replace("[integers]", "[integers]\nbatches = {}", 1)
    policy.write_text(text, encoding="utf-8")
    door = make_door(folder / "site", "west", small_bundle())
    write_site_file(door, "west", "target", policy, "127.0.0.1:1")
    return load_site(door.site_file)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_gate_is_tried_with_weights_as_they_travel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """bfloat16's bits; the other dtypes are in test_tricks.py, without a process."""
    site = site_of(tmp_path / "west", manifest_of(tensors_of("uint16")))
    check_egress(site)
    out = capsys.readouterr().out
    assert "FAILED" not in out
    path = site.gate.folder / "ledger.jsonl"
    assert verify(path).problem is None
    event = [line.event for line in read(path)][-1]
    assert (event["kind"], event["holds"]) == ("checked", "yes")
    # With those that each rule of the policy's [study] was broken by.
    assert event["caught"] == event["tricks"] > 50
