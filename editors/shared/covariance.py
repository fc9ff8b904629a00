"""The second moment of the keys, C = E[k k^T] over text, which weights the updates of ROME and MEMIT.

Meng et al. 2022 (ROME), section 3.1, and 2023 (MEMIT), section 4.2, average over Wikipedia. By default, the text is
sampled from the model, which needs no data. A matrix is computed once per model, layer and corpus, and stored in the
user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...benchmark.core.errors import KnbenchError, first_line
from ...benchmark.core.files import cache_folder, compute_once, exclusive, write_json
from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import JsonObject, derived_seed, digest
from ...benchmark.models.generation import default_generation_config, sampling_settings
from ...benchmark.models.hooks import Side, capture, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.precision import float64_device, in_float64
from .loaded_files import LoadedFiles

VERSION = 1
"""Version of the cached files; it changes when their content would."""

SELF = "self"
"""Source of a corpus that is sampled from the model."""

DATASETS = "datasets:"
"""Prefix of a source that is read with the datasets library."""

BATCH_SIZE = 8
"""Number of texts per forward pass or call of ``generate``."""


@dataclass(frozen=True)
class Corpus:
    """The text over which the second moment is averaged.

    Attributes:
        source: ``self`` for text sampled from the model at temperature 1; the path of a text file; ``datasets:NAME``
            or ``datasets:NAME#CONFIG`` for the column "text" of the training split of a data set, given by its hub id
            or folder.
        tokens: minimum number of tokens; None takes four per neuron of a layer, which makes C invertible.
        length: tokens per text.
        seed: seed of the sampling.
    """

    source: str = SELF
    tokens: int | None = None
    length: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2 or (self.tokens is not None and self.tokens < self.length):
            raise ValueError("corpus_length must be at least 2, and corpus_tokens at least as many")

    def identity(self) -> list[Any]:
        """Return JSON values that identify the text: of a file the hash of its content, of samples their seed.

        Raises:
            KnbenchError: the file cannot be read.
        """
        if self.source == SELF:
            return [SELF, self.seed]
        if self.source.startswith(DATASETS):
            return [self.source]
        try:
            return ["file", hashlib.sha256(Path(self.source).expanduser().read_bytes()).hexdigest()]
        except OSError as error:
            raise KnbenchError(
                f"corpus '{self.source}': {error.strerror}; give the path of a text file, '{SELF}' or '{DATASETS}NAME'"
            ) from None

    def texts(self) -> Iterator[str]:
        """Yield the texts of a file or data set.

        Raises:
            KnbenchError: the file or data set cannot be read, or the data set has no column "text".
        """
        if not self.source.startswith(DATASETS):
            try:
                yield Path(self.source).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise KnbenchError(f"corpus '{self.source}' cannot be read: {error}") from None
            return
        import datasets

        name, _, config = self.source.removeprefix(DATASETS).partition("#")
        try:
            rows = datasets.load_dataset(name, config or None, split="train", streaming=True)
            for row in rows:
                yield row["text"]
        except KeyError:
            raise KnbenchError(f"corpus '{self.source}' has no column 'text'; use a data set with one") from None
        except Exception as error:
            raise KnbenchError(f"corpus '{self.source}' cannot be read: {first_line(error)}") from error


class SecondMoments:
    """Computes second moments of the keys on demand and caches them on disk.

    Processes may share the cache: a lock lets one of them compute, and files are replaced atomically. An interrupted
    computation leaves no partial file.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        # Keyed by model: an edited model keeps the matrices of the weights that it had at the first call.
        self._keys: WeakKeyDictionary[LanguageModel, str] = WeakKeyDictionary()
        self._files = LoadedFiles()

    def prepare(self, lm: LanguageModel, layers: Sequence[int], reporter: Reporter) -> JsonObject:
        """Compute the matrices of layers that are not cached, and return the provenance.

        Raises:
            KnbenchError: the corpus cannot be read or is too short.
        """
        missing = [layer for layer in layers if not self._path(lm, layer).exists()]
        if missing:
            self._compute(lm, missing, reporter)
        return {"corpus": self.corpus.source, "tokens": self._tokens(lm), "key": self._key(lm)}

    def of(self, lm: LanguageModel, layer: int) -> Tensor:
        """Return C of a layer, (m, m), float32.

        Raises:
            KnbenchError: the corpus cannot be read or is too short.
        """
        if not self._path(lm, layer).exists():
            self._compute(lm, [layer], Reporter())
        return load_file(self._path(lm, layer))["C"].to(lm.device)

    def solve(self, lm: LanguageModel, layer: int, keys: Tensor, shift: float = 0.0) -> Tensor:
        """Return (C + shift I)^-1 K, (m, n), float64, for keys K of shape (m, n).

        On a device without float64 the result is on the CPU.

        Raises:
            ValueError: the shift is 0, and C is singular because the corpus is too short.
        """
        if shift:
            values, vectors = self._spectrum(lm, layer)
            solved: Tensor = vectors @ ((vectors.T @ in_float64(keys)) / (values.clamp(min=0) + shift)[:, None])
            return solved
        return torch.cholesky_solve(in_float64(keys), self._factor(lm, layer))

    def preserved(self, lm: LanguageModel, layer: int, threshold: float | None) -> Tensor:
        """Return an orthonormal basis of the directions that text uses, (m, r), float64.

        Args:
            lm: the model.
            layer: the layer.
            threshold: the basis contains the eigenvectors of C whose eigenvalues are at least this. None takes the
                mean eigenvalue, which adapts to the scale of the model's activations.
        """
        label = "mean" if threshold is None else f"{threshold:g}"
        path = self._path(lm, layer).with_suffix(f".preserved-{label}.safetensors")

        def compute() -> None:
            values, vectors = self._spectrum(lm, layer)
            least = float(values.mean()) if threshold is None else threshold
            _save(path, {"V": vectors[:, values >= least].contiguous().cpu()})

        return self._files.load(compute_once(path, compute), float64_device(lm.device))["V"]

    def _spectrum(self, lm: LanguageModel, layer: int) -> tuple[Tensor, Tensor]:
        """Return the eigenvalues of C, (m,), and its eigenvectors as columns, (m, m), float64."""
        path = self._path(lm, layer).with_suffix(".spectrum.safetensors")

        def compute() -> None:
            values, vectors = torch.linalg.eigh(in_float64(self.of(lm, layer)))
            _save(path, {"values": values.cpu(), "V": vectors.contiguous().cpu()})

        found = self._files.load(compute_once(path, compute), float64_device(lm.device))
        return found["values"], found["V"]

    def _factor(self, lm: LanguageModel, layer: int) -> Tensor:
        """Return the lower Cholesky factor of C, (m, m), float64."""
        path = self._path(lm, layer).with_suffix(".factor.safetensors")

        def compute() -> None:
            factor, info = torch.linalg.cholesky_ex(in_float64(self.of(lm, layer)))
            if int(info):
                raise ValueError(f"the keys' second moment of layer {layer} is singular; set corpus_tokens higher")
            _save(path, {"L": factor.contiguous().cpu()})

        return self._files.load(compute_once(path, compute), float64_device(lm.device))["L"]

    def _tokens(self, lm: LanguageModel) -> int:
        """Return the number of tokens of the corpus, a multiple of the length of a text."""
        tokens = self.corpus.tokens or 4 * lm.n_neurons
        return -(-tokens // self.corpus.length) * self.corpus.length

    def _key(self, lm: LanguageModel) -> str:
        """Return a hash of everything that the matrices depend on."""
        if lm not in self._keys:
            identity = [
                VERSION,
                lm.weight_hash(cached=True),
                lm.tokenizer_hash,
                lm.config_hash,
                str(lm.dtype),
                lm.bos_policy,
            ]
            identity += [self.corpus.identity(), self._tokens(lm), self.corpus.length]
            if self.corpus.source == SELF and sampling_settings(lm.model):
                identity.append("default generation config")  # files of earlier versions were sampled with these values
            self._keys[lm] = digest(identity)[:24]
        return self._keys[lm]

    def _folder(self, lm: LanguageModel) -> Path:
        return cache_folder() / "second-moments" / self._key(lm)

    def _path(self, lm: LanguageModel, layer: int) -> Path:
        return self._folder(lm) / f"layer-{layer}.safetensors"

    def _compute(self, lm: LanguageModel, layers: Sequence[int], reporter: Reporter) -> None:
        """Compute and store the matrices of several layers in one pass over the corpus."""
        with exclusive(self._folder(lm) / "text.json"):  # of all layers, because one pass computes several of them
            layers = [layer for layer in layers if not self._path(lm, layer).exists()]
            if not layers:
                return
            rows = self._rows(lm, reporter)
            sums = {layer: torch.zeros((), dtype=torch.float64) for layer in layers}
            with reporter.stage(f"keys of layers {', '.join(map(str, layers))}", len(rows)) as step:
                for batch in torch.split(rows, BATCH_SIZE):
                    for layer, keys in _keys(lm, batch, layers).items():
                        sums[layer] = sums[layer] + in_float64(keys.T @ keys)
                    for _ in batch:
                        step()
            for layer, total in sums.items():
                _save(self._path(lm, layer), {"C": (total / rows.numel()).float().contiguous().cpu()})

    def rows(self, lm: LanguageModel, reporter: Reporter) -> Tensor:
        """Return the corpus as token ids, (text, length). Sampled text is stored in the cache.

        Raises:
            KnbenchError: the corpus cannot be read or is too short.
        """
        with exclusive(self._folder(lm) / "text.json"):
            return self._rows(lm, reporter)

    def _rows(self, lm: LanguageModel, reporter: Reporter) -> Tensor:
        """Return the corpus as token ids, (text, length)."""
        count = self._tokens(lm) // self.corpus.length
        if self.corpus.source != SELF:
            return text_rows(lm, self.corpus, count, reporter)
        path = self._folder(lm) / "text.json"
        if not path.exists():
            write_json(path, text_rows(lm, self.corpus, count, reporter).tolist())
        return torch.tensor(json.loads(path.read_text(encoding="utf-8"))).to(lm.device)


def text_rows(lm: LanguageModel, corpus: Corpus, count: int, reporter: Reporter) -> Tensor:
    """Return texts of a corpus as token ids, (count, length).

    Raises:
        KnbenchError: the corpus cannot be read or is too short.
    """
    rows = _sampled(lm, count, corpus, reporter) if corpus.source == SELF else _read(lm, corpus, count)
    return rows.to(lm.device)


def _keys(lm: LanguageModel, rows: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the keys of every token of some texts, by layer, (token, m), float32."""
    wanted: dict[str, tuple[nn.Module, Side]] = {str(layer): (lm.mlp_out(layer), "input") for layer in layers}
    position = torch.zeros(1, dtype=torch.long, device=lm.device)  # the head needs at least one
    with (
        torch.no_grad(),
        capture(wanted) as captured,
        stop_after(lm, max(layers)),
        select_positions(lm, position, position),
    ):
        lm.model(input_ids=rows, use_cache=False)
    return {layer: captured[str(layer)].flatten(0, 1).float() for layer in layers}


def _sampled(lm: LanguageModel, count: int, corpus: Corpus, reporter: Reporter) -> Tensor:
    """Sample texts from the model, beginning with its start token, (count, length).

    The model's own generation config has no influence, except for the ids of special tokens.
    """
    batches = []
    start = torch.tensor([[lm.start_id]], device=lm.device)
    with torch.random.fork_rng(), reporter.stage("sampling text for the keys' second moment", count) as step:
        torch.manual_seed(derived_seed(corpus.seed, "second moment"))
        for done in range(0, count, BATCH_SIZE):
            size = min(BATCH_SIZE, count - done)
            with torch.no_grad(), default_generation_config(lm.model):
                rows = lm.model.generate(
                    input_ids=start.expand(size, 1),
                    attention_mask=torch.ones_like(start).expand(size, 1),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    min_new_tokens=corpus.length - 1,
                    max_new_tokens=corpus.length - 1,
                    pad_token_id=lm.start_id,
                )
            batches.append(rows)
            for _ in rows:
                step()
    return torch.cat(batches)


def _read(lm: LanguageModel, corpus: Corpus, count: int) -> Tensor:
    """Split a file or data set into rows of tokens, each with BOS first if the model uses one, (count, length).

    Raises:
        KnbenchError: the text is too short.
    """
    head = [lm.bos_id] if lm.bos_id is not None else []
    body = corpus.length - len(head)
    ids: list[int] = []
    for text in corpus.texts():
        ids += lm.tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) >= count * body:
            break
    if len(ids) < count * body:
        raise KnbenchError(
            f"corpus '{corpus.source}' has {len(ids)} tokens, {count * body} are needed; use a longer text or set "
            "corpus_tokens"
        )
    return torch.tensor([head + ids[i * body : (i + 1) * body] for i in range(count)])


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file atomically."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        file = Path(folder) / path.name
        save_file(tensors, file)
        file.replace(path)
