"""Flower's SuperLink, changed in two things.

An instruction is given again until its site has it. Flower gives an instruction once. If the answer
to that call is lost, because the line is cut or the site's gate is killed just then, the site never
sees it and the study waits for nothing. A site confirms what it has, and asks for more only when it
has nothing on its way in; so whoever asks without having confirmed has lost it.

A locked database is waited for. Flower gives up after five seconds, which one transaction can take
on a busy disk, and the whole run ends with the error.

`python -m server.consortium.flower` takes the arguments of `flower-superlink`.
"""

import common.environment  # noqa: F401, I001 - before Flower

import functools
from collections.abc import Callable
from datetime import datetime, timedelta

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore import constant, sql_mixin
from flwr.supercore.date import now
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from flwr.superlink.cli.flower_superlink import flower_superlink
from sqlalchemy import select, update

AGAIN_S = 10.0
"""What was given so short a time ago may still be on its way."""

PRAGMAS = {"busy_timeout": "120000"}
"""Of SQLite, instead of Flower's: how many milliseconds a locked database is waited for."""

Getter = Callable[..., list[Message]]


def given_again(get: Getter) -> Getter:
    """Flower's `get_message_ins`, with what the node has lost before what it has not had yet."""

    @functools.wraps(get)
    def get_message_ins(
        self: SqlLinkState, node_id: int, limit: int | None, *, run_id: int | None = None
    ) -> list[Message]:
        if node_id != SUPERLINK_NODE_ID:
            take_back(self, node_id)
        return get(self, node_id, limit, run_id=run_id)

    return get_message_ins


def take_back(state: SqlLinkState, node_id: int) -> list[str]:
    """Have instructions that a node was given and never confirmed be given again; their ids."""
    before = now() - timedelta(seconds=AGAIN_S)
    with state.session() as session:
        given = session.execute(
            select(MessageIns.message_id, MessageIns.run_id, MessageIns.delivered_at).where(
                MessageIns.dst_node_id == uint64_to_int64(node_id),
                MessageIns.delivered_at != "",
                ~select(MessageRes.message_id)
                .where(MessageRes.reply_to_message_id == MessageIns.message_id)
                .exists(),
            )
        ).all()
        lost = [
            str(message_id)
            for message_id, run, delivered_at in given
            if datetime.fromisoformat(str(delivered_at)) < before
            and _is_whole(state, str(message_id))
            and _runs(state, int64_to_uint64(int(run or 0)))
        ]
        if lost:
            session.execute(
                update(MessageIns).where(MessageIns.message_id.in_(lost)).values(delivered_at="")
            )
    return lost


def _is_whole(state: SqlLinkState, message_id: str) -> bool:
    """Whether its objects are still here: Flower drops them when the site confirms."""
    try:
        state.object_store.get_object_tree(message_id)
    except NoObjectInStoreError:
        return False
    return True


def _runs(state: SqlLinkState, run_id: int) -> bool:
    return any(run.status.status == Status.RUNNING for run in state.get_run_info(run_ids=[run_id]))


def main() -> None:
    """Run the SuperLink."""
    SqlLinkState.get_message_ins = given_again(SqlLinkState.get_message_ins)  # type: ignore[method-assign]
    pragmas = {**dict(constant.SQLITE_PRAGMAS), **PRAGMAS}
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(pragmas.items())
    flower_superlink()


if __name__ == "__main__":
    main()
