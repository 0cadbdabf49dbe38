# SPDX-License-Identifier: Apache-2.0
"""NF4 and its relatives for Python: quantize, convert, run and judge language models on the CPU.

Arrays: anything with the buffer protocol (numpy, memoryview, bytes, mmap) or DLPack on the CPU (torch), without a copy
where memory is contiguous. bfloat16, which numpy does not have, goes out as uint16, the bits of its values, and comes in
from torch or ml_dtypes, or as uint16 where it is said. Options are keyword-only; `threads=0` means `threads()`.
"""
from __future__ import annotations

from ._errors import (
    AlreadyExistsError,
    CancelledError,
    Error,
    InternalError,
    InvalidArgumentError,
    IoError,
    MalformedFileError,
    NotFiniteError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from ._checkpoint import Checkpoint, TensorInfo, resolve_model_path, save_tensors
from ._codebook import (
    NORMAL_FLOAT_OFFSET,
    Codebook,
    CodebookErrors,
    code_frequencies,
    codebook_errors,
    codebook_from_levels,
    codebook_is_fitted,
    codebook_names,
    codebook_summary,
    dynamic_codebook,
    expected_block_maximum,
    generalised_offset,
    load_codebook,
    make_codebook,
    make_normal_float,
    normal_quantile,
)
from ._convert import (
    ConvertResult,
    Finding,
    QuantizationPlan,
    TensorError,
    TensorPlan,
    check_checkpoint,
    compare_checkpoints,
    dequantize_checkpoint,
    plan_memory,
    plan_quantization,
    quantize_checkpoint,
    write_folder,
    write_gguf,
)
from ._control import Control, Progress, ProgressFunction, processor, set_threads, target, threads, version
from ._evaluate import (
    DivergenceResult,
    Format,
    PerplexityResult,
    TaskResult,
    analyze_weights,
    default_formats,
    divergence,
    evaluate_task,
    format_list,
    make_format,
    measure_machine,
    perplexity,
    task_names,
)
from ._generation import Generation, GenerationResult, SamplerOptions, Token, TokenProbability
from ._linear import PackedMatrix, linear, linear_transposed
from ._model import (
    Model,
    ModelMemory,
    Sampler,
    Session,
    forward_batch,
    log_probability,
    most_likely,
    synthetic_model,
)
from ._quantize import (
    NestedScales,
    QuantizedTensor,
    convert_elements,
    dequantize_blockwise,
    dequantize_scales,
    quantize_blockwise,
    quantize_scales,
)
from ._text import ChatTemplate, Tokenizer
from ._types import (
    Array,
    DType,
    FinishReason,
    HeadFormat,
    KvCacheType,
    Message,
    Path,
    PerplexityProtocol,
    Precision,
    ScaleMethod,
    SupportsDLPack,
    Tokens,
)

__version__: str = version()
