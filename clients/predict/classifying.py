"""A bundle that classifies: each frame's class with its probabilities."""

from typing import Any

from clients.predict.job import DISTANCES, PLACE, Job, Outcome, Seen, Settings
from clients.predict.runtimes import Answer, Runtime
from clients.predict.sources import Source
from common.bundle.ensemble import EnsembleConfig
from common.bundle.reference import Reference, class_confidence
from common.errors import InputError


class Classifying(Job):
    """Classes."""

    def __init__(
        self,
        config: EnsembleConfig,
        reference: Reference | None,
        settings: Settings,
        runtime: Runtime,
        outcome: Outcome,
    ) -> None:
        super().__init__(config, reference, settings, runtime, outcome)
        self.columns = (
            *PLACE, "class", *(f"p_{name}" for name in config.class_names), "width", "height",
            "confidence", "flag", *DISTANCES, "note",
        )  # fmt: skip

    def confidence(self, answer: Answer) -> float:
        """1 - H(p) / ln C."""
        return class_confidence(answer.pred_CSS)

    def tell(self, source: Source, seen: Seen, files: Any) -> None:
        """A row; of a frame unlike all training images neither class nor probability."""
        pred_C, names = seen.answer.pred_CSS, self.config.class_names
        said: dict[str, object] = {}
        if not seen.withheld:
            said = {"class": names[int(pred_C.argmax())]}
            said |= {f"p_{name}": float(p) for name, p in zip(names, pred_C, strict=True)}
            said["confidence"] = self.confidence(seen.answer)
        self.add(source, seen, width=seen.shot.width, height=seen.shot.height, **said)


def check_settings(settings: Settings) -> None:
    """What a bundle that draws nothing cannot do.

    Raises:
        InputError: If masks, maps or overlays are asked for.
    """
    asked = {
        "--masks": settings.masks != "png", "--maps": settings.maps,
        "--overlay": bool(settings.overlay),
    }  # fmt: skip
    wrong = [name for name, wanted in asked.items() if wanted]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: the bundle classifies; it draws no mask")
