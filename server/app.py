"""The ServerApp: Flower's grid as the exchange that the stages ask."""

import common.environment  # noqa: F401, I001 - before Flower

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flwr.app import Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from common.config.study import Study
from common.plan import make_plan
from common.wire.gate import GATE_ERRORS
from common.wire.errors import PayloadError
from common.wire.payload import check_metrics, payload_bytes
from common.wire.records import (
    ERRORS,
    METRICS,
    WEIGHTS,
    Instruction,
    check_records,
    pack,
    unpack_weights,
)
from server.checkpoint import RunFolder
from server.code import note_code
from server.context import ServerContext
from server.exchange import Question, Refusal, Reply
from server.receipts import Receipts, take_letter
from server.study import run_study
from server.tracking import Both, JsonLines, TensorBoard

log = logging.getLogger("sonofed.server")
app = ServerApp()

POLL_S, LONGEST_POLL_S = 0.2, 2.0
"""Seconds between looks for a reply; they grow with the time that it takes."""
TELL_S = 60.0
"""Seconds of silence after which the run says whom it waits for."""
AGAIN_S = 300.0
"""Seconds before a node that would not say who it is is asked again, between two rounds."""
GONE = {
    ErrorCode.MESSAGE_UNAVAILABLE: "its answer was cut off on the way",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its answer was lost on the way",
    ErrorCode.NODE_UNAVAILABLE: "it is not connected",
}
"""What Flower answers in place of a site that has gone away, or whose upload has; the site's own
answer to that request is thrown away when it comes."""
FLOWER_ERRORS = GONE | {ErrorCode.CLIENT_APP_CRASHED: "its code was killed at work, time and again"}


@dataclass(frozen=True)
class Asked:
    """A request that is under way.

    Attributes:
        site: Its name.
        node: Flower's number of it.
        message: Flower's id of the request.
        since: When it was sent.
    """

    site: str
    node: int
    message: str
    since: float


