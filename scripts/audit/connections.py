"""Every connection that any process tried, from strace's record of a whole tree of processes."""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CALLS = ("connect", "bind", "sendto", "sendmsg", "sendmmsg")
"""Calls that name an address. A send on a socket that is connected names none."""

_LINE = re.compile(r"^(?P<pid>\d+)\s+(?P<rest>.*)$")
_BIRTHS = ("clone", "clone3", "fork", "vfork")
_CALL = re.compile(rf"^(?P<call>{'|'.join((*CALLS, 'execve', *_BIRTHS))})\((?P<arguments>.*)")
_RESUMED = re.compile(r"^<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)")
_RESULT = re.compile(
    r"\)\s*= (?P<value>-?\d+)(?: (?P<error>E[A-Z0-9]+))?"
    r"(?: /\* (?P<outer>\d+) in strace's PID NS \*/)?"
)
_IPV4 = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_IPV6 = re.compile(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"')
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(@?"[^"]*")')
_FAMILY = re.compile(r"sa_family=(AF_[A-Z0-9_]+)")
_PROGRAM = re.compile(r'^"([^"]*)", \[(.*)')
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')

INTERPRETERS = re.compile(r"(python[0-9.]*|bash|sh)$")


@dataclass(frozen=True)
class Connection:
    """An address that a process named in a call.

    Attributes:
        program: What the process ran, in short.
        call: Of `CALLS`.
        family: "IPv4", "IPv6", "unix", or the kernel's name of another.
        address: "host:port", or a path.
        result: "ok", or the kernel's error.
    """

    program: str
    call: str
    family: str
    address: str
    result: str

    @property
    def is_local(self) -> bool:
        """Whether it stays on this machine."""
        if self.family == "IPv4":
            return self.address.startswith("127.")
        if self.family == "IPv6":
            return self.address.startswith(("[::1]", "[::ffff:127."))
        return self.family in ("unix", "AF_NETLINK", "AF_UNSPEC")

    @property
    def leads_out(self) -> bool:
        """Whether it tries to speak to something beyond this machine."""
        return not self.is_local and self.call != "bind"

    @property
    def listens_out(self) -> bool:
        """Whether it would take connections from beyond this machine."""
        return self.call == "bind" and not self.is_local


def is_there() -> bool:
    """Whether strace is installed."""
    return shutil.which("strace") is not None


def traced(command: list[str], record: Path) -> list[str]:
    """A command, and the strace around it that writes every address down.

    Args:
        command: The command.
        record: Where strace writes.
    """
    return [
        "strace", "-f", "-qq", "--seccomp-bpf", "--decode-pids=pidns", "-s", "256",
        "-e", "signal=none",
        "-e", f"trace={','.join((*CALLS, 'execve', *_BIRTHS))}", "-o", str(record), "--", *command,
    ]  # fmt: skip


def read(record: Path) -> list[Connection]:
    """Every address in strace's record, each kind once, in the order in which it was tried.

    Args:
        record: What `traced` wrote.
    """
    with record.open(encoding="utf-8", errors="replace") as lines:
        # A child may speak before its parent's call has returned: who bore whom comes first.
        parents = {child: parent for parent, child in _births(lines)}
    with record.open(encoding="utf-8", errors="replace") as lines:
        return list(dict.fromkeys(parse(lines, parents)))


def parse(lines: Iterable[str], parents: Mapping[str, str] | None = None) -> Iterator[Connection]:
    """Connections in strace's lines.

    Args:
        lines: Of its record.
        parents: Which process or thread bore which.
    """
    programs: dict[str, str] = {}
    for pid, call, rest in _calls(lines):
        result = _RESULT.search(rest)
        told = "?" if result is None else result["error"] or "ok"
        if call in _BIRTHS:
            continue
        if pid not in programs:
            programs[pid] = _inherited(pid, programs, parents or {})
        if call == "execve":
            if told == "ok":
                programs[pid] = _program(rest)
            continue
        for family, address in _addresses(rest):
            yield Connection(programs[pid], call, family, address, told)


def _inherited(pid: str, programs: Mapping[str, str], parents: Mapping[str, str]) -> str:
    """What a process or thread runs that started nothing itself: what its parent runs."""
    seen = set()
    while pid in parents and pid not in programs and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
    return programs.get(pid, "")


def _births(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for pid, call, rest in _calls(lines):
        if call in _BIRTHS and (result := _RESULT.search(rest)) and int(result["value"]) > 0:
            yield pid, result["outer"] or result["value"]


def _calls(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Process, call and its arguments; calls that others interrupted are put together."""
    begun: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        pid, rest = match["pid"], match["rest"]
        resumed = _RESUMED.match(rest)
        if resumed:
            rest = begun.pop(pid, "") + resumed["rest"]
        elif rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>")
            continue
        call = _CALL.match(rest)
        if call is not None:
            yield pid, call["call"], call["arguments"]


def _addresses(arguments: str) -> Iterator[tuple[str, str]]:
    found = False
    for port, host in _IPV4.findall(arguments):
        found = True
        yield "IPv4", f"{host}:{port}"
    for port, host in _IPV6.findall(arguments):
        found = True
        yield "IPv6", f"[{host}]:{port}"
    for path in _UNIX.findall(arguments):
        found = True
        yield "unix", path.replace('"', "")
    if not found and (family := _FAMILY.search(arguments)):
        yield family[1], ""


def _program(arguments: str) -> str:
    """A short name of what was started: the script or module, not the interpreter."""
    match = _PROGRAM.match(arguments)
    if match is None:
        return ""
    words = _WORD.findall(match[2].split("], ")[0]) or [match[1]]
    name = Path(words[0]).name
    if not INTERPRETERS.fullmatch(name):
        return name
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        if rest[0] in ("-m", "-c"):
            return f"python -m {rest[1]}" if rest[0] == "-m" and len(rest) > 1 else "python -c"
        rest = rest[1:]
    return Path(rest[0]).name if rest else name


__all__ = ["CALLS", "Connection", "is_there", "parse", "read", "traced"]
