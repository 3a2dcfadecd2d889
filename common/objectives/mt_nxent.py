"""MT-NXent: contrast two views of each image, but not against neighbouring frames.

P1 3.2.2. Neighbouring frames of a sweep show nearly the same anatomy; pushing them apart teaches
nothing good. A pair of the 2B x 2B similarity matrix is masked if it is the diagonal, or both
images are of one video and less than ``min_frame_gap`` frames apart; the positive never is.
``min_frame_gap=0`` masks the diagonal only: that is SimCLR's NT-Xent. IVPP makes the opposite bet
(neighbours are positives); ``positives="near_frames"`` selects it.

Shape legend: B images, each in two views (row k and row B + k), D feature width, K = 2B views.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Gap",
    "Positives",
    "anchors_without_negatives",
    "content_similarity",
    "mt_nxent",
    "pairs_masked",
]

Positives = Literal["views", "near_frames"]
Gap = Literal["frames", "content"]

CONTENT_SIDE_PX = 32
NO_VIDEO = -1


def _apart(video_B: Tensor, frame_B: Tensor) -> tuple[Tensor, Tensor]:
    """Which images share a video (B, B), and how many frames apart they are (B, B)."""
    same = (video_B[:, None] == video_B[None, :]) & (video_B != NO_VIDEO)[:, None]
    return same, (frame_B[:, None] - frame_B[None, :]).abs()


def _too_near(
    video_B: Tensor, frame_B: Tensor, min_frame_gap: int, gap: Gap, similar_BB: Tensor | None
) -> Tensor:
    """Pairs of different images that must not be negatives, (B, B) bool, symmetric."""
    if gap == "content":
        if similar_BB is None:
            raise ValueError("gap='content' needs the matrix of similar images")
        near = (similar_BB | similar_BB.T).to(video_B.device)
    else:
        same, distance = _apart(video_B, frame_B)
        near = same & (distance < min_frame_gap)
    own = torch.eye(len(video_B), dtype=torch.bool, device=near.device)
    return near & ~own


def _positives(
    video_B: Tensor, frame_B: Tensor, positives: Positives, near_frames: int
) -> tuple[Tensor, Tensor]:
    """Positive pairs and the diagonal, both (K, K) bool."""
    B = len(video_B)
    itself = torch.eye(2 * B, dtype=torch.bool, device=video_B.device)
    if positives == "near_frames":
        same, distance = _apart(video_B, frame_B)
        near = same & (distance <= near_frames)
        near |= torch.eye(B, dtype=torch.bool, device=near.device)
        return near.repeat(2, 2) & ~itself, itself
    return itself.roll(B, dims=0), itself


def _negatives(near_BB: Tensor, positive_KK: Tensor, itself_KK: Tensor) -> Tensor:
    return ~(near_BB.repeat(2, 2) | positive_KK | itself_KK)


def mt_nxent(
    z_a: Tensor,
    z_b: Tensor,
    video: Tensor,
    frame: Tensor,
    *,
    min_frame_gap: int,
    temperature: float,
    positives: Positives = "views",
    near_frames: int = 5,
    gap: Gap = "frames",
    similar: Tensor | None = None,
) -> Tensor:
    """The contrastive branch's loss (P1 3.2.2, the equations from s_kl to L).

    Computed in float32 or wider whatever the features' dtype, autocast or not: in bfloat16 the
    gradient is 7 % off. Masked similarities are minus infinity itself, which every dtype has.

    Args:
        z_a: (B, D) projections of the first views; L2-normalised here.
        z_b: (B, D) projections of the second views, row for row.
        video: (B,) int, the image's video; -1 = none, masks nothing but itself.
        frame: (B,) int, the place in the video.
        min_frame_gap: Frames of one video closer than this (strictly) are not negatives. 0 is
            SimCLR; the paper's best is 15 (Table 6).
        temperature: tau > 0; the paper's best is .5 (Table 5).
        positives: ``"views"``, the other view of the same image, or ``"near_frames"``, also both
            views of frames at most ``near_frames`` apart; the loss is then the mean over an
            anchor's positives, and they are in its denominator.
        near_frames: See above.
        gap: ``"frames"``, or ``"content"``: mask the pairs in ``similar`` in place of counting
            frames.
        similar: (B, B) bool from :func:`content_similarity`.

    Returns:
        A scalar >= 0: the mean over all 2B anchors. An anchor whose negatives are all masked adds
        0 and no gradient (count them with :func:`anchors_without_negatives`).
    """
    video, frame = video.to(z_a.device), frame.to(z_a.device)
    near_BB = _too_near(video, frame, min_frame_gap, gap, similar)
    positive_KK, itself_KK = _positives(video, frame, positives, near_frames)
    negative_KK = _negatives(near_BB, positive_KK, itself_KK)
    wide = torch.promote_types(z_a.dtype, torch.float32)
    with torch.autocast(z_a.device.type, enabled=False):
        z_KD = F.normalize(torch.cat((z_a, z_b)).to(wide), dim=1, eps=1e-8)
        s_KK = z_KD @ z_KD.T / temperature
        s_KK = s_KK.masked_fill(~(negative_KK | positive_KK), float("-inf"))
        denominator_K = s_KK.logsumexp(dim=1)
        zero = s_KK.new_zeros(())
        s_positive_K = torch.where(positive_KK, s_KK, zero).sum(dim=1) / positive_KK.sum(dim=1)
        loss_K = torch.where(negative_KK.any(dim=1), denominator_K - s_positive_K, zero)
        return loss_K.mean()


def anchors_without_negatives(
    video: Tensor,
    frame: Tensor,
    *,
    min_frame_gap: int,
    positives: Positives = "views",
    near_frames: int = 5,
    gap: Gap = "frames",
    similar: Tensor | None = None,
) -> int:
    """Of the 2B anchors, those that :func:`mt_nxent` leaves without any negative.

    Args:
        video: As for :func:`mt_nxent`, like all others.
        frame: (B,) int.
        min_frame_gap: Frames.
        positives: Which pairs are positive.
        near_frames: Frames.
        gap: How too-similar pairs are told.
        similar: (B, B) bool.
    """
    near_BB = _too_near(video, frame, min_frame_gap, gap, similar)
    negative_KK = _negatives(near_BB, *_positives(video, frame, positives, near_frames))
    return int((~negative_KK.any(dim=1)).sum())


def pairs_masked(
    video: Tensor,
    frame: Tensor,
    *,
    min_frame_gap: int,
    gap: Gap = "frames",
    similar: Tensor | None = None,
) -> tuple[int, int]:
    """How many pairs of different images of a batch are masked.

    0 of them means that MT-NXent is SimCLR on this data, which a report has to say.

    Args:
        video: (B,) int, -1 = none.
        frame: (B,) int.
        min_frame_gap: Frames.
        gap: As for :func:`mt_nxent`.
        similar: (B, B) bool, with ``gap="content"``.

    Returns:
        Masked pairs and all pairs, B (B - 1) / 2. (Each stands for 8 cells of the 2B x 2B matrix.)
    """
    B = len(video)
    near_BB = _too_near(video, frame, min_frame_gap, gap, similar)
    return int(near_BB.sum()) // 2, B * (B - 1) // 2


def content_similarity(images_B1HW: Tensor, *, threshold: float = 0.95) -> Tensor:
    """Which images look alike: normalised cross-correlation at 32 px above a threshold.

    P1 names its fixed frame gap as a limitation, since sweeps differ in speed; this asks the
    images. Give the images before augmentation.

    Args:
        images_B1HW: Grey images in [0, 1].
        threshold: In [-1, 1].

    Returns:
        (B, B) bool, symmetric, diagonal False. An image without any contrast is like no other.
    """
    size = (CONTENT_SIDE_PX, CONTENT_SIDE_PX)
    small = F.interpolate(
        images_B1HW.float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    flat = small.flatten(1)
    unit = F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1, eps=1e-6)
    own = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    return (unit @ unit.T > threshold) & ~own