class GridExchange:
    """Asks sites through a Flower grid, at most `window` at a time, in the study's order.

    Replies are taken one by one: with the window at the number of sites that work at the same
    time, memory does not grow with the number of sites.

    Args:
        grid: Flower's.
        study: For the canonical JSON, the deadline and the wire's dtype.
        window: Messages under way at the same time.
        receipts: Where replies that came through a gate are confirmed.
        waiting: Told the stage and each site that is waited for, with for how long, now and then.
    """

    def __init__(
        self,
        grid: Grid,
        study: Study,
        window: int,
        receipts: Receipts | None = None,
        waiting: Callable[[str, Mapping[str, str]], None] = lambda stage, sites: None,
    ) -> None:
        self.grid = grid
        self.study = study
        self.window = max(1, window)
        self.receipts = receipts
        self.waiting = waiting
        self.nodes: dict[str, int] = {}
        self.refused: dict[int, float] = {}
        self.crossing = study.for_sites().canonical()

    def enrol(
        self, question: Question, sites: Sequence[str], *, wait_s: float, least: int
    ) -> Iterator[Reply | Refusal]:
        """Ask each unknown node who it is as it comes, until nobody is missing or none is awaited.

        A node of a site that takes no part may be among them: then it is waited for the others.
        """
        since = told = time.monotonic()
        question = replace(question, spare=len(sites) - least)
        asked: set[int] = set()
        refused = False
        while missing := [site for site in sites if site not in self.nodes]:
            if nodes := self._strangers(asked, again_s=0.0 if wait_s else AGAIN_S):
                for answer in self._who(question, nodes, len(asked)):
                    refused = refused or isinstance(answer, Refusal)
                    yield answer
                asked |= set(nodes)
                continue
            now = time.monotonic()
            enough = len(sites) - len(missing) >= least
            if now - since >= (wait_s if enough else self.study.federation.deadline_s):
                return
            # As many nodes as sites are there, and one of them refused: that was the missing one.
            if refused and len(asked) >= len(sites):
                return
            if now - told > TELL_S:
                told = now
                self.waiting("enrol", dict.fromkeys(missing, "is not here yet"))
            time.sleep(POLL_S)

    def _strangers(self, asked: set[int], again_s: float) -> list[int]:
        """Nodes that are there and have not said who they are, nor refused to just now."""
        since = time.monotonic() - again_s
        lately = {node for node, when in self.refused.items() if when > since}
        return sorted(set(self.grid.get_node_ids()) - set(self.nodes.values()) - asked - lately)

    def _who(
        self, question: Question, nodes: Sequence[int], before: int
    ) -> Iterator[Reply | Refusal]:
        names = list(self.study.sites)
        labelled = {f"node {before + place + 1}": node for place, node in enumerate(nodes)}
        for answer in self._ask(question, labelled):
            label = answer.site
            if isinstance(answer, Refusal):
                self.refused[labelled[label]] = time.monotonic()
                yield answer
                continue
            index = int(answer.metrics["site"])
            name = names[index] if index < len(names) else ""
            if not name or name in self.nodes:
                self.refused[labelled[label]] = time.monotonic()
                yield Refusal(
                    label,
                    f"says it is site {index} of the study, which is taken or none",
                    kind="taken",
                )
                continue
            self.nodes[name] = labelled[label]
            yield Reply(name, {}, answer.metrics, 0, 0, answer.seconds)

    def ask(self, question: Question, sites: Sequence[str]) -> Iterator[Reply | Refusal]:
        """Ask the sites; answers come in the order of `sites`."""
        return self._ask(question, {site: self.nodes.get(site) for site in sites})

    def connected(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Those of the sites whose node the SuperLink has heard of in the last minute."""
        there = set(self.grid.get_node_ids())
        return tuple(site for site in sites if self.nodes.get(site) in there)

    def _ask(
        self, question: Question, nodes: Mapping[str, int | None]
    ) -> Iterator[Reply | Refusal]:
        instruction = Instruction(
            self.crossing,
            question.stage,
            question.training,
            question.round,
            self.study.seed,
            question.step,
        )
        content = pack(
            instruction=instruction,
            weights=question.weights,
            specs=question.down,
            wire_dtype=self.study.wire.dtype,
        )
        down = payload_bytes(question.down, self.study.wire.dtype) if question.weights else 0
        waiting = deque((site, node) for site, node in nodes.items() if node is not None)
        asked: deque[Asked] = deque()
        absent = [site for site, node in nodes.items() if node is None]
        spare = question.spare - len(absent)
        for site in absent:
            yield Refusal(site, "it is not here", kind="silent")
        while waiting or asked:
            while waiting and len(asked) < self.window:
                site, node = waiting.popleft()
                sent = self._push(question, content, node, self._deadline(question))
                asked.append(Asked(site, node, sent, time.monotonic()))
            message = self._pull(question, content, asked, spare > 0)
            first = asked.popleft()
            answer = self._read(question, first.site, message, down, time.monotonic() - first.since)
            spare -= isinstance(answer, Refusal)
            yield answer
            del message, answer

    def _push(self, question: Question, content: RecordDict, node: int, ttl: float) -> str:
        message = Message(
            self.receipts.attach(node, content) if self.receipts else content,
            node,
            f"{question.category}.{question.stage}",
            ttl=ttl,
            group_id=f"{question.training or question.stage}/{question.round}",
        )
        (message_id,) = self.grid.push_messages([message])
        return message_id

    def _deadline(self, question: Question) -> float:
        return question.deadline_s or self.study.federation.deadline_s

    def _pull(
        self, question: Question, content: RecordDict, late: Sequence[Asked], spared: bool
    ) -> Message | None:
        """Wait for the reply of the first of the sites that are still at work.

        One that has gone away is asked again when it is back, unless it can be spared: what it has
        done meanwhile lies there, and answers the repeated request.
        """
        first = late[0]
        asked, gone = first.message, None
        told, pause = time.monotonic(), POLL_S
        while True:
            for message in () if gone else self.grid.pull_messages([asked]):
                if spared or not (message.has_error() and message.error.code in GONE):
                    return message
                gone = message
            now = time.monotonic()
            left = self._deadline(question) - now + first.since
            if left < 0:
                return gone
            if gone and first.node in self.grid.get_node_ids():
                asked, gone, pause = self._push(question, content, first.node, left), None, POLL_S
            if now - told > TELL_S:
                told = now
                self.waiting(question.stage, _who(late, now, left, gone is not None))
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST_POLL_S)

    def _read(
        self, question: Question, site: str, message: Message | None, down: int, seconds: float
    ) -> Reply | Refusal:
        """Check a reply; of a site's error only the code is looked at, never its words."""
        if message is None:
            return Refusal(site, "no reply before the deadline", down, "silent")
        if message.has_error():
            code = message.error.code
            words = (ERRORS | GATE_ERRORS | FLOWER_ERRORS).get(code, "it did not answer")
            kind: Literal["said", "silent"] = "silent" if code in GONE else "said"
            return Refusal(site, f"{words} (code {code})", down, kind)
        try:
            content = message.content
            letter = take_letter(content)
            if letter is not None and self.receipts is not None:
                self.receipts.give(message.metadata.src_node_id, site, content, letter)
            check_records(content, (WEIGHTS, METRICS))
            weights = unpack_weights(content, question.up, self.study.wire.dtype)
            received: Mapping[str, object] = content.metric_records.get(METRICS, {})
            metrics = check_metrics(dict(received), question.metrics, complete=question.complete)
        except PayloadError as error:
            return Refusal(site, f"refused here: {error}", down, "bad")
        up = payload_bytes(question.up, self.study.wire.dtype)
        return Reply(site, weights, metrics, down, up, seconds)


def _who(late: Sequence[Asked], now: float, left: float, gone: bool) -> dict[str, str]:
    """Of each site that is waited for, since when; of the first one, until when, and why."""
    return {
        one.site: f"asked {(now - one.since) / 60:.0f} min ago"
        + (f", has {left / 3600:.1f} h left" if one is late[0] else "")
        + (", is not connected" if one is late[0] and gone else "")
        for one in late
    }


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the run config names."""
    folder = Path(str(context.run_config["run"]))
    study = Study.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))
    tracker = Both(JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard"))
    jobs = int(str(context.run_config.get("jobs", 0))) or study.compute.jobs
    run = RunFolder(folder)
    note_code(run, grid.run.fab_hash)
    with Receipts(folder) as receipts:
        exchange = GridExchange(
            grid, study, jobs, receipts,
            lambda stage, sites: tracker.emit("waiting", stage=stage, sites=dict(sites)),
        )  # fmt: skip
        run_study(ServerContext(study, make_plan(study), run, exchange, tracker))
