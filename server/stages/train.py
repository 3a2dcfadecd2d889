"""The rounds of a training: weights out, replies in one at a time, aggregate, checkpoint."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict

from common.config.selection import Sphere
from common.config.stages import Adapt
from common.models.branches import State
from common.plan import Training
from common.seeds import seed_of
from common.wire.payload import digest_of
from common.wire.vocabulary import returned_tensors
from server.aggregation import make_rule
from server.checkpoint import Checkpoint, Record
from server.context import ServerContext, StudyStopped
from server.exchange import Question, Refusal, Reply, least
from server.stages import annotate, enrol, reconstruct
from server.stages.start import starting_weights
from server.updates import Updates, against

PAIR = 2
"""Images that a training step needs: BatchNorm knows nothing of one."""
COUNTERS = ("pairs_masked", "pairs_total", "anchors_without_negatives")


def run(context: ServerContext, training: Training) -> None:
    """Run what is left of a training.

    Raises:
        StudyStopped: If a round has no quorum, naming each site and why.
    """
    checkpoint = context.run.checkpoint(training.key)
    record = checkpoint.load(training.key)
    if record.finished:
        return
    weights = (
        checkpoint.weights(record, record.round)
        if record.round
        else starting_weights(context, training)
    )
    rule_state = checkpoint.rule_state(record)
    if isinstance(training.settings, Adapt) and not record.val_losses:
        # What it starts from is kept too: it is the result if the first round goes astray.
        record.val_losses.append(_validate(context, training, weights, 1, record))
        checkpoint.save(record, weights, rule_state)
    for round_ in range(record.round + 1, training.settings.rounds + 1):
        weights, rule_state = _round(
            context, training, checkpoint, record, round_, weights, rule_state
        )
        if record.note:
            break
    record.finished = True
    record.digest = digest_of(checkpoint.result(record))
    checkpoint.finish(record)


def _round(
    context: ServerContext,
    training: Training,
    checkpoint: Checkpoint,
    record: Record,
    round_: int,
    weights: State,
    rule_state: State,
) -> tuple[State, State]:
    started = time.monotonic()
    sites = participants(context, training)
    question = Question.of(
        context.study, context.plan, "train", training.stage, training.key, round_=round_,
        weights=weights, spare=len(sites) - needed(context, training, sites),
    )  # fmt: skip
    federation = context.study.federation
    back = returned_tensors(context.study, training)
    learning = OrderedDict((spec.name, weights[spec.name]) for spec in back)
    rule = make_rule(federation, learning, rule_state, checkpoint.replies)
    updates = Updates(
        learning,
        federation.update_bound,
        seed_of(context.study.seed, training.key, round_, "sketch"),
    )
    replies: list[Reply] = []
    refused: dict[str, str] = {}
    for answer in enrol.ask(context, question, sites):
        record.count(answer.site, answer.bytes_down, getattr(answer, "bytes_up", 0))
        reason = (
            answer.reason
            if isinstance(answer, Refusal)
            else updates.refuse(answer.site, answer.weights)
        )
        if isinstance(answer, Refusal) or reason:
            refused[answer.site] = reason
            if not isinstance(answer, Refusal) or answer.kind == "bad":
                rule.refused += 1
            context.tracker.emit(
                "refused", training=training.key, round=round_, site=answer.site, reason=reason
            )
            continue
        rule.add(answer.weights, weight_of(context, answer))
        replies.append(_without_weights(answer))
        _tell(context, training, round_, answer)
    check_quorum(context, training, round_, sites, replies, refused)
    check_spread(training, round_, replies)
    found = updates.found()
    for site, agreement in against(found).items():
        record.remarks.append(
            f"round {round_}: the update of {site} points away from the others' (cosine "
            f"{agreement:.2f})"
        )
    weights = OrderedDict(weights) | rule.result()
    loss = _mean(context, replies, "loss")
    # Of several sources' memorisation checks the worst counts.
    record.metrics = {"loss": loss} | {
        name: max(float(reply.metrics[name]) for reply in replies)
        for name in replies[0].metrics
        if name.startswith("memorisation_")
    }
    for name in COUNTERS:
        if name in replies[0].metrics:
            record.totals[name] = record.totals.get(name, 0) + sum(
                int(reply.metrics[name]) for reply in replies
            )
    val_loss = _judge(context, training, record, round_, weights, replies)
    for reply in replies:
        record.took_part.setdefault(reply.site, []).append(round_)
    for site in refused:
        record.missed.setdefault(site, []).append(round_)
    keep = not record.note
    record.round = round_
    if keep:
        record.best_round = _best_round(training, record, round_)
    checkpoint.save(record, weights, rule.state)
    context.tracker.emit(
        "round",
        training=training.key,
        stage=training.stage,
        round=round_,
        rounds=training.settings.rounds,
        loss=loss,
        val_loss=val_loss,
        sites=[reply.site for reply in replies],
        refused=refused,
        updates={site: asdict(update) for site, update in found.items()},
        seconds=round(time.monotonic() - started, 3),
    )
    return weights, rule.state


def weight_of(context: ServerContext, reply: Reply) -> float:
    """A reply's weight in the mean: its images, its patients, or 1."""
    match context.study.federation.weighting:
        case "images":
            return float(reply.metrics["examples"])
        case "patients":
            return float(reply.metrics["patients"])
        case "equal":
            return 1.0


