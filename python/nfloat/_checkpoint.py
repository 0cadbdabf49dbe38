# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: folders, safetensors and GGUF files, mapped."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._errors import InvalidArgumentError, NotFoundError
from ._quantize import NestedScales, QuantizedTensor, _codebook_of
from ._types import Array, DType, Path, array_in, array_of, dtype_name, instance, numpy_type, path_text


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint, as its file's header describes it."""

    name: str
    dtype: str  # as files name it: "BF16"
    shape: tuple[int, ...]
    file: str
    offset: int  # of its first byte in the file
    nbytes: int


class Checkpoint(Mapping[str, TensorInfo]):
    """A checkpoint opened for reading: a Hugging Face folder, one .safetensors file, a GGUF file (shown as the folder
    that its model would be), or `org/model` of the local Hugging Face cache. A mapping of names to `TensorInfo`.

    Files are mapped and their headers checked whole. `decoded`: what weights that a file holds in blocks (GGUF, 8-bit
    floats) are shown as. `packed`: 4-bit blocks are shown as quantized. Raises NotFoundError, MalformedFileError,
    UnsupportedError naming file and tensor.
    """

    def __init__(self, path: Path, *, decoded: DType = "bfloat16", packed: bool = False) -> None:
        self._handle: Any = _core.open_checkpoint(path_text(path), dtype_name(decoded), packed)
        self._path, self._files, self._is_folder, self._is_gguf = _core.checkpoint_info(self._handle)
        self._infos: dict[str, TensorInfo] = {
            row[0]: TensorInfo(*row) for row in _core.checkpoint_tensors(self._handle)
        }

    def __getitem__(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    @property
    def path(self) -> str:
        """Of the folder or file."""
        return str(self._path)

    @property
    def files(self) -> list[str]:
        """Paths of the files with tensors."""
        return list(self._files)

    @property
    def is_folder(self) -> bool:
        """A folder, or shown as one."""
        return bool(self._is_folder)

    @property
    def is_gguf(self) -> bool:
        """A GGUF file."""
        return bool(self._is_gguf)

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A tensor as an array over the mapped file, read-only: nothing is read before it is looked at, and nothing is
        copied unless the file holds it unaligned. bfloat16 as uint16; 8-bit floats as uint8."""
        memory, dtype, shape = _core.checkpoint_view(self._handle, name)
        return array_of(memory, numpy_type(dtype), shape)

    def quantized(self, name: str) -> QuantizedTensor:
        """A 4-bit weight, over the mapped file. Raises MalformedFileError naming what disagrees."""
        kind, dtype, shape, block, codes, absmax, table, nested_block, offset, nested, nested_map = (
            _core.checkpoint_quantized(self._handle, name)
        )
        book = _codebook_of(kind, array_of(table, np.float32))
        code_bytes = array_of(codes, np.uint8)
        if nested is None:
            return QuantizedTensor(book, dtype, shape, block, code_bytes, array_of(absmax, np.float32))
        scales = NestedScales(array_of(absmax, np.uint8), array_of(nested, np.float32), offset)
        return QuantizedTensor(
            book, dtype, shape, block, code_bytes, None, scales, array_of(nested_map, np.float32), nested_block
        )

    def is_quantized(self, name: str) -> bool:
        """Whether `name` is a 4-bit weight."""
        return bool(_core.checkpoint_is_quantized(self._handle, name))

    def weight_names(self) -> list[str]:
        """Every tensor that is not a part of a 4-bit weight."""
        return list(_core.checkpoint_weight_names(self._handle))

    def weight_shape(self, name: str) -> tuple[int, ...]:
        """The weight's own shape, quantized or not."""
        return tuple(_core.checkpoint_weight_shape(self._handle, name))

    def stored_type(self, name: str) -> str:
        """How its elements are stored: "BF16", "nf4", "Q4_K"."""
        return str(_core.checkpoint_stored_type(self._handle, name))

    def text_file(self, name: str) -> str:
        """Text of a file of the folder, as "config.json". Raises NotFoundError, InvalidArgumentError for a name that leads
        out of it."""
        text = str(_core.checkpoint_text_file(self._handle, name))
        if not text:
            raise NotFoundError(f"{self.path} has no file '{name}'")
        return text

    def describe(self) -> dict[str, Any]:
        """Every weight with its type, shape, bytes and bits a weight: `describe()["weights"]` is a table for pandas."""
        weights = []
        parameters = total = 0
        for name in self.weight_names():
            shape = self.weight_shape(name)
            size = int(_core.checkpoint_stored_bytes(self._handle, name))
            elements = int(np.prod(shape, dtype=np.int64))
            parameters += elements
            total += size
            weights.append(
                {
                    "name": name,
                    "type": self.stored_type(name),
                    "shape": list(shape),
                    "bytes": size,
                    "bits_per_weight": 8 * size / elements if elements else 0.0,
                }
            )
        return {"path": self.path, "files": self.files, "parameters": parameters, "bytes": total, "weights": weights}

    def close(self) -> None:
        """Unmaps the files. Raises BufferError while arrays over them live, or a call of another thread reads them."""
        if self._handle is None:
            return
        views = _core.checkpoint_users(self._handle) - 1
        if views > 0:
            raise BufferError(f"{views} arrays over {self.path}, or calls that read it, are in use: end them first")
        self._handle = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Arrays that outlive the block keep the files mapped; the checkpoint itself is closed all the same.
        self._handle = None

    def __repr__(self) -> str:
        return f"<nfloat.Checkpoint {self.path!r}, {len(self)} tensors>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Checkpoint is a mapped file: pickle its path")


def checkpoint_of(given: Checkpoint | Path) -> Checkpoint:
    """An opened checkpoint itself, or the one of that path."""
    return given if isinstance(given, Checkpoint) else Checkpoint(given)


def resolve_model_path(path: Path) -> str:
    """Where the local Hugging Face cache keeps "org/model"; a path that exists stays as it is."""
    return str(_core.resolve_model_path(path_text(path)))


def save_tensors(path: Path, tensors: Mapping[str, Array], *, overwrite: bool = False) -> None:
    """Writes one .safetensors file, which appears whole or not at all. uint16 stays uint16: bfloat16 comes from torch
    or ml_dtypes. Raises AlreadyExistsError unless `overwrite`, IoError."""
    for name, values in instance(tensors, Mapping, "tensors").items():
        if name in ("", "__metadata__"):
            raise InvalidArgumentError(f"no tensor can have the name '{name}'")
        if values is None:
            raise TypeError(f"'{name}' is None: an array is needed")
    pairs = [array_in(values) for values in tensors.values()]
    _core.save_tensors(
        path_text(path), list(tensors), [values for values, _ in pairs], [said or "" for _, said in pairs], overwrite
    )
