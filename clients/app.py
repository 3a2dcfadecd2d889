"""The ClientApp: reads an instruction, runs its stage, answers. One handler a stage.

Of what goes wrong only a code leaves the site; the words go into the site's own log.
"""

import common.environment  # noqa: F401, I001 - before Flower

import errno
import logging
import os
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from pydantic import ValidationError

from clients import answers
from clients.data.cache import DiskFullError
from clients.memorisation import ReleaseRefused
from clients.rehearsal import on_phantom
from clients.request import Request, Result
from clients.settings import SiteSettings
from clients.site_list import read_sites
from clients.stages import (
    adapt,
    annotate,
    classify,
    contrastive,
    diffusion,
    enrol,
    evaluate,
    finetune,
    mim,
    reconstruct,
    reference,
    score,
    select,
    source_classifier,
    sphere,
)
from common.config.study import Study
from common.errors import InputError
from common.plan import Plan, make_plan
from common.seeds import deterministic, seed_of
from common.wire.crossing import Crossing, crossing
from common.wire.errors import PayloadError
from common.wire.payload import check_metrics
from common.wire.records import (
    ERROR_DISK,
    ERROR_FAILED,
    ERROR_INPUT,
    ERROR_MEMORY,
    ERROR_REFUSED,
    ERROR_RELEASE,
    INSTRUCTION,
    WEIGHTS,
    Instruction,
    check_records,
    pack,
    unpack_weights,
)

SITES_VARIABLE = "SONOFED_SITES"
"""Environment variable: the file with the settings of all sites of a simulation."""

log = logging.getLogger("sonofed.site")
app = ClientApp()


Handler = Callable[[Message, Context], Message]
Stage = Callable[[Request], Result]


def register(
    category: Callable[[str], Callable[[Handler], Handler]], stage: str, run: Stage
) -> None:
    """Put one handler into the app under the stage's name."""

    def handler(message: Message, context: Context) -> Message:
        return answer(message, context, run)

    category(stage)(handler)


def answer(message: Message, context: Context, run: Stage) -> Message:
    """Check the instruction, run the stage, pack the result; on any trouble, a code."""
    site: SiteSettings | None = None
    try:
        site = settings_of(context)
        request, found = read(message, site)
        study = request.study
        seed = seed_of(study.seed, request.target, site.name, request.round, "global")
        with deterministic(seed, study.compute.threads):
            result = _work(request, message, run)
        try:
            content = pack(
                weights=result.weights,
                specs=found.up if result.weights is not None else (),
                wire_dtype=study.wire.dtype,
                metrics=check_metrics(dict(result.metrics), found.metrics, complete=found.complete),
            )
        except PayloadError as error:
            # A loss that is no number, for one: the instruction was sound, the training was not.
            return _refuse(message, site, ERROR_FAILED, str(error))
        return Message(content, reply_to=message)
    except InputError as error:
        code = ERROR_DISK if _disk_full(error) else ERROR_INPUT
        return _refuse(message, site, code, "\n".join(error.problems))
    except PayloadError as error:
        return _refuse(message, site, ERROR_REFUSED, str(error))
    except ReleaseRefused as error:
        return _refuse(message, site, ERROR_RELEASE, str(error))
    except Exception as error:
        if _out_of_memory(error):
            return _refuse(message, site, ERROR_MEMORY, _memory_advice(message))
        code = ERROR_DISK if _disk_full(error) else ERROR_FAILED
        return _refuse(message, site, code, traceback.format_exc())


def _work(request: Request, message: Message, run: Stage) -> Result:
    """Run the stage, or say again what it has given."""
    trains = message.metadata.message_type.startswith("train.")
    if not (request.site.consortium and trains and answers.may_be_kept(request)):
        return run(request)
    key = answers.fingerprint(request)
    result = answers.recall(request, key)
    if result is None:
        result = run(request)
        try:
            answers.keep(request, key, result)
        except OSError as error:
            # A full disk, say: the answer goes out all the same, and is not kept.
            log.error("%s: the answer cannot be kept: %s", request.site.name, error.strerror)
    return result


