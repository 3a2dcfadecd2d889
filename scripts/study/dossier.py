"""What a run leaves for the ethics file: what was asked, what came out, who was there, the proof.

Nothing of a hospital's own is in it: a study's lines on its data (folders, columns, patterns of
rows) stay out, and so does every name that came with a reply that was refused.
"""

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from common import ledger_check
from common.config.study import Study
from common.errors import InputError
from common.formats import (
    Event,
    RefusedEvent,
    Results,
    RoundEvent,
    read_events,
    read_results,
)
from common.ledger import head_path
from common.plan import make_plan
from common.signing import public_path, read_public_key
from scripts.run_folders import read_study
from server.attendance import FILE as CHANGES
from server.attendance import read_changes
from server.checkpoint import RunFolder
from server.code import noted_code
from server.consortium.register import Register
from server.receipts import KEY_FILE, RECEIPTS_FILE
from server.report import render

INDEX, README = "manifest.json", "README.md"
FORMAT = 1
BEGINNING = (1980, 1, 1, 0, 0, 0)
"""Of a zip's time: nothing in it says when it was made."""
Files = dict[str, bytes | Path]
"""By the name that a file has in the export: its bytes, or where they lie."""


def gather(
    run: Path, register: Register, *, unfinished: bool = False, weights: bool = False
) -> Files:
    """Everything that belongs in the ethics file, index and README last.

    Args:
        run: A run folder of the consortium.
        register: Of the consortium.
        unfinished: Take a run that has not finished.
        weights: The ensemble's and the classifiers' weights too.

    Raises:
        InputError: If the run has not finished, or its receipts are not as they were written.
    """
    study = Study.model_validate(read_study(run))
    if study.rehearsal:
        raise InputError(f"{run}: is {study.untrained}; it is no study that anybody could file")
    finished = (run / "results.json").exists()
    if not finished and not unfinished:
        raise InputError(
            f"{run}: has not finished; `sonofed study resume` goes on with it, --unfinished "
            "exports it as it is"
        )
    crossing = study.for_sites()
    results = read_results(run / "results.json") if finished else None
    events = _events(run)
    files: Files = {"study.json": crossing.canonical().encode()}
    if results is not None:
        files["results.json"] = _json(results.model_dump(mode="json"))
    if events:
        lines = [_line(event) for event in events]
        files["metrics.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
        shown = json.loads(crossing.canonical())
        files["report.html"] = render(shown, events, results).encode()
    files["code.json"] = _json(noted_code(RunFolder(run)))
    files["consortium.json"] = _json(_members(register, study))
    changes = read_changes(run)
    if changes:
        files[CHANGES] = "".join(f"{change.model_dump_json()}\n" for change in changes).encode()
    files |= _receipts(run)
    if weights:
        files |= _weights(run, study)
    files[README] = _readme(study, crossing, results, files).encode()
    files[INDEX] = _json(_index(study, crossing, finished, files))
    return files


def write_zip(files: Files, out: Path) -> None:
    """Write one file; the same contents give the same bytes, wherever and whenever.

    Raises:
        InputError: If there is something already, or it cannot be written.
    """
    _check_free(out)
    partial = out.with_name(f".{out.name}.partial")
    with _whole(out, partial), zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            about = zipfile.ZipInfo(name, BEGINNING)
            about.external_attr = 0o644 << 16
            about.create_system = 3
            about.file_size = _size(content)
            with archive.open(about, "w") as into, _opened(content) as source:
                shutil.copyfileobj(source, into)


def write_folder(files: Files, out: Path) -> None:
    """Write a new folder.

    Raises:
        InputError: See `write_zip`.
    """
    _check_free(out)
    partial = out.with_name(f".{out.name}.partial")
    with _whole(out, partial):
        for name, content in files.items():
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as into, _opened(content) as source:
                shutil.copyfileobj(source, into)


def _check_free(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out}: is there already; choose another --out")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder")


