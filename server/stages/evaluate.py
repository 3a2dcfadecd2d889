"""evaluate: every member goes to the sites that fuse it; means and tests come back."""

from typing import Any

from common.models.branches import State, encoder_of, member_of, untrained_encoder
from common.plan import UNTRAINED, split_member
from common.wire.vocabulary import evaluation_metrics, member_tensors
from server.context import ServerContext
from server.exchange import Question, Refusal
from server.stages import enrol
from server.steps import Missing


def run(context: ServerContext) -> dict[str, dict[str, float | int]]:
    """Have every site predict with its members, then score all arms.

    What has been predicted or scored before a kill is not asked again. Where the others are a
    quorum, a site that gives no answer is left out, by name.

    Returns:
        Each site's flat metrics.

    Raises:
        StudyStopped: If too few sites answer, naming those that do not and why.
    """
    done: dict[str, Any] = context.run.read_state("evaluate") or {
        "predicted": {},
        "scored": {},
        "traffic": {},
    }
    # One that is added while others predict would be asked for members that it was not shown.
    missing = Missing(context, "evaluate", enrol.present(context, tuple(context.study.sites)))
    done["missing"] = missing.reasons
    _predict(context, done, missing)
    _score(context, done, missing)
    context.run.write_state("evaluate", done)
    scored: dict[str, dict[str, float | int]] = done["scored"]
    return scored


def member_weights(context: ServerContext, member: str) -> State:
    """A member's segmentation network (or its encoder alone), out of its training's result."""
    if member == UNTRAINED:
        return untrained_encoder(context.study)
    if context.study.representation:
        return encoder_of(context.result(member))
    key, index = split_member(member)
    result = context.result(key)
    return member_of(result, index) if context.plan.trainings[key].stage == "adapt" else result


def _predict(context: ServerContext, done: dict[str, Any], missing: Missing) -> None:
    for member, needing in context.plan.predictors.items():
        have = done["predicted"].get(member, [])
        here = [s for s in enrol.present(context, missing.sites) if s not in missing.reasons]
        left = [site for site in here if site in needing and site not in have]
        if not left:
            continue
        question = Question(
            "evaluate",
            "evaluate",
            member,
            weights=member_weights(context, member),
            down=member_tensors(context.study, context.plan, member),
            spare=missing.spare,
        )
        for answer in enrol.ask(context, question, left):
            if isinstance(answer, Refusal):
                missing.add(answer, f"evaluate, {member}")
                context.run.write_state("evaluate", done)
                continue
            done["predicted"].setdefault(member, []).append(answer.site)
            at = done["traffic"].setdefault(answer.site, {"down": 0, "up": 0})
            at["down"] += answer.bytes_down
            context.run.write_state("evaluate", done)
            context.tracker.emit(
                "predict", member=member, site=answer.site, bytes_down=answer.bytes_down,
                seconds=round(answer.seconds, 3),
            )  # fmt: skip


def _score(context: ServerContext, done: dict[str, Any], missing: Missing) -> None:
    here = [s for s in enrol.present(context, missing.sites) if s not in missing.reasons]
    left = [site for site in here if site not in done["scored"]]
    question = Question(
        "evaluate",
        "evaluate",
        metrics=evaluation_metrics(context.study, context.plan),
        complete=False,
        spare=missing.spare,
    )
    for answer in enrol.ask(context, question, left):
        if isinstance(answer, Refusal):
            missing.add(answer, "evaluate")
            continue
        done["scored"][answer.site] = dict(answer.metrics)
        context.run.write_state("evaluate", done)
        context.tracker.emit("evaluate", site=answer.site, metrics=dict(answer.metrics))