def read(message: Message, site: SiteSettings) -> tuple[Request, Crossing]:
    """Turn a message into a request.

    Returns:
        The request, and what may go back.

    Raises:
        PayloadError: If the instruction or its weights are not what the vocabulary says.
    """
    content = message.content
    check_records(content, (INSTRUCTION, WEIGHTS))
    if INSTRUCTION not in content.config_records:
        raise PayloadError("no instruction came")
    instruction = Instruction.from_record(content.config_records[INSTRUCTION])
    category, _, stage = message.metadata.message_type.partition(".")
    if stage != instruction.stage:
        raise PayloadError("instruction: its stage is not the message's")
    try:
        study, plan = study_and_plan(instruction.study)
    except ValidationError as error:
        raise PayloadError(f"instruction: its study is not sound: {error}") from None
    if study.canonical() != instruction.study:
        raise PayloadError("instruction: its study is not written canonically")
    if set(study.own_parts) - set(site.own_parts):
        # Importing what a message names would be running what a message says.
        raise PayloadError("instruction: the study names a part that this site does not allow")
    if instruction.seed != study.seed:
        raise PayloadError("instruction: its seed is not the study's")
    if study.sites.get(site.name) is None or study.sites[site.name].role != site.role:
        raise PayloadError("instruction: this site has another role in the study, or none")
    key = instruction.training
    found = crossing(study, plan, category, stage, key, instruction.step)
    training = plan.trainings.get(key)
    if training is not None and training.stage == stage:
        if not 1 <= instruction.round <= training.settings.rounds:
            raise PayloadError("instruction: no such round")
        if category == "train" and site.name not in training.participants:
            raise PayloadError("instruction: this site takes no part in that training")
    weights = unpack_weights(content, found.down, study.wire.dtype)
    site = site.at_work_on(study.name, study.digest)
    if study.rehearsal:
        site = on_phantom(site, study)
    request = Request(site, study, plan, stage, key, instruction.round, weights, instruction.step)
    return request, found


@lru_cache(maxsize=8)
def study_and_plan(canonical: str) -> tuple[Study, Plan]:
    """The study and its plan, derived once a process."""
    study = Study.model_validate_json(canonical)
    return study, make_plan(study)


def settings_of(context: Context) -> SiteSettings:
    """This site's settings: its own file, or in a simulation its place in the list of sites.

    Raises:
        InputError: If neither is there.
    """
    own = context.node_config.get("settings")
    if own is not None:
        return SiteSettings.model_validate_json(Path(str(own)).read_text(encoding="utf-8"))
    path = os.environ.get(SITES_VARIABLE)
    if not path:
        raise InputError("no site settings: give the node a `settings` file")
    sites = read_sites(Path(path))
    name = context.node_config.get("site")
    if name is not None:
        return next(site for site in sites if site.name == name)
    return sites[int(context.node_config["partition-id"])]


def _refuse(message: Message, site: SiteSettings | None, code: int, words: str) -> Message:
    """Answer with a code; the words stay here, in the site's own log."""
    log.error("%s: %s", site.name if site else "site", words)
    if site is not None:
        try:
            site.folder.mkdir(parents=True, exist_ok=True)
            with (site.folder / "errors.log").open("a", encoding="utf-8") as file:
                file.write(f"{message.metadata.message_type} ({code}): {words}\n")
        except OSError as error:
            # Flower would send the text of whatever escapes from here, path and all.
            log.error("%s: errors.log cannot be written: %s", site.name, error)
    return Message(Error(code=code, reason="see the site's own log"), reply_to=message)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; on the CPU torch says so in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _disk_full(error: BaseException) -> bool:
    """Whether there is no room, or was none when what is told here was found."""
    seen: BaseException | None = error
    while seen is not None:
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(seen, DiskFullError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _memory_advice(message: Message) -> str:
    stage = message.metadata.message_type.partition(".")[2]
    try:
        record = message.content.config_records[INSTRUCTION]
        study, _ = study_and_plan(str(record["study"]))
        now = study.compute.micro_batch or study.compute.batch
        return f"out of memory in stage {stage}; try [compute] micro_batch = {max(2, now // 2)}"
    except (KeyError, ValueError):
        return f"out of memory in stage {stage}; try a smaller [compute] micro_batch"


register(app.query, "enrol", enrol.run)
register(app.train, "mim", mim.run)
register(app.train, "contrastive", contrastive.run)
for _stage in ("finetune_mim", "finetune_contrastive", "lower", "upper"):
    register(app.train, _stage, finetune.run)
    register(app.evaluate, _stage, finetune.check)
register(app.train, "adapt", adapt.run)
register(app.evaluate, "adapt", adapt.check)
register(app.evaluate, "evaluate", evaluate.run)
register(app.query, "reference", reference.run)
register(app.train, "source_classifier", source_classifier.run)
register(app.evaluate, "source_classifier", source_classifier.check)
register(app.train, "diffusion", diffusion.run)
register(app.query, "reconstruct", reconstruct.run)
register(app.train, "sphere", sphere.run)
register(app.query, "score", score.run)
register(app.query, "select", select.run)
register(app.query, "annotate", annotate.run)
register(app.train, "classify", classify.run)
register(app.evaluate, "classify", classify.evaluate)
register(app.train, "finetune_selected", finetune.run)
