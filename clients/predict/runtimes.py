"""Who runs the network: torch, or ONNX Runtime on the bundle's own file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from clients.predict.precision import Precision, in_precision
from clients.training import adapt_batch_norm
from common.bundle import files
from common.bundle.ensemble import Network, load_ensemble
from common.errors import InputError

RuntimeName = Literal["torch", "onnx"]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)
CALIBRATION_BATCH = 16


class Answer(NamedTuple):
    """What the ensemble says of one frame; S = the model's side, M members, C classes, D features.

    Of classifiers the first two have no pixels: (C,) and (M, C).

    Attributes:
        pred_CSS: Fused probabilities.
        branches_MCSS: Each member's.
        features_D: Encoder features of all members.
    """

    pred_CSS: NDArray[np.float32]
    branches_MCSS: NDArray[np.float32]
    features_D: NDArray[np.float32]


class Runtime(Protocol):
    """Segments one square at a time: a batch gains nothing on a CPU."""

    def __call__(self, square_SS: NDArray[np.uint8]) -> Answer:
        """What the ensemble says of a grey square."""


class TorchRuntime:
    """PyTorch, in the precision asked for.

    Args:
        ensemble: With its weights; BatchNorm is recomputed in place where `squares` are given.
        precision: As `clients.predict.precision`.
        device: Where to run.
        squares: Images of the own device, (S, S) uint8: their statistics replace BatchNorm's.
    """

    def __init__(
        self,
        ensemble: Network,
        precision: Precision,
        device: str = "cpu",
        squares: list[NDArray[np.uint8]] | None = None,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {device}: there is no such device here")
        if squares:
            for member in ensemble.members:
                adapt_batch_norm(member, _batches(squares))
        self._ensemble = in_precision(ensemble, precision, device)
        self._device = device

    def __call__(self, square_SS: NDArray[np.uint8]) -> Answer:
        """See `Runtime`."""
        with torch.inference_mode():
            said = self._ensemble.say(_unit(square_SS[None]).to(self._device))
        return Answer(*(part[0].float().cpu().numpy() for part in said))


class OnnxRuntime:
    """ONNX Runtime on `models/model.onnx`.

    Args:
        bundle: The bundle's folder.
        precision: `fp32`, or `int8`: matrix products with constant weights, by dynamic range.
        threads: Of one operation; 0 leaves it to the library.
    """

    def __init__(self, bundle: Path, precision: Precision, threads: int = 0) -> None:
        import onnxruntime

        model = bundle / files.ONNX
        if not model.is_file():
            raise InputError(f"{model}: is not there; take --runtime torch")
        if precision == "bf16":
            raise InputError("--runtime onnx has fp32 and int8; bf16 is torch's alone")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        content = _quantised(model) if precision == "int8" else model.read_bytes()
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, square_SS: NDArray[np.uint8]) -> Answer:
        """See `Runtime`."""
        image = square_SS[None, None].astype(np.float32) / np.float32(255)
        return Answer(*(part[0] for part in self._session.run(None, {"image": image})))


def make_runtime(
    bundle: Path,
    name: RuntimeName,
    precision: Precision,
    *,
    device: str = "cpu",
    squares: list[NDArray[np.uint8]] | None = None,
) -> Runtime:
    """A runtime over a verified bundle.

    Raises:
        InputError: If it cannot run here or in that precision.
    """
    if name == "torch":
        return TorchRuntime(load_ensemble(bundle), precision, device, squares)
    if squares:
        raise InputError("--calibrate needs --runtime torch: BatchNorm is folded in the ONNX file")
    if not device.startswith("cpu"):
        raise InputError("--runtime onnx runs on the CPU here; take --runtime torch on a GPU")
    return OnnxRuntime(bundle, precision, int(os.environ.get("OMP_NUM_THREADS", "0") or 0))


def _quantised(model: Path) -> bytes:
    """The model with its constant matrix products in int8, made in a folder that goes again."""
    import logging
    import tempfile

    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.preprocess import quant_pre_process

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        shaped, quick = Path(folder) / "shaped.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(model, shaped, skip_symbolic_shape=True)
        quantize_dynamic(
            shaped, quick, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return quick.read_bytes()


def _unit(squares_BSS: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(squares_BSS).unsqueeze(1).float() / 255


def _batches(squares: list[NDArray[np.uint8]]) -> Iterator[torch.Tensor]:
    for start in range(0, len(squares), CALIBRATION_BATCH):
        yield _unit(np.stack(squares[start : start + CALIBRATION_BATCH]))
