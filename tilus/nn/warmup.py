"""`warmup`: make every kernel of a model ready before its first request.

report = warmup(model.cuda(), tokens=(1, 16, 64))
print(report)           # 12 kernels: 12 compiled, 0 found in the cache; 9.8 s
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tilus.ops.operands import ACTIVATIONS
from tilus.ops.warmup import ALL_TOKENS, WarmupReport
from tilus.ops.warmup import warmup as warm_weights


def warmup(
    model: torch.nn.Module,
    tokens: Sequence[int] = ALL_TOKENS,
    dtype: torch.dtype | None = None,
    *,
    progress: bool = True,
) -> WarmupReport:
    """Make ready what the quantised layers of `model` run; layers of equal shape share kernels.

    Args:
        tokens: numbers of rows that the layers will be given, as of `tilus.ops.warmup`: for a
            batch of sequences its extents multiplied.
        dtype: of activations; if None, that of the first parameter of the model that is float16
            or bfloat16, or else float16.
        progress: whether to show a progress bar, if standard error is a terminal.

    Raises:
        TilusError: no layer is quantised, or a CUDA graph is being captured.

    >>> import tilus
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)).half()
    >>> report = tilus.nn.quantize_model(model, tilus.uint4b, group_size=64, progress=False)
    >>> warmup(model, tokens=(1,), progress=False).kernels
    1
    """
    return warm_weights(model, tokens, dtype or _activations(model), progress=progress)


def _activations(model: torch.nn.Module) -> torch.dtype:
    dtypes = (parameter.dtype for parameter in model.parameters())
    return next((dtype for dtype in dtypes if dtype in ACTIVATIONS), torch.float16)