def check_quorum(
    context: ServerContext,
    training: Training,
    round_: int,
    sites: Sequence[str],
    replies: Sequence[Reply],
    refused: dict[str, str],
) -> None:
    """Enough replies to go on?

    Raises:
        StudyStopped: Naming each site that is missing and why.
    """
    enough = needed(context, training, sites)
    if len(replies) < enough:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in refused.items())
        raise StudyStopped(
            f"{training.key}, round {round_}: {len(replies)} of {len(sites)} "
            f"sites replied, {enough} are needed ({reasons})"
        )


def needed(context: ServerContext, training: Training, sites: Sequence[str]) -> int:
    """How many of a training's sites have to reply in a round."""
    return least(training.settings.quorum or context.study.federation.quorum, len(sites))


def participants(context: ServerContext, training: Training) -> tuple[str, ...]:
    """The sites that train now: of those on selected images, the ones with two of them at least.

    Where outlines are trained on, it is two with an outline: a site without any is no reason for
    the others to stop. On reconstructions those train that have made them.

    Raises:
        StudyStopped: If no site has, or all of them were dropped.
    """
    here = enrol.present(context, training.participants)
    if training.stage == "sphere" and context.plan.reconstructing:
        here = reconstruct.redrawn(context, here)
    if not here:
        raise StudyStopped(
            f"{training.key}: every site that trains here was dropped "
            f"({', '.join(training.participants)}); {enrol.BACK}"
        )
    if not training.selection:
        return here
    outlines = training.stage == "finetune_selected"
    what = "outlined" if outlines else "annotated"
    counts = annotate.annotated(context, training.selection, training.budget, what=what)
    sites = tuple(site for site in here if counts.get(site, 0) >= PAIR)
    if not sites:
        raise StudyStopped(
            f"{training.key}: no site has {PAIR} {what} images of this selection; "
            + ("outline some of them" if outlines else "a larger budget is needed")
        )
    return sites


def check_spread(training: Training, round_: int, replies: Sequence[Reply]) -> None:
    """The collapse monitor of `sphere`: embeddings that are all alike can choose nothing.

    Raises:
        StudyStopped: Naming the site, the figure and its bound.
    """
    settings = training.settings
    if not isinstance(settings, Sphere):
        return
    for reply in replies:
        for name, bound in (
            ("mean_angle", settings.min_angle), ("effective_rank", settings.min_rank),
        ):  # fmt: skip
            value = float(reply.metrics[name])
            if value < bound:
                raise StudyStopped(
                    f"{training.key}, round {round_}: the embeddings of {reply.site} have "
                    f"collapsed: {name} {value:.4g} is below sphere.min_"
                    f"{name.rpartition('_')[2]} = {bound:g}; try a lower sphere.learning_rate, "
                    "fewer epochs, or a higher sphere.ema_decay"
                )


