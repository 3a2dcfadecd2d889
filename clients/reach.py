"""The way to the consortium's server: whether it is open, and what to ask for where it is not."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from clients.finding import Finding
from clients.gate.upstream import tls
from clients.site_file import SiteFile
from common.errors import InputError

TIMEOUT_S = 15.0
SKEW_WARN_S, SKEW_FAIL_S = 5.0, 60.0
"""Node authentication signs the time, and the server refuses one that is five minutes behind its
own, or a few seconds ahead: a clock that is a minute off is on its way there."""


def reach(site: SiteFile, timeout_s: float = TIMEOUT_S) -> Iterator[Finding]:
    """Whether the server answers, trusts this site, and has the same time."""
    address, proxy = site.upstream.address, site.upstream.proxy
    way = f"{address}" + (f" through the proxy {proxy}" if proxy else "")
    try:
        context = tls(site.upstream.ca, site.upstream.certificate, site.upstream.key)
        with httpx.Client(
            verify=context, trust_env=False, timeout=timeout_s,
            proxy=f"http://{proxy}" if proxy else None,
        ) as client:  # fmt: skip
            answer = client.get(f"https://{address}/")
    except InputError as error:
        yield Finding("server", "fail", error.problems[0], "`sonofed site join --admission FILE`")
        return
    except (httpx.HTTPError, OSError) as error:
        yield Finding("server", "fail", f"{way}: {_plain(error)}", _remedy(error, address, proxy))
        return
    if answer.status_code == 400:
        # nginx's answer to a certificate that it does not take.
        yield Finding(
            "server", "fail", f"{way}: it does not take this site's certificate",
            "ask the coordinator whether the site was revoked: `sonofed consortium status`",
        )  # fmt: skip
        return
    yield Finding("server", "ok", f"{way} answers and takes this site's certificate")
    yield from _clock(answer.headers.get("date"))


def _clock(told: str | None) -> Iterator[Finding]:
    if told is None:
        return
    try:
        skew = (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds()
    except ValueError:
        return
    words = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    remedy = "switch on time synchronisation (chrony, systemd-timesyncd, Windows time)"
    if abs(skew) > SKEW_FAIL_S:
        yield Finding("clock", "fail", words, remedy)
    elif abs(skew) > SKEW_WARN_S:
        yield Finding("clock", "warn", words, remedy)
    else:
        yield Finding("clock", "ok", "agrees with the server's")


def _plain(error: Exception) -> str:
    words = str(error) or type(error).__name__
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not the consortium's ({cause.verify_message})"
    return words


def _remedy(error: Exception, address: str, proxy: str) -> str:
    words = str(error).lower()
    if "certificate" in words or "ssl" in words:
        return "something between here and there opens TLS, or the authority is another: ask both"
    if "name or service" in words or "resolution" in words or "nodename" in words:
        return f"the name of {address} is not known here: ask for DNS, or correct the address"
    if proxy:
        return f"ask whether the proxy allows CONNECT to {address}"
    return f"ask for a firewall rule: this machine out to {address}, TCP, nothing inbound"
