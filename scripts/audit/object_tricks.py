"""Tricks with Flower's content-addressed objects, below what a message says."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

from scripts.audit.tricks import Draft, Objects, Secret, Trick

Change = Callable[[bytes], bytes]


def renamed(objects: Objects, old: str, new: bytes) -> tuple[str, Objects]:
    """One object replaced, and every parent's reference to it, up to the root."""
    ids: dict[str, str] = {}
    found: Objects = {}
    for name, content in objects.items():  # children come before their parents
        fresh = new if name == old else content
        for before, after in ids.items():
            fresh = fresh.replace(before.encode(), after.encode())
        ids[name] = hashlib.sha256(fresh).hexdigest()
        found[ids[name]] = fresh
    return ids[list(objects)[-1]], found


def of_kind(objects: Objects, kind: str) -> str:
    """The first object of a kind."""
    return next(n for n, c in objects.items() if c.split(b" ")[0].decode() == kind)


def with_body(content: bytes, change: Change) -> bytes:
    """An object with another body, its length made to fit."""
    head, _, body = content.partition(b"\x00")
    kind, children, _ = head.decode().split(" ")
    new = change(body)
    return f"{kind} {children} {len(new)}".encode() + b"\x00" + new


def chunk_of(data: bytes) -> bytes:
    """A chunk with these bytes."""
    return b"ArrayChunk  %d\x00" % len(data) + data


def unknown_field(words: str) -> bytes:
    """Field 1000, length-delimited: what no version of the protocol knows."""
    raw = words.encode()
    assert len(raw) < 128
    return b"\xc2\x3e" + bytes([len(raw)]) + raw


def _body(kind: str, change: Callable[[bytes, Secret], bytes]) -> Callable[[Draft, Secret], Draft]:
    def spoil(draft: Draft, secret: Secret) -> Draft:
        def objects(found: Objects) -> tuple[str, Objects]:
            old = of_kind(found, kind)
            return renamed(found, old, with_body(found[old], lambda body: change(body, secret)))

        return replace(draft, objects=objects)

    return spoil


def _split(draft: Draft, secret: Secret) -> Draft:
    """A tensor's bytes in two chunks where one would do; the first one is the picture."""

    def objects(found: Objects) -> tuple[str, Objects]:
        old = of_kind(found, "Array")
        chunk = next(name for name in found if name.encode() in found[old])
        data = found[chunk].partition(b"\x00")[2]
        parts = [chunk_of(data[:5]), chunk_of(data[5:]), chunk_of(secret.picture.tobytes())]
        ids = [hashlib.sha256(part).hexdigest() for part in parts]
        body = found[old].partition(b"\x00")[2].replace(b"[0]", b"[0, 1]")
        array = f"Array {','.join(ids)} {len(body)}".encode() + b"\x00" + body
        root, spoilt = renamed(found, old, array)
        if not any(chunk.encode() in content for content in spoilt.values()):
            spoilt.pop(chunk)
        return root, dict(zip(ids, parts, strict=True)) | spoilt

    return replace(draft, objects=objects)


OBJECTS: tuple[Trick, ...] = (
    Trick("an unreferenced chunk",
          lambda d, s: replace(d, stray=[chunk_of(s.picture.tobytes())])),
    Trick("an object that was not announced",
          lambda d, s: replace(d, unannounced=chunk_of(s.picture.tobytes())), strips=True),
    Trick("an odd split into chunks", _split),
    Trick("an unknown field in a metric",
          _body("MetricRecord", lambda b, s: b + unknown_field(s.name))),
    Trick("an unknown field in the message",
          _body("Message", lambda b, s: b + unknown_field(s.name))),
    Trick("an extra JSON key",
          _body("Array", lambda b, s: b[:-1] + b', "note": "%s"}' % s.name.encode())),
    Trick("a JSON key twice",
          _body("Array", lambda b, s: b.replace(b"{", b'{"dtype": "%s", ' % s.name.encode(), 1))),
    Trick("white space in JSON",
          _body("ArrayRecord", lambda b, s: b.replace(b": ", b":  ", 1)), copies=False),
    Trick("words behind JSON", _body("RecordDict", lambda b, s: b + s.name.encode())),
)  # fmt: skip
