"""`docs/README.md` of a bundle: the model card, with the front matter that model hubs read."""

from collections.abc import Mapping, Sequence

from common.bundle.ensemble import EnsembleConfig
from common.config.study import Study
from common.formats import Interval, Results, SiteResult, Summary
from server.bundle.metadata import INTENDED_USE, cell_result

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
    classifies = config.task == "classification"
    written, aim = (
        ("", "classes with their probabilities")
        if classifies
        else ("masks, ", "masks in each image's own geometry")
    )
    parts = [
        _front(config, license_name),
        f"# {config.study}: {config.arm}",
        f"{_what(config)} Hospitals trained together: weights travelled, images did not.",
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
        f"sonofed predict BUNDLE IMAGES --out OUT            # {written}predictions.csv\n"
        "python -m monai.bundle run --config_file BUNDLE/configs/inference.json \\\n"
        "    --dataset_dir IMAGES --output_dir OUT          # MONAI's own runner\n"
        "```",
        "`predict` takes pictures, DICOM ultrasound and video, checks the digest of every file of "
        f"the bundle first, and writes {aim}. Both commands need "
        f"sonofed installed{_own(config)}; `models/model.onnx` needs nothing of it.",
        "## Where it comes from",
        _sites(study, counts),
        "`configs/federation.json` has the rounds and the digests of study, code and weights.",
        "## Measured",
        _classified(config, results) if classifies else _measured(config.arm, results),
        "## When it should not be believed",
        _limits(sites_referenced, "classification" if classifies else "mask"),
    ]
    return "\n\n".join(parts) + "\n"


def _front(config: EnsembleConfig, license_name: str) -> str:
    classifies = config.task == "classification"
    tags = ["medical", "ultrasound", config.task, "federated-learning", "monai"]
    pipeline = "image-classification" if classifies else "image-segmentation"
    metrics = ("accuracy", "roc_auc") if classifies else ("dice",)
    lines = ["---", f"license: {license_name}", "library_name: monai",
             f"pipeline_tag: {pipeline}", "tags:", *(f"- {tag}" for tag in tags),
             "metrics:", *(f"- {name}" for name in metrics),
             f"model_name: {config.study}-{config.arm}", "---"]  # fmt: skip
    return "\n".join(lines)


def _what(config: EnsembleConfig) -> str:
    names, side, many = ", ".join(config.class_names), config.model.image_size, len(config.members)
    if config.task == "classification":
        networks = ", ".join(f"`{member.architecture}`" for member in config.members)
        mean = "the mean of their probabilities" if many > 1 else "one network"
        taught = (
            "by the sources' labels alone"
            if config.budget == 0
            else f"on the {100 * config.budget:g} % of the targets' images that arm {config.arm} "
            "had annotated"
        )
        return (
            f"Tells {names} apart in B-mode ultrasound: {networks} ({mean}) on a square of {side} "
            f"px, trained {taught}."
        )
    return (
        f"Segments {names} in B-mode ultrasound. {many} {'branch' if many == 1 else 'branches'} "
        f"on a square of {side} px, fused by `{config.infusion.confidence}` confidence; "
        f"foreground from probability {config.infusion.threshold:g} up."
    )


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


def _classified(config: EnsembleConfig, results: Results | None) -> str:
    cell = cell_result(config, results)
    if cell is None:
        if len(config.members) > 1:
            return "The mean of these classifiers was not evaluated; each of them by itself was."
        return "Not evaluated: the run has no results of it."
    lines = ["| site | metric | mean | 95 % |", "|---|---|---|---|"]
    for site, metrics in cell.sites.items():
        lines += [f"| {site} | {name} | {_number(found)} |" for name, found in metrics.items()]
    lines += [f"| all | {name} | {_number(found)} |" for name, found in cell.pooled.items()]
    note = f"Seed {results.seed if results else 0} alone, on the targets' test images."
    return "\n".join(lines) + "\n\n" + note


def _number(found: Summary | Interval) -> str:
    if found.ci_low is None or found.ci_high is None:
        return f"{found.mean:.3f} | -"
    return f"{found.mean:.3f} | {found.ci_low:.3f} to {found.ci_high:.3f}"


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
    unit = f"{summary.n_images} of {summary.n_patients} {site.unit}s"
    return f"| {name} ({site.role}) | {unit} | {metric} | {_number(summary)} |"


def _limits(sites: Sequence[str], said: str) -> str:
    if not sites:
        return (
            "The bundle carries no reference statistics, so `predict` cannot tell a frame that "
            "looks like nothing in training. Look at the frames."
        )
    return (
        "`predict` flags a frame whose grey levels or encoder features lie beyond the range of "
        f"every site of the study ({', '.join(sites)}), and a {said} that is less sure than "
        "theirs. A frame that is not flagged is not thereby right."
    )
