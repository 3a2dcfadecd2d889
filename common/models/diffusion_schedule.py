"""The noise schedule and the samplers of the diffusion model: diffusers' own, set from a study.

Steps are spaced "trailing": the first denoising step starts at the noisiest timestep, so that what
is drawn from pure noise takes the source's mean grey level and not the noise's.
"""

from typing import Any

from common.config.selection import Diffusion, Reconstruct

Scheduler = Any
"""A diffusers scheduler: they share their methods, and no class that has them all."""

STABLE_DIFFUSION: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
}
"""What a frozen U-Net of Stable Diffusion 1.5 was trained with, and so has to be asked with."""


def library() -> Any:
    """diffusers: imported when something of it is needed (it takes seconds); it has no types."""
    import diffusers

    return diffusers


def schedule_of(settings: Diffusion) -> dict[str, Any]:
    """Diffusers' names for a study's noise schedule.

    With preset stable-diffusion it is the frozen U-Net's own: `timesteps`, `betas` and
    `prediction` of the study do not count there.
    """
    if settings.preset == "stable-diffusion":
        return dict(STABLE_DIFFUSION)
    schedule: dict[str, Any] = {
        "num_train_timesteps": settings.timesteps,
        "prediction_type": {"v": "v_prediction", "epsilon": "epsilon"}[settings.prediction],
    }
    if settings.betas == "cosine":
        return {**schedule, "beta_schedule": "squaredcos_cap_v2"}
    # DDPM's .0001 to .02 belong to 1000 steps; fewer steps must destroy as much.
    scale = 1000 / settings.timesteps
    return {
        **schedule,
        "beta_schedule": "linear",
        "beta_start": min(0.5, 0.0001 * scale),
        "beta_end": min(0.999, 0.02 * scale),
    }


def training_noise(settings: Diffusion) -> Scheduler:
    """The DDPM schedule that training images are noised with."""
    return library().DDPMScheduler(**schedule_of(settings))


def sampler_of(settings: Diffusion, reconstruct: Reconstruct) -> Scheduler:
    """A fresh sampler with its timesteps set.

    DDIM without added noise, or DPM-Solver++ of second order. In pixel space the predicted image
    is held to [-1, 1].
    """
    pixels = settings.preset != "stable-diffusion"
    common = {**schedule_of(settings), "timestep_spacing": "trailing"}
    sampler: Scheduler
    if reconstruct.sampler == "ddim":
        sampler = library().DDIMScheduler(
            **common, clip_sample=pixels, clip_sample_range=1.0, set_alpha_to_one=True
        )
    else:
        # `thresholding` up to 1 is plain clipping; -5.1: diffusers' own advice for cosine betas.
        cosine = common["beta_schedule"] == "squaredcos_cap_v2"
        sampler = library().DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", thresholding=pixels, sample_max_value=1.0,
            lambda_min_clipped=-5.1 if cosine else -float("inf"),
        )  # fmt: skip
    sampler.set_timesteps(steps_of(settings, reconstruct))
    return sampler


def inverter_of(settings: Diffusion, reconstruct: Reconstruct) -> Scheduler:
    """DDIM run backwards, from an image to the noise that it comes from."""
    inverter: Scheduler = library().DDIMInverseScheduler(
        **schedule_of(settings), timestep_spacing="trailing", clip_sample=False,
        set_alpha_to_one=True,
    )  # fmt: skip
    inverter.set_timesteps(steps_of(settings, reconstruct))
    return inverter


def steps_of(settings: Diffusion, reconstruct: Reconstruct) -> int:
    """Denoising steps: never more than the noise schedule has."""
    return min(reconstruct.steps, int(schedule_of(settings)["num_train_timesteps"]))
