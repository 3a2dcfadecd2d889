"""How code at a site could try to get pixels or names out; docs/privacy.md lists the ways.

A trick spoils an honest reply. The same reply goes to a gate, which must let nothing of it out, and
past the gate, where the search must find what it carries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from numpy.typing import NDArray
from PIL import Image

from clients.gate.manifest import Exchange
from scripts.audit.floats import FLOATS, OTHERS, packed, unpacked

Plane = NDArray[np.uint8]
Objects = dict[str, bytes]


@dataclass(frozen=True)
class Secret:
    """What is to be smuggled.

    Attributes:
        picture: (H, W) uint8, of a canary.
        name: A patient's.
        path: A file's.
    """

    picture: Plane
    name: str
    path: str


@dataclass
class Draft:
    """A reply that is being made.

    Attributes:
        arrays: Its tensors in their order.
        metrics: Its scalars.
        records: Further records.
        error: A code and words in place of all that.
        metadata: Of the message, over the honest ones.
        objects: Changes the message's objects (children first); gives the root and all of them.
        stray: Objects that belong to nothing; the sender adds them to the message's tree.
        unannounced: An object that is pushed though it was not announced.
        request_field: Words in a field of the request that the protocol does not know.
        header: Words in a header of HTTP.
        query: Words behind the path of a request.
    """

    arrays: dict[str, Array]
    metrics: dict[str, Any]
    records: dict[str, Any] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    objects: Callable[[Objects], tuple[str, Objects]] | None = None
    stray: list[bytes] = field(default_factory=list)
    unannounced: bytes = b""
    request_field: str = ""
    header: str = ""
    query: str = ""

    @property
    def largest(self) -> str:
        """Name of the tensor with the most floats: where there is most room."""
        floats = [name for name, array in self.arrays.items() if array.dtype in FLOATS]
        return max(floats, key=lambda name: int(np.prod(self.arrays[name].shape)))

    def filled(self, secret: Secret, scale: float = 1 / 255) -> Array:
        """The largest tensor with the picture in it, again and again, as it would travel."""
        array = self.arrays[self.largest]
        return packed(values_of(secret, tuple(array.shape), scale), array.dtype)


@dataclass(frozen=True)
class Trick:
    """One way out.

    Attributes:
        name: What it is.
        spoil: Puts it into an honest reply.
        copies: Whether it carries a copy of a canary that a search can find. Some carry a few bits.
        strips: The reply is honest but for the smuggled words: a gate may take those away and let
            the rest pass.
        senseless: Why it would be no trick on an answer of that form; empty where it is one.
    """

    name: str
    spoil: Callable[[Draft, Secret], Draft]
    copies: bool = True
    strips: bool = False
    senseless: Callable[[Exchange], str] = lambda exchange: ""


# Tensors.


def values_of(secret: Secret, shape: tuple[int, ...], scale: float = 1 / 255) -> NDArray[Any]:
    """A float32 tensor of that shape with the picture in it, again and again."""
    size = int(np.prod(shape))
    return np.asarray(np.resize(secret.picture, size).reshape(shape) * scale, np.float32)


def _with(change: Callable[[Array, Secret], Array]) -> Callable[[Draft, Secret], Draft]:
    """Change the largest tensor, which holds the picture's values already."""

    def spoil(draft: Draft, secret: Secret) -> Draft:
        array = change(draft.filled(secret), secret)
        return replace(draft, arrays={**draft.arrays, draft.largest: array})

    return spoil


def _told(array: Array, **told: Any) -> Array:
    for key, value in told.items():
        setattr(array, key, value)
    return array