def _judge(
    context: ServerContext,
    training: Training,
    record: Record,
    round_: int,
    weights: State,
    replies: Sequence[Reply],
) -> float | None:
    """Source-validation DiceBCE of the round's weights, and whether adapt has to stop."""
    if isinstance(training.settings, Adapt):
        loss = _validate(context, training, weights, round_, record)
        start = record.val_losses[0]
        record.val_losses.append(loss)
        if loss > start + training.settings.bound:
            record.note = (
                f"adapt stopped after round {round_}: source-validation DiceBCE rose from "
                f"{start:.4f} to {loss:.4f}, more than the bound of {training.settings.bound:g}"
            )
        return loss
    if "val_loss" not in replies[0].metrics:
        return None
    # One site's reply passes the mean unchanged, so what it measured holds for the round.
    loss = (
        float(replies[0].metrics["val_loss"])
        if len(replies) == 1 and context.study.federation.aggregation in ("mean", "fedprox")
        else _validate(context, training, weights, round_, record)
    )
    record.val_losses.append(loss)
    return loss


def _validate(
    context: ServerContext, training: Training, weights: State, round_: int, record: Record
) -> float:
    """Ask the labelled sites what the weights are worth, weighted by their validation images."""
    sites = enrol.present(
        context, context.study.sources if training.stage == "adapt" else training.participants
    )
    question = Question.of(
        context.study, context.plan, "evaluate", training.stage, training.key, round_=round_,
        weights=weights, spare=len(sites) - needed(context, training, sites),
    )  # fmt: skip
    replies = []
    refused = {}
    for answer in enrol.ask(context, question, sites):
        record.count(answer.site, answer.bytes_down, getattr(answer, "bytes_up", 0))
        if isinstance(answer, Refusal):
            refused[answer.site] = answer.reason
        else:
            replies.append(answer)
    if not replies:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in refused.items())
        raise StudyStopped(
            f"{training.key}, validation of round {round_}: {reasons or 'every site was dropped'}"
        )
    images = sum(int(reply.metrics["val_images"]) for reply in replies)
    total = sum(
        float(reply.metrics["val_loss"]) * int(reply.metrics["val_images"]) for reply in replies
    )
    return total / images


def _best_round(training: Training, record: Record, round_: int) -> int:
    """The round whose weights are handed on: the last, or where labels judge, the best."""
    if not record.val_losses or training.stage == "adapt":
        return round_
    return 1 + min(range(len(record.val_losses)), key=lambda i: record.val_losses[i])


def _mean(context: ServerContext, replies: Sequence[Reply], name: str) -> float:
    weights = [weight_of(context, reply) for reply in replies]
    total = sum(w * float(r.metrics[name]) for w, r in zip(weights, replies, strict=True))
    return total / sum(weights)


def _without_weights(reply: Reply) -> Reply:
    return Reply(reply.site, {}, reply.metrics, reply.bytes_down, reply.bytes_up, reply.seconds)


def _tell(context: ServerContext, training: Training, round_: int, reply: Reply) -> None:
    context.tracker.emit(
        "reply",
        training=training.key,
        stage=training.stage,
        round=round_,
        rounds=training.settings.rounds,
        site=reply.site,
        loss=float(reply.metrics["loss"]),
        examples=int(reply.metrics["examples"]),
        bytes_down=reply.bytes_down,
        bytes_up=reply.bytes_up,
        seconds=round(reply.seconds, 3),
        metrics=dict(reply.metrics),
    )
