"""`docs/README.md` of a bundle: the model card, with the front matter that model hubs read."""

from collections.abc import Mapping, Sequence

from common.bundle.ensemble import EnsembleConfig
from common.config.study import Study
from common.formats import Results, SiteResult, Summary
from server.bundle.metadata import INTENDED_USE

CALIBRATION = {
    "none": "",
    "advised": (
        "The branches were adapted with AdaBN: their BatchNorm statistics are the mean over the "
        "study's devices and fit none of them exactly. `sonofed predict --calibrate FOLDER` "
        "recomputes them on images of your own device (no masks needed), as the study did."
    ),
    "required": (
        "The study kept BatchNorm at the sites (FedBN), so the bundle holds no statistics that "
        "fit any device: `sonofed predict` needs `--calibrate FOLDER`, images of your own device "
        "(no masks needed). The ONNX file and MONAI's runner use the untrained statistics: do not "
        "use them with this bundle."
    ),
}


def card(
    config: EnsembleConfig,
    study: Study,
    results: Results | None,
    counts: Mapping[str, Mapping[str, float]],
    *,
    license_name: str,
    sites_referenced: Sequence[str],
) -> str:
    """The card's Markdown.

    Args:
        config: The ensemble.
        study: The study it comes from.
        results: The run's results, where it has any.
        counts: Site to what it said of itself.
        license_name: For the front matter.
        sites_referenced: Sites whose reference statistics the bundle carries.
    """
    names = ", ".join(config.class_names)
    parts = [
        _front(config, license_name),
        f"# {config.study}: {config.arm}",
        f"Segments {names} in B-mode ultrasound. {len(config.members)} "
        f"{'branch' if len(config.members) == 1 else 'branches'} on a square of "
        f"{config.model.image_size} px, fused by `{config.infusion.confidence}` confidence; "
        f"foreground from probability {config.infusion.threshold:g} up. Hospitals trained them "
        "together: weights travelled, images did not.",
        f"**{INTENDED_USE}**",
    ]
    if config.synthetic:
        parts.append(
            "**Trained on simulated images, wholly or in part.** It shows that the parts work "
            "together; it knows nothing about patients."
        )
    if CALIBRATION[config.calibration]:
        parts.append(CALIBRATION[config.calibration])
    parts += [
        "## Use",
        "```sh\n"
        "sonofed predict BUNDLE IMAGES --out OUT            # masks, predictions.csv\n"
        "python -m monai.bundle run --config_file BUNDLE/configs/inference.json \\\n"
        "    --dataset_dir IMAGES --output_dir OUT          # MONAI's own runner\n"
        "```",
        "`predict` takes pictures, DICOM ultrasound and video, checks the digest of every file of "
        "the bundle first, and writes masks in each image's own geometry. Both commands need "
        f"sonofed installed{_own(config)}; `models/model.onnx` needs nothing of it.",
        "## Where it comes from",
        _sites(study, counts),
        "`configs/federation.json` has the rounds and the digests of study, code and weights.",
        "## Measured",
        _measured(config.arm, results),
        "## When it should not be believed",
        _limits(sites_referenced),
    ]
    return "\n\n".join(parts) + "\n"


def _front(config: EnsembleConfig, license_name: str) -> str:
    tags = ["medical", "ultrasound", "segmentation", "federated-learning", "monai"]
    lines = ["---", f"license: {license_name}", "library_name: monai",
             "pipeline_tag: image-segmentation", "tags:", *(f"- {tag}" for tag in tags),
             "metrics:", "- dice", f"model_name: {config.study}-{config.arm}", "---"]  # fmt: skip
    return "\n".join(lines)


def _own(config: EnsembleConfig) -> str:
    if not config.own_parts:
        return ""
    return f", and the code of {', '.join(f'`{part}`' for part in config.own_parts)}"


def _sites(study: Study, counts: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| site | role | images | patients |", "|---|---|---|---|"]
    for name, site in study.sites.items():
        known = counts.get(name, {})
        images, patients = (int(known.get(key, 0)) or "-" for key in ("images", "patients"))
        lines.append(f"| {name} | {site.role} | {images} | {patients} |")
    return "\n".join(lines)


def _measured(arm: str, results: Results | None) -> str:
    if results is None:
        return "Not evaluated: the run has no `results.json`."
    if arm not in results.arms:
        return f"The run did not evaluate the arm {arm}."
    lines = ["| site | images | metric | mean | 95 % |", "|---|---|---|---|---|"]
    for name, site in results.arms[arm].sites.items():
        lines += [_line(name, site, metric, summary) for metric, summary in site.metrics.items()]
    note = f"Seed {results.seed} alone; patients (or what stands for them) are the unit."
    return "\n".join(lines) + "\n\n" + note


def _line(name: str, site: SiteResult, metric: str, summary: Summary) -> str:
    interval = (
        "-"
        if summary.ci_low is None or summary.ci_high is None
        else f"{summary.ci_low:.3f} to {summary.ci_high:.3f}"
    )
    unit = f"{summary.n_images} of {summary.n_patients} {site.unit}s"
    return f"| {name} ({site.role}) | {unit} | {metric} | {summary.mean:.3f} | {interval} |"


def _limits(sites: Sequence[str]) -> str:
    if not sites:
        return (
            "The bundle carries no reference statistics, so `predict` cannot tell a frame that "
            "looks like nothing in training. Look at the masks."
        )
    return (
        "`predict` flags a frame whose grey levels or encoder features lie beyond the range of "
        f"every site of the study ({', '.join(sites)}), and a mask that is less sure than theirs. "
        "A frame that is not flagged is not thereby right."
    )
