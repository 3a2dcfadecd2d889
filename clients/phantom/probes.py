"""The synthetic probes: geometry, point spread, dynamic range, noise and finish.

The differences are those between a cart system, a hand-held probe and a curved one: P1's Figure 1
shows blurrier boundaries, lower contrast and more noise on hand-held probes, and no two alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """What one probe and its machine do to the same tissue.

    Attributes:
        device: name written to the manifest.
        footprint_mm: width of the face.
        radius_mm: radius of curvature of a convex face; 0 is a linear face.
        depth_mm: range of the depths operators choose.
        axial_mm: axial standard deviation of the pulse.
        lateral_mm: lateral standard deviation of the beam at its focus.
        spread: growth of the beam away from the focus, mm per mm.
        focus_mm: depth of the focus.
        elevation_mm: slice thickness; speckle is renewed after this much motion.
        looks: number of compounded looks (spatial compounding).
        dynamic_range_db: grey 0 to grey 255.
        gain: grey of average muscle, 0 to 1.
        gain_spread: standard deviation of the gain between patients.
        gamma: exponent of the grey map.
        noise_db: electronic noise relative to average muscle at the face.
        noise_slope_db: growth of that noise per 10 mm (time gain compensation).
        fade_db: loss of signal per 10 mm that the compensation leaves over.
        bone_db: strength of a bone hit at right angles, relative to average muscle.
        bone_angle_deg: incidence at which the bone echo has fallen to 1/e.
        ringing_mm: length of the tail below a strong reflector.
        coherence: share of the smooth mirror part of a bone echo, 0 to 1.
        reverberation_db: strength of the second trip between face and bone.
        shadow_db: what remains of the tissue behind bone.
        clutter_db: haze that side lobes of bone throw into the shadow.
        ringdown_mm: thickness of the bright band at the face.
        blur_px: smoothing of the finished grey, in pixels of the beam grid.
        sharpen: strength of edge enhancement.
        contact_loss: probability that an end of the face does not touch.
        ticks: depth marks burned in beside the image.
    """

    device: str
    footprint_mm: float
    radius_mm: float
    depth_mm: tuple[float, float]
    axial_mm: float
    lateral_mm: float
    spread: float
    focus_mm: float
    elevation_mm: float
    looks: int
    dynamic_range_db: float
    gain: float
    gain_spread: float
    gamma: float
    noise_db: float
    noise_slope_db: float
    fade_db: float
    bone_db: float
    bone_angle_deg: float
    ringing_mm: float
    coherence: float
    reverberation_db: float
    shadow_db: float
    clutter_db: float
    ringdown_mm: float
    blur_px: float
    sharpen: float
    contact_loss: float
    ticks: bool


PROBES: dict[str, Probe] = {
    "linear_hd": Probe(
        device="phantom linear HD", footprint_mm=50, radius_mm=0, depth_mm=(26, 38),
        axial_mm=0.13, lateral_mm=0.20, spread=0.012, focus_mm=15, elevation_mm=0.9, looks=3,
        dynamic_range_db=68, gain=0.36, gain_spread=0.03, gamma=1.0,
        noise_db=-44, noise_slope_db=6, fade_db=1.5,
        bone_db=25, bone_angle_deg=22, ringing_mm=0.25, coherence=0.7,
        reverberation_db=-30, shadow_db=-40, clutter_db=-22, ringdown_mm=0.4,
        blur_px=0.5, sharpen=0.5, contact_loss=0.1, ticks=False,
    ),
    "linear_pocket": Probe(
        device="phantom linear pocket", footprint_mm=36, radius_mm=0, depth_mm=(38, 50),
        axial_mm=0.24, lateral_mm=0.42, spread=0.020, focus_mm=22, elevation_mm=1.6, looks=1,
        dynamic_range_db=46, gain=0.42, gain_spread=0.07, gamma=1.0,
        noise_db=-24, noise_slope_db=5, fade_db=3.5,
        bone_db=20, bone_angle_deg=16, ringing_mm=0.7, coherence=0.35,
        reverberation_db=-15, shadow_db=-26, clutter_db=-12, ringdown_mm=0.8,
        blur_px=0.4, sharpen=0.0, contact_loss=0.4, ticks=True,
    ),
    "convex": Probe(
        device="phantom convex", footprint_mm=34, radius_mm=34, depth_mm=(44, 58),
        axial_mm=0.32, lateral_mm=0.60, spread=0.012, focus_mm=35, elevation_mm=2.2, looks=1,
        dynamic_range_db=58, gain=0.40, gain_spread=0.05, gamma=1.15,
        noise_db=-34, noise_slope_db=5, fade_db=-1.0,
        bone_db=19, bone_angle_deg=13, ringing_mm=0.9, coherence=0.5,
        reverberation_db=-18, shadow_db=-28, clutter_db=-15, ringdown_mm=1.1,
        blur_px=1.3, sharpen=0.0, contact_loss=0.3, ticks=False,
    ),
}  # fmt: skip