@contextmanager
def _whole(out: Path, partial: Path) -> Iterator[None]:
    """Have the block write beside the place; then move it in, or take it away."""
    _take_away(partial)
    try:
        yield
        partial.replace(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        _take_away(partial)


def _take_away(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)


def _opened(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def sha256_of(content: bytes | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _line(event: Event) -> str:
    return json.dumps(event.model_dump(mode="json", exclude_unset=True), ensure_ascii=False)


def _events(run: Path) -> list[Event]:
    """What docs/formats.md says of each event, and nothing else."""
    path = run / "metrics.jsonl"
    return [_without_names(event) for event in read_events(path)] if path.exists() else []


def _without_names(event: Event) -> Event:
    """A reply that was refused may have been for a name in it: whose it is, nobody knows."""
    if isinstance(event, RefusedEvent):
        return event.model_copy(update={"reason": _nameless(event.reason)})
    if isinstance(event, RoundEvent) and event.refused:
        told = {site: _nameless(reason) for site, reason in event.refused.items()}
        return event.model_copy(update={"refused": told})
    return event


def _nameless(reason: str) -> str:
    return re.sub(r"['\"].*", "(a name that the study does not know)", reason, flags=re.S)


def _members(register: Register, study: Study) -> dict[str, Any]:
    """The study's sites as the consortium knows them: no address, no secret."""
    return {
        "consortium": register.name,
        "sites": {name: _member(register, name) for name in study.sites},
    }


def _member(register: Register, name: str) -> dict[str, Any] | None:
    site = register.sites.get(name)
    if site is None:
        return None
    node_key = load_pem_public_key(site.node_key.encode("ascii"))
    der = node_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "admitted": site.admitted.isoformat(timespec="seconds"),
        "revoked": site.revoked.isoformat(timespec="seconds") if site.revoked else None,
        "certificates": [
            {
                "serial": certificate.serial,
                "sha256": certificate.fingerprint or None,
                "expires": certificate.expires.isoformat(timespec="seconds"),
                "revoked": (
                    certificate.revoked.isoformat(timespec="seconds")
                    if certificate.revoked
                    else None
                ),
            }
            for certificate in site.certificates
        ],
        "node_key_sha256": hashlib.sha256(der).hexdigest(),
        "ledger_key": site.ledger_key or None,
    }


def _receipts(run: Path) -> Files:
    """The server's signed receipts, their head and the public key; never the private one."""
    path = run / RECEIPTS_FILE
    if not path.exists():
        return {}
    key = public_path(run / KEY_FILE)
    verdict = ledger_check.verify(path, read_public_key(key))
    if verdict.problem is not None:
        raise InputError(f"{path}: is not sound: {verdict.problem}")
    parts = [*ledger_check.files_of(path), head_path(path)]
    found: Files = {f"receipts/{part.name}": part for part in parts}
    return {**found, f"receipts/{key.name}": key}


def _weights(run: Path, study: Study) -> Files:
    """The leading ensemble, and the classifiers that are compared."""
    files: Files = {
        f"weights/ensemble/{path.name}": path for path in sorted((run / "ensemble").glob("*"))
    }
    folder = RunFolder(run)
    for key in dict.fromkeys(cell.training for cell in make_plan(study).cells.values()):
        checkpoint = folder.checkpoint(key)
        record = checkpoint.load(key)
        if record.finished:
            files[f"weights/{key}.safetensors"] = checkpoint.result_path(record)
    if not files:
        raise InputError(f"{run}: has no weights to export yet; leave --weights out")
    return files


def _index(
    study: Study, crossing: Study, finished: bool, files: Mapping[str, bytes | Path]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": study.name,
        "digest": study.digest,
        "digest_at_sites": crossing.digest,
        "seed": study.seed,
        "finished": finished,
        "files": {
            name: {"sha256": sha256_of(content), "bytes": _size(content)}
            for name, content in sorted(files.items())
        },
    }


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


WORDS = {
    "study.json": "what was asked, as it crossed to the hospitals: its SHA-256 is the digest that "
    "their policies name and their ledgers hold. What the coordinator's file says of a hospital's "
    "data is left out",
    "results.json": "what was found: means, intervals and tests over each hospital's test images",
    "report.html": "the same as a page; it holds no pixel of any image",
    "metrics.jsonl": "every round as it happened: who answered, how many bytes, which loss",
    CHANGES: "which hospitals left while the study ran, or came later, when and why",
    "code.json": "SHA-256 of the server's code (`code`) and of the bundle that the hospitals "
    "approved (`bundle`), oldest first",
    "consortium.json": "the study's hospitals: when each was admitted, and the SHA-256 of its "
    "certificates and of its node's public key",
    "receipts/": "a signed line for every reply that arrived, with the public key; a hospital "
    "holds its own ledger against them: `sonofed audit verify LEDGER --receipts "
    "receipts/receipts.jsonl --server-key receipts/receipts.key.pub`",
    "weights/": "what was trained",
    INDEX: "the SHA-256 of every other file in here",
}


def _readme(
    study: Study, crossing: Study, results: Results | None, files: Mapping[str, bytes | Path]
) -> str:
    roles = ", ".join(f"{name} ({site.role})" for name, site in study.sites.items())
    state = "finished" if results is not None else "not finished: what follows is what there is"
    lines = [
        f"# {study.name}",
        "",
        f"A federated study of {len(study.sites)} hospitals: {roles}. It is {state}. No image left "
        "a hospital; weights, counts and means did, each past the hospital's own gate.",
        "",
        f"Digest of the study {study.digest}; as the hospitals know it {crossing.digest}.",
        "",
        "| file | what it is |",
        "|---|---|",
    ]
    there = [*files, INDEX]
    for name, words in WORDS.items():
        if any(file.startswith(name) for file in there):
            lines.append(f"| `{name}` | {words} |")
    if study.synthetic:
        lines += ["", "**Synthetic images**: the numbers are no evidence about patients."]
    if study.untrained:
        lines += ["", f"**Untrained**: {study.untrained}"]
    if results is not None and results.notes:
        lines += ["", "What a reader must know beside the numbers:", ""]
        lines += [f"- {note}" for note in results.notes]
    return "\n".join(lines) + "\n"
