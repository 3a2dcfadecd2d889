"""The way out: the only thing at a site that dials the network.

Mutual TLS to one address, an optional CONNECT proxy that the site's file names, no redirects, no
settings from the environment. A request holds what its caller built, and a signed time.
"""

import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, TIMESTAMP_HEADER
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, Run
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.fleet_http_client import FleetHttpClient
from google.protobuf.message import DecodeError, Message

from common.errors import InputError

LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer: a bundle has 10 MB, a tree of objects a few hundred for each."""
TIMEOUT_S = 60.0
"""Without a sign of life: each piece that goes out or comes in is one, however slow the line."""
THINNEST_BPS = 0.5e6
"""Bits a second of a line that still serves. What was sent may lie in a machine's or a proxy's
memory with all of the line still before it, so the answer is waited for as long as its request
takes on such a line: 84 s more for an object of 5 MiB, together less than the 180 s after which
Flower forgets an upload that stands still."""
PIECE = 2**16
SIGNED_S = 1.0
"""How long a signed time is used: P-384 takes milliseconds, and there are hundreds of objects."""
INTERVAL_S = HEARTBEAT_DEFAULT_INTERVAL

Answer = TypeVar("Answer", bound=Message)


class UpstreamError(Exception):
    """A request that was not answered as it should be; trying again may help.

    Args:
        words: What happened, for the site's own log.
        status: HTTP's, or 0 where no answer came.
    """

    def __init__(self, words: str, status: int = 0) -> None:
        self.status = status
        super().__init__(words)


class RunOverError(UpstreamError):
    """The server says that the run is over, or none of this site's: trying again does not help."""


