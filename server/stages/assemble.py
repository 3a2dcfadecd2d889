"""assemble: the members and the infusion head, as files with digests, in `RUN/ensemble/`."""

from common.plan import UNTRAINED, split_member
from common.wire.payload import digest_of
from server.checkpoint import write_json, write_tensors
from server.context import ServerContext
from server.stages.evaluate import member_weights


def run(context: ServerContext) -> None:
    """Write the leading arm: one safetensors a member, and `config.json` that joins them.

    The leading arm is the first ensemble of the study, or its first arm where it has none. Where
    representations are scored, the file holds the encoder alone.
    """
    plan, study = context.plan, context.study
    folder = context.run.folder / "ensemble"
    name = next((arm for arm in plan.arms if arm.startswith("ensemble")), next(iter(plan.arms)))
    arm = plan.arms[name]
    members: dict[str, dict[str, object]] = {}
    for member in dict.fromkeys(m for of_site in arm.members.values() for m in of_site):
        weights = member_weights(context, member)
        file = f"{member.replace('/', '.').replace('#', '-')}.safetensors"
        write_tensors(folder / file, weights)
        training = plan.trainings.get(split_member(member)[0])
        members[member] = {
            "file": file,
            "sha256": digest_of(weights),
            "stage": training.stage if training else UNTRAINED,
            # Whoever uses it recomputes BatchNorm's statistics on images of the own device first.
            "adabn": bool(training and getattr(training.settings, "adabn", False)),
        }
    config = {
        "study": study.name,
        "digest": study.digest,
        "arm": name,
        "members": members,
        "sites": {site: list(of_site) for site, of_site in arm.members.items()},
        "infusion": arm.infusion.model_dump(mode="json"),
        "model": study.model.model_copy(update={"weights": ""}).model_dump(mode="json"),
        "classes": list(study.classes),
        "synthetic": study.synthetic,
    }
    write_json(folder / "config.json", config)
    context.tracker.emit("assemble", arm=name, members=list(members))
