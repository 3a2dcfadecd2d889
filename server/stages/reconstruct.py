"""reconstruct: the source's style comes up, diffusion weights go down, summary numbers come back.

What a site has answered is kept, so that a kill asks no site twice; a site itself goes on with the
image at which it stood.
"""

from collections.abc import Sequence
from typing import Any

import torch

from common.formats import ReconstructionResult
from common.models.branches import State
from common.reconstruction import pooled
from server.checkpoint import Traffic, read_tensors, write_tensors
from server.context import ServerContext
from server.stages import enrol
from server.steps import ask_sites

STATE = "reconstruct"
CLASSIFIER = "classifier."
FEATURES, GREY, SIMILARITY = "style.features", "style.grey", "style.similarity"


def run(context: ServerContext) -> None:
    """Run what is left of the three steps.

    A site that cannot be reached when a step begins is left out, if the others are a quorum: it
    then trains on no reconstructions, and chooses nothing.

    Raises:
        StudyStopped: If a site refuses, naming it and why.
    """
    state = _state(context)
    _style(context, state)
    _redraw(context, state)
    _compare(context, state)


def results(context: ServerContext) -> dict[str, ReconstructionResult]:
    """Each site's numbers and histograms (P2 Tables 1 and 4, Fig. 1); `run` done.

    `domain_bias_before` and `_after` are the differences of the mean similarity to the source's
    own (P2 Table 1). A source's histograms are those of its training images.
    """
    state = _state(context)
    styles = state["style"].values()
    _, own, deviation = pooled(
        (s["images"], s["similarity_mean"], s["similarity_std"]) for s in styles
    )
    found = {}
    for site in context.study.sites:
        compared = state["compare"].get(site)
        if compared is None:
            continue
        metrics = dict(compared["metrics"])
        for when in ("before", "after"):
            metrics[f"domain_bias_{when}"] = abs(metrics[f"similarity_mean_{when}"] - own)
        images = int(metrics.pop("images"))
        histograms = compared
        if site in state["style"]:
            metrics |= {"similarity_mean": own, "similarity_std": deviation}
            histograms = state["style"][site]
        found[site] = ReconstructionResult(
            role=context.study.sites[site].role,
            images=images,
            metrics={name: float(value) for name, value in metrics.items()},
            similarity=histograms["similarity"],
            grey=histograms["grey"],
        )
    return found


def redrawn(context: ServerContext, sites: Sequence[str]) -> tuple[str, ...]:
    """Those of the sites that have redrawn their images, and compared them."""
    state = _state(context)
    return tuple(site for site in sites if site in state["compare"])


def traffic(context: ServerContext) -> Traffic:
    """Bytes of this stage by site."""
    moved: Traffic = _state(context)["traffic"]
    return moved


def _state(context: ServerContext) -> dict[str, Any]:
    found: dict[str, Any] = context.run.read_state(STATE) or {
        "style": {}, "redraw": {}, "compare": {}, "traffic": {},
    }  # fmt: skip
    return found


def _style(context: ServerContext, state: dict[str, Any]) -> None:
    sources = enrol.present(context, context.study.sources)
    left = enrol.here(context, STATE, [s for s in sources if s not in state["style"]], sources)
    # All sites are compared with the same sources.
    if not left or state["compare"]:
        return
    for reply in ask_sites(
        context, "query", STATE, left, traffic=state["traffic"], step="style",
        weights=context.result(_classifier_key(context)),
    ):  # fmt: skip
        # The features first: what the state names exists.
        write_tensors(_file(context, reply.site), {FEATURES: reply.weights[FEATURES]})
        state["style"][reply.site] = {
            **reply.metrics,
            "similarity": {"before": reply.weights[SIMILARITY].tolist()},
            "grey": {"before": reply.weights[GREY].tolist()},
        }
        context.run.write_state(STATE, state)


def _redraw(context: ServerContext, state: dict[str, Any]) -> None:
    sites = enrol.present(context, tuple(context.study.sites))
    left = enrol.here(context, STATE, [s for s in sites if s not in state["redraw"]], sites)
    if not left:
        return
    for reply in ask_sites(
        context, "query", STATE, left, traffic=state["traffic"], step="redraw",
        weights=context.result("source/diffusion"),
    ):  # fmt: skip
        state["redraw"][reply.site] = int(reply.metrics["images"])
        context.run.write_state(STATE, state)


def _compare(context: ServerContext, state: dict[str, Any]) -> None:
    sites = enrol.present(context, tuple(context.study.sites))
    # One that was added since has redrawn nothing; a resumed run asks it.
    redrawn = [s for s in sites if s in state["redraw"] and s not in state["compare"]]
    left = enrol.here(context, STATE, redrawn, sites)
    if not left:
        return
    classifier = context.result(_classifier_key(context))
    weights: State = {f"{CLASSIFIER}{name}": tensor for name, tensor in classifier.items()}
    weights |= _source(context, state)
    for reply in ask_sites(
        context, "query", STATE, left, traffic=state["traffic"], step="compare", weights=weights
    ):
        state["compare"][reply.site] = {
            "metrics": dict(reply.metrics),
            **{
                name: dict(zip(("before", "after"), reply.weights[name].tolist(), strict=True))
                for name in ("similarity", "grey")
            },
        }
        context.run.write_state(STATE, state)


def _source(context: ServerContext, state: dict[str, Any]) -> State:
    """Mean features and grey levels of all sources' training images together."""
    styles = state["style"]
    total = sum(int(style["images"]) for style in styles.values())
    features = sum(
        read_tensors(_file(context, site))[FEATURES].double() * (int(style["images"]) / total)
        for site, style in styles.items()
    )
    grey = sum(torch.tensor(style["grey"]["before"]) for style in styles.values())
    assert isinstance(features, torch.Tensor)
    assert isinstance(grey, torch.Tensor)
    return {FEATURES: features.float(), GREY: grey}


def _classifier_key(context: ServerContext) -> str:
    return f"{context.study.sphere.architecture}/source_classifier"


def _file(context: ServerContext, site: str) -> Any:
    return context.run.folder / "state" / STATE / f"style-{site}.safetensors"