class Transport(FleetHttpClient):
    """Flower's list of Fleet calls over a connection of our own.

    Args:
        address: "host:port".
        context: TLS, with this site's certificate.
        key: The node's.
        proxy: "host:port" of a CONNECT proxy, or empty.
    """

    def __init__(
        self, address: str, context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, proxy: str
    ) -> None:
        self.base = f"https://{address}"
        self.key = key
        self.public = public_key_to_bytes(key.public_key())
        self._signed: tuple[float, dict[str, str]] = (-SIGNED_S, {})
        self._client = httpx.Client(
            verify=context,
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            proxy=f"http://{proxy}" if proxy else None,
            headers={"user-agent": "sonofed-gate", "accept-encoding": "identity"},
        )

    def _unary_unary(
        self,
        *,
        path: str,
        rpc_method: str,
        request: Message,
        response_type: type[Answer],
        timeout: float | None = None,
    ) -> Answer:
        """One call; see `FleetHttpClient`.

        Raises:
            RunOverError: If the server says so.
            UpstreamError: If there was no answer, another than 200, or none that can be read.
        """
        content = request.SerializeToString(deterministic=True)
        headers = {
            "content-type": PROTOBUF_MEDIA_TYPE,
            "accept": PROTOBUF_MEDIA_TYPE,
            "content-length": str(len(content)),
        }
        try:
            with self._client.stream(
                "POST",
                self.base + path,
                content=_pieces(content),
                headers=headers | self._signed_time(),
                timeout=_patience(timeout or TIMEOUT_S, len(content)),
            ) as response:
                body = _bounded(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise UpstreamError(f"{path}: {type(error).__name__}: {error}") from None
        if response.status_code != 200:
            raise _no(path, response.status_code, body)
        answer: Answer = response_type()
        try:
            answer.ParseFromString(body)
        except DecodeError:
            raise UpstreamError(f"{path}: the answer is no protobuf", 200) from None
        answer.DiscardUnknownFields()
        return answer

    def _signed_time(self) -> dict[str, str]:
        """Flower's node authentication: it signs a time, not a request.

        So one signature serves all requests of a second.
        """
        since, headers = self._signed
        if not 0 <= monotonic() - since < SIGNED_S:
            time = now().isoformat()
            signature = sign_message(self.key, time.encode("ascii"))
            headers = {
                FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(self.public).decode("ascii"),
                TIMESTAMP_HEADER: time,
                FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
            }
            self._signed = (monotonic(), headers)
        return headers


def _patience(silence_s: float, size: int) -> httpx.Timeout:
    """How long each step of a call may take: any of them, and the wait for the answer."""
    return httpx.Timeout(silence_s, read=silence_s + 8 * size / THINNEST_BPS)


def _pieces(content: bytes) -> Iterator[bytes]:
    """A body in small pieces.

    Over TLS each write takes 16 KiB, and httpcore copies what is left of a piece behind every one:
    given whole, 5 MiB would be copied three hundred times over.
    """
    view = memoryview(content)
    for start in range(0, len(view), PIECE):
        yield bytes(view[start : start + PIECE])


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise httpx.StreamError(f"an answer of more than {LARGEST_ANSWER} bytes")
    return bytes(body)


def _no(path: str, status: int, body: bytes) -> UpstreamError:
    told = FlowerError.from_json(body[:65536].decode("utf-8", "replace"))
    words = f"{path}: HTTP {status}" + (f", {told.message} ({told.code})" if told else "")
    # A 403 without Flower's own words comes from somebody before it, such as nginx.
    return RunOverError(words, status) if status == 403 and told else UpstreamError(words, status)


class Upstream:
    """What the gate asks of the server, each request made of known fields only."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def activate(self) -> int:
        """Say that the node is here; gives its id."""
        request = ActivateNodeRequest(
            public_key=self.transport.public, heartbeat_interval=INTERVAL_S
        )
        return self.transport.ActivateNode(request).node_id

    def deactivate(self, node_id: int) -> None:
        """Say that the node goes."""
        self.transport.DeactivateNode(DeactivateNodeRequest(node_id=node_id))

    def heartbeat(self, node_id: int) -> bool:
        """Say that the node is still here; False where the server does not know it."""
        request = SendNodeHeartbeatRequest(
            node=Node(node_id=node_id), heartbeat_interval=INTERVAL_S
        )
        return self.transport.SendNodeHeartbeat(request).success

    def pull(self, node_id: int) -> PullMessagesResponse:
        """The next instruction, if there is one. The server gives it once."""
        return self.transport.PullMessages(PullMessagesRequest(node=Node(node_id=node_id)))

    def pull_object(self, node_id: int, run_id: int, name: str) -> bytes | None:
        """One object; None where the server has it not (yet)."""
        request = PullObjectRequest(node=Node(node_id=node_id), run_id=run_id, object_id=name)
        answer = self.transport.PullObject(request)
        return answer.object_content if answer.object_found and answer.object_available else None

    def confirm(self, node_id: int, run_id: int, message: str) -> None:
        """Say that an instruction is all here."""
        self.transport.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=Node(node_id=node_id), run_id=run_id, message_object_id=message
            )
        )

    def run(self, node_id: int, run_id: int) -> Run:
        """What the server says of a run."""
        return self.transport.GetRun(GetRunRequest(node=Node(node_id=node_id), run_id=run_id)).run

    def bundle(self, node_id: int, run_id: int, sha256: str) -> bytes:
        """The code of a run."""
        request = GetFabRequest(node=Node(node_id=node_id), hash_str=sha256, run_id=run_id)
        return self.transport.GetFab(request).fab.content

    def push(self, node_id: int, out: PushMessagesRequest) -> PushMessagesResponse:
        """Announce a reply; the answer names the objects that the server wants."""
        request = PushMessagesRequest(
            node=Node(node_id=node_id),
            messages_list=out.messages_list,
            message_object_trees=out.message_object_trees,
            clientapp_runtime_list=out.clientapp_runtime_list,
        )
        return self.transport.PushMessages(request)

    def push_object(
        self, node_id: int, run_id: int, session: str, name: str, content: bytes
    ) -> bool:
        """Send one object; False where the server did not store it."""
        request = PushObjectRequest(
            node=Node(node_id=node_id),
            run_id=run_id,
            session_id=session,
            object_id=name,
            object_content=content,
        )
        return self.transport.PushObject(request).stored


def tls(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS as a client with this site's certificate; only this authority is trusted.

    Raises:
        InputError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{ca}: is no certificate of an authority ({error})") from None
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{certificate}, {key}: are no certificate and its key ({error})"
        ) from None
    return context