def _npy(array: NDArray[Any], **options: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def padded(array: Array, words: bytes = b"") -> bytes:
    """The same array under a longer header, which numpy reads just as well; words end in it."""
    data = array.data
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length].rstrip(b"\n")
    longer = length + 64 * (1 + len(words) // 64)
    wider = header + b" " * (longer - len(header) - len(words) - 3) + b" #" + words + b"\n"
    return data[:8] + longer.to_bytes(2, "little") + wider + data[10 + length :]


def _png(secret: Secret) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(secret.picture).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _pickled(array: Array, secret: Secret) -> Array:
    objects = np.array([secret.name, secret.picture.tobytes()], dtype=object)
    return _told(array, data=_npy(objects, allow_pickle=True))


def _nan(array: Array, secret: Secret) -> Array:
    """NaN has free bits in each number: 22 in float32, nine in float16, six in bfloat16."""
    pixels = np.resize(secret.picture, array.shape)
    if array.dtype == "float32":
        return Array((pixels.astype(np.uint32) | 0x7FC00000).view(np.float32))
    if array.dtype == "float16":
        return Array((pixels.astype(np.uint16) | 0x7E00).view(np.float16))
    return Array((pixels >> 2).astype(np.uint16) | np.uint16(0x7FC0))


def _fortran(array: Array, secret: Secret) -> Array:
    spoilt = Array(np.reshape(array.numpy().reshape(-1), array.shape, order="F"))
    if b"'fortran_order': True" not in spoilt.data:
        # Along one axis both orders are the same: only the header can say it.
        return _told(spoilt, data=spoilt.data.replace(b"False", b"True ", 1))
    return spoilt


def _renamed(draft: Draft, secret: Secret) -> Draft:
    name = draft.largest
    arrays = {("image" if key == name else key): value for key, value in draft.arrays.items()}
    return replace(draft, arrays={**arrays, "image": draft.filled(secret)})


def _reordered(exchange: Exchange) -> str:
    return "" if len(exchange.up) > 1 else "the message has one tensor"


def _swapped(array: Array) -> Array:
    values = array.numpy()
    return _told(Array(values.astype(values.dtype.newbyteorder(">"))), dtype=array.dtype)


def _misnamed(array: Array, dtype: str) -> Array:
    """Floats of one type that say they are of another."""
    return _told(packed(unpacked(array), dtype), dtype=array.dtype)


TENSORS: tuple[Trick, ...] = (
    Trick("image bytes under an allowed tensor name", _with(lambda a, s: Array(s.picture))),
    Trick("uint8 declared as weights", _with(lambda a, s: _told(Array(s.picture), dtype=a.dtype))),
    Trick("a PNG file as a tensor", _with(lambda a, s: Array(_png(s)))),
    Trick("right shape, wrong name", _renamed),
    Trick(
        "an extra tensor",
        lambda d, s: replace(d, arrays={**d.arrays, "image": Array(s.picture / np.float32(255))}),
    ),
    Trick(
        "a name as a tensor's name",
        lambda d, s: replace(d, arrays={**d.arrays, s.name: next(iter(d.arrays.values()))}),
    ),
    Trick(
        "another order of tensors",
        lambda d, s: replace(d, arrays=dict(reversed(d.arrays.items()))),
        copies=False,
        senseless=_reordered,
    ),
    Trick(
        "bytes behind the payload",
        _with(lambda a, s: _told(a, data=a.data + s.picture.tobytes())),
    ),
    Trick("Fortran order", _with(_fortran)),
    Trick("big-endian", _with(lambda a, s: _swapped(a))),
    Trick("float64", _with(lambda a, s: Array(unpacked(a).astype(np.float64)))),
    Trick("another float type, declared as the right one",
          _with(lambda a, s: _misnamed(a, OTHERS[a.dtype]))),
    Trick("padded .npy header", _with(lambda a, s: _told(a, data=padded(a, s.name.encode())))),
    Trick("another .npy version",
          _with(lambda a, s: _told(a, data=a.data[:6] + b"\x02\x00" + a.data[8:]))),
    Trick("pickled array", _with(_pickled)),
    Trick("another stype", _with(lambda a, s: _told(a, stype=s.name))),
    Trick("a word as dtype", _with(lambda a, s: _told(a, dtype=s.path))),
    Trick("pixels as a shape",
          _with(lambda a, s: _told(a, shape=tuple(int(v) for v in s.picture.reshape(-1)[:256])))),
    Trick("pixels in NaNs", _with(_nan)),
    # As large as float16 can be.
    Trick("pixels as large weights",
          _with(lambda a, s: packed(values_of(s, tuple(a.shape), scale=250.0), a.dtype))),
)  # fmt: skip


# Metrics, records, errors.


def _metric(change: Callable[[Draft, Secret], dict[str, Any]]) -> Callable[[Draft, Secret], Draft]:
    return lambda draft, secret: replace(draft, metrics={**draft.metrics, **change(draft, secret)})


def _first(draft: Draft, kind: type) -> str:
    return next((k for k, v in draft.metrics.items() if type(v) is kind), "loss")


METRICS: tuple[Trick, ...] = (
    Trick("a metric whose key is a name", _metric(lambda d, s: {s.name: 1})),
    Trick("a list of 4,096 integers",
          _metric(lambda d, s: {_first(d, int): np.resize(s.picture, 4096).tolist()})),
    Trick("a list of numbers",
          _metric(lambda d, s: {_first(d, float): (s.picture.reshape(-1) / 255).tolist()})),
    Trick("eight bytes in a count", _metric(
        lambda d, s: {_first(d, int): int.from_bytes(s.picture.tobytes()[:8], "little") >> 1}
    ), copies=False),
    Trick("a float where an integer belongs",
          _metric(lambda d, s: {_first(d, int): 12.5}), copies=False),
    Trick("NaN as a metric", _metric(lambda d, s: {_first(d, float): float("nan")}), copies=False),
)  # fmt: skip


def _record(name: str, make: Callable[[Secret], Any]) -> Callable[[Draft, Secret], Draft]:
    return lambda draft, secret: replace(draft, records={name: make(secret)})


RECORDS: tuple[Trick, ...] = (
    Trick("a string metric", _record("metrics.notes", lambda s: ConfigRecord({"loss": s.name}))),
    Trick("an unknown record", _record("notes", lambda s: ConfigRecord({"note": s.path}))),
    Trick("an unknown record of tensors", _record("more", lambda s: ArrayRecord([s.picture]))),
    Trick("a metric record of another name",
          _record("more", lambda s: MetricRecord({"x": s.picture.reshape(-1).tolist()}))),
    Trick("bytes in the gate's own record",
          _record("ledger", lambda s: ConfigRecord({"head": s.picture.tobytes()}))),
    Trick("error text with a path",
          lambda d, s: replace(d, error=(1003, f"cannot read {s.path}")), strips=True),
    Trick("an unknown error code",
          lambda d, s: replace(d, error=(int(s.picture[0, 0]) + 2000, s.name))),
    Trick("a name in the message's metadata",
          lambda d, s: replace(d, metadata={"_group_id": s.name}), strips=True),
)  # fmt: skip

WIRE: tuple[Trick, ...] = (
    Trick("a name in a field that nobody knows",
          lambda d, s: replace(d, request_field=s.name)),
    Trick("a name in a header", lambda d, s: replace(d, header=s.name), strips=True),
    Trick("a name behind the path", lambda d, s: replace(d, query=s.name), strips=True),
)  # fmt: skip


def smuggled_in_weights(draft: Draft, secret: Secret) -> Draft:
    """Pixels as small valid weights: the one way that no check of form can close.

    Every float lies where floats lie, and the update is small.
    """
    name = draft.largest
    array = draft.arrays[name]
    values = values_of(secret, tuple(array.shape), scale=1e-4 / 255) + unpacked(array).mean()
    return replace(draft, arrays={**draft.arrays, name: packed(values, array.dtype)})


HIDDEN = Trick("pixels as valid small weights", smuggled_in_weights)


def all_tricks() -> tuple[Trick, ...]:
    """Every trick that a gate must catch."""
    from scripts.audit.object_tricks import OBJECTS

    return (*TENSORS, *METRICS, *RECORDS, *OBJECTS, *WIRE)


def names(tricks: tuple[Trick, ...]) -> Mapping[str, Trick]:
    """By name."""
    return {trick.name: trick for trick in tricks}
