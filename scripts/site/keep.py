"""`sonofed site purge` and `backup`: what a site removes for good, and what it must not lose."""

import os
import tarfile
from pathlib import Path
from typing import Annotated

import typer

from clients.center import CENTER
from clients.purge import Purged, purge_all, purge_patient, purge_study
from clients.site_file import SiteFile, load_site
from clients.words import OUTLINE_FOLDER
from common.errors import InputError
from scripts.live import say

Site = Annotated[Path, typer.Option("--site", metavar="SITE.toml", help="The site's own file.")]
DEFAULT = Path("site/site.toml")


def purge(
    site: Site = DEFAULT,
    study: Annotated[str, typer.Option(metavar="NAME", help="All that this study left.")] = "",
    patient: Annotated[
        str, typer.Option(metavar="ID", help="All that may hold this patient's pixels or numbers.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Cache, every study's folder, the spool.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what studies have left here: cache, reconstructions, worklists, spooled messages.

    Your images, manifest, keys, policy and ledger stay; the ledger gets a line with the number of
    files and a digest. Stop the site first (`site down`). What has left cannot be called back: a
    patient's influence on weights that have been sent stays in them.
    """
    if sum((bool(study), bool(patient), everything)) != 1:
        raise InputError("name one of --study NAME, --patient ID, --all")
    found = load_site(site)
    if not yes and not typer.confirm("remove it for good?"):
        raise typer.Exit(1)
    if study:
        _tell(found, purge_study(found, study))
    elif patient:
        _tell(found, purge_patient(found, patient))
        say(
            f"now remove the patient's rows from {found.site.data_folder / 'index.csv'}, "
            "or the next stage reads them again"
        )
    else:
        _tell(found, purge_all(found))


def _tell(site: SiteFile, gone: Purged) -> None:
    told = f"{gone.files} files, {gone.bytes / 1e6:.1f} MB gone; digest {gone.digest}"
    say(f"{site.site.name}: {told}")


def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE.tar.gz", help="Must not be there yet.")],
    site: Site = DEFAULT,
) -> None:
    """Pack what this site must not lose: its file, policy, keys, ledger, approvals, experts' words.

    Images, cache and what training makes again are left out. The file holds PRIVATE KEYS: it is
    made readable for this account alone; keep it as you keep keys. To restore, unpack it where the
    site's folder was. A ledger that is older than the server's receipts is told apart by
    `sonofed audit verify`.
    """
    found = load_site(site)
    root = site.absolute().parent
    if to.exists():
        raise InputError(f"{to}: is there already")
    # Beside its place, then in: half a backup must not look like one.
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        count = _pack(beside, root, _kept(found, site.absolute()))
        beside.rename(to)
    except OSError as error:
        raise InputError(f"{to}: {error.strerror}; no backup was made") from None
    finally:
        beside.unlink(missing_ok=True)
    say(f"{to}: {count} files, {to.stat().st_size / 1e6:.1f} MB; it holds private keys")


def _pack(to: Path, root: Path, paths: list[Path]) -> int:
    """Pack files, named from the site's folder where they lie in it; gives how many."""
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w:gz") as packed:
            for path in paths:
                packed.add(path, path.relative_to(root) if path.is_relative_to(root) else path.name)
        raw.flush()
        os.fsync(descriptor)
    return len(paths)


def _kept(site: SiteFile, file: Path) -> list[Path]:
    single = [
        file, site.gate.policy, site.gate.node_key, site.upstream.ca, site.upstream.certificate,
        site.upstream.key, site.upstream.key.with_name(CENTER),
    ]  # fmt: skip
    gate = [
        path
        for path in site.gate.folder.rglob("*")
        if path.is_file() and "spool" not in path.relative_to(site.gate.folder).parts[:1]
    ]
    manifests = site.gate.policy.parent.glob("*.json")
    words = [
        path
        for pattern in ("*.csv", "*.json", "selection/**/*", f"{OUTLINE_FOLDER}/*")
        for path in site.site.folder.glob(f"*/{pattern}")
        if path.is_file()
    ]
    return sorted({path for path in (*single, *gate, *manifests, *words) if path.exists()})
