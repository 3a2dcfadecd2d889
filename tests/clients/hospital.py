"""A hospital's site on disk: data, keys, a policy, a gate's folder. Nothing runs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clients.gate import manifest
from clients.gate.node_key import make_node_key
from clients.site_file import SiteFile, load_site
from tests.clients.gate.center import Keys
from tests.clients.gate.world import MANIFEST

PATIENTS = ("anna", "anna", "ben", "clara")

SITE = """
[site]
name = "west"
role = "target"
data = {{ folder = "us" }}
data_root = {root}
folder = "work"
cache = "cache"
[gate]
folder = "gate"
policy = "policy.toml"
node_key = "gate/node.key"
[upstream]
address = {address}
ca = {ca}
certificate = {certificate}
key = {key}
[network]
allow_open_network = true
user = "root"
"""
POLICY = """
site = "west"
[studies.wrist]
manifest = "wrist.manifest.json"
sha256 = {sha256}
[stages]
mim = {{}}
[metrics]
"*" = {{}}
[study]
"*" = {{}}
[bundles]
approved = ["{bundle}"]
"""


@dataclass
class Hospital:
    """Where it lies."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "site.toml"

    @property
    def site(self) -> SiteFile:
        return load_site(self.file)

    def change(self, before: str, after: str) -> None:
        """Edit site.toml."""
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after))

    def put(self, name: str, content: bytes | str) -> Path:
        """A file below the site's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def hospital(folder: Path, keys: Keys, address: str = "127.0.0.1:1") -> Hospital:
    """Four images of three patients, with all that a sound site has."""
    made = Hospital(folder)
    lines = ["id,image,patient"]
    for number, patient in enumerate(PATIENTS):
        pixels = np.full((8, 8), 10 * number, np.uint8)
        image = made.put(f"data/us/{number}.png", b"")
        Image.fromarray(pixels).save(image)
        lines.append(f"i{number},{number}.png,{patient}")
    made.put("data/us/index.csv", "\n".join(lines) + "\n")
    key = made.put("keys/site.key", keys.key.read_bytes())
    key.chmod(0o600)
    told = {
        "root": json.dumps(str(folder / "data")),
        "address": json.dumps(address),
        "ca": json.dumps(str(keys.ca)),
        "certificate": json.dumps(str(keys.certificate)),
        "key": '"keys/site.key"',
    }
    made.put("site.toml", SITE.format(**told))
    (folder / "gate").mkdir(mode=0o700)
    make_node_key(folder / "gate" / "node.key")
    made.put("wrist.manifest.json", manifest.dump(MANIFEST))
    sha256 = json.dumps(manifest.digest(MANIFEST))
    made.put("policy.toml", POLICY.format(sha256=sha256, bundle="ab" * 32))
    return made
