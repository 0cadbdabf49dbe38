# SPDX-License-Identifier: Apache-2.0
"""Number formats compared on a model: the work of `nfloat compare`."""
from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _core
from ._checkpoint import resolve_model_path
from ._control import Control, ProgressFunction, control_handle, progress_function, thread_count
from ._text import Tokenizer
from ._types import Path, PerplexityProtocol, Tokens, path_text, text_list, token_array


@dataclass(frozen=True)
class Comparison:
    """What formats do to a model."""

    data: dict[str, Any]  # the document of `nfloat compare --json`
    best: str | None  # that is recommended, for the limits that were given
    runner_up: str | None

    def records(self) -> list[dict[str, Any]]:
        """One flat row a format, for pandas.DataFrame; what could not be measured has "refused"."""
        rows = []
        for given in self.data["formats"]:
            row: dict[str, Any] = {}
            for key, value in given.items():
                if isinstance(value, dict):
                    # "perplexity" holds "perplexity"; "divergence" holds "mean_kl".
                    row.update({inner if key == "divergence" else f"{key}_{inner}" if inner != key else key: v for inner, v in value.items()})
                elif not isinstance(value, list):
                    row[key] = value
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The document."""
        return dict(self.data)

    def _page(self) -> str:
        return str(_core.comparison_page(json.dumps(self.data)))

    def report(self, path: Path) -> None:
        """Writes the report as one HTML file that loads nothing. The model is read once more for its figures."""
        pathlib.Path(path_text(path)).write_text(self._page(), encoding="utf-8")

    def _repr_html_(self) -> str:
        columns = ("name", "bits_per_weight", "sqnr_db", "perplexity", "mean_kl", "same_top", "pareto")
        head = "".join(f"<th>{name}</th>" for name in columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) + "</tr>" for row in self.records()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>Best: {self.best}</p>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def compare_formats(
    path: Path,
    text: str | Tokens,
    *,
    formats: Sequence[str] = (),
    protocol: PerplexityProtocol = "paper",
    context: int = 0,
    budget_bytes: float = 0,
    max_divergence: float = 0,
    threads: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> Comparison:
    """Loads the plain model at `path` once for each format, its matrices replaced by what the format gives back, and
    scores a text against the model as it is. `formats`: names (`make_format`); none: `default_formats()`. With
    `budget_bytes` (of the whole model) or `max_divergence` (nats a token) the best is chosen within these limits.
    Progress in formats, the plain model counting as one. Raises UnsupportedError for a model that is quantized."""
    names = text_list(formats, "formats")
    found = resolve_model_path(path)
    if isinstance(text, str):
        ids = Tokenizer.load(found).encode_array(text, add_special_tokens=False)
    else:
        ids = token_array(text)
    document = json.loads(
        _core.compare_formats(
            found, ids, names, protocol, context, budget_bytes, max_divergence, thread_count(threads),
            progress_function(progress, "formats"), control_handle(control, "formats"),
        )  # fmt: skip
    )
    choice = document["recommendation"]
    return Comparison(document, choice["format"], choice["runner_up"])
