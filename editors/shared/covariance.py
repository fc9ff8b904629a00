"""The second moment of the keys, C = E[k k^T] over text: what an update is weighed against.

Meng et al. 2022 (ROME), section 3.1, and 2023 (MEMIT), section 4.2, take Wikipedia; where there is none, the model
writes the text itself. A matrix is computed once per model, layer and corpus and kept in the user's cache.
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
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...benchmark.core.errors import KnbenchError
from ...benchmark.core.files import write_json
from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import JsonObject, derived_seed, digest
from ...benchmark.models.hooks import Side, capture, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.loading import cache_folder

VERSION = 1
SELF = "self"
DATASETS = "datasets:"
BATCH = 8
"""Texts that are read or written at once."""


@dataclass(frozen=True)
class Corpus:
    """The text whose keys are averaged.

    Attributes:
        source: ``self``: sampled from the model at temperature 1; a path: a text file; ``datasets:NAME`` or
            ``datasets:NAME#CONFIG``: the column "text" of the training split of a data set, by hub id or folder.
        tokens: how many at least; None takes four per neuron of a layer, so that the matrix can be inverted.
        length: tokens of one text.
        seed: of the sampling.
    """

    source: str = SELF
    tokens: int | None = None
    length: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2 or (self.tokens is not None and self.tokens < self.length):
            raise ValueError("corpus_length must be at least 2, and corpus_tokens at least as many")

    def identity(self) -> list[Any]:
        """Return what tells this text from others: for a file its content, for samples their seed.

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
                f"corpus '{self.source}': {error.strerror}; name a text file, '{SELF}' or '{DATASETS}NAME'"
            ) from None

    def texts(self) -> Iterator[str]:
        """Yield the texts of a file or data set.

        Raises:
            KnbenchError: it cannot be read.
        """
        if not self.source.startswith(DATASETS):
            try:
                yield Path(self.source).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise KnbenchError(f"corpus '{self.source}': {error}") from None
            return
        import datasets

        name, _, config = self.source.removeprefix(DATASETS).partition("#")
        try:
            rows = datasets.load_dataset(name, config or None, split="train", streaming=True)
            for row in rows:
                yield row["text"]
        except KeyError:
            raise KnbenchError(f"corpus '{self.source}' has no column 'text'") from None
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise KnbenchError(f"corpus '{self.source}' cannot be read: {first}") from error


class SecondMoments:
    """Second moments of models' keys, computed when asked for and kept on disk.

    Safe against a second process and against being stopped half-way: a file appears whole or not at all.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        # By model, and gone with it; an edited model keeps the matrix of the weights it had at first.
        self._keys: WeakKeyDictionary[LanguageModel, str] = WeakKeyDictionary()

    def prepare(self, lm: LanguageModel, layers: Sequence[int], reporter: Reporter) -> JsonObject:
        """Compute what is missing, and return the provenance."""
        missing = [layer for layer in layers if not self._path(lm, layer).exists()]
        if missing:
            self._compute(lm, missing, reporter)
        return {"corpus": self.corpus.source, "tokens": self._tokens(lm), "key": self._key(lm)}

    def of(self, lm: LanguageModel, layer: int) -> Tensor:
        """Return C of a layer, (m, m), float32."""
        if not self._path(lm, layer).exists():
            self._compute(lm, [layer], Reporter())
        return load_file(self._path(lm, layer))["C"].to(lm.device)

    def solve(self, lm: LanguageModel, layer: int, keys: Tensor) -> Tensor:
        """Return C^-1 K in float64, for K of shape (m, n).

        Raises:
            ValueError: C is singular, the text being too short.
        """
        return torch.cholesky_solve(keys.double(), self._factor(lm, layer))

    def _factor(self, lm: LanguageModel, layer: int) -> Tensor:
        """Return the lower Cholesky factor of C, (m, m), float64."""
        path = self._path(lm, layer).with_suffix(".factor.safetensors")
        if not path.exists():
            factor, info = torch.linalg.cholesky_ex(self.of(lm, layer).double())
            if int(info):
                raise ValueError(f"the keys' second moment of layer {layer} is singular; set corpus_tokens higher")
            _save(path, {"L": factor.contiguous().cpu()})
        return load_file(path)["L"].to(lm.device)

    def preserved(self, lm: LanguageModel, layer: int, threshold: float | None) -> Tensor:
        """Return an orthonormal basis of what the text uses: eigenvectors of C from a threshold on, (m, r), float64.

        No threshold stands for the mean eigenvalue, which goes with the scale of the model's activations.
        """
        bound = "mean" if threshold is None else f"{threshold:g}"
        path = self._path(lm, layer).with_suffix(f".preserved-{bound}.safetensors")
        if not path.exists():
            values, vectors = torch.linalg.eigh(self.of(lm, layer).double())
            threshold = float(values.mean()) if threshold is None else threshold
            _save(path, {"V": vectors[:, values >= threshold].contiguous().cpu()})
        return load_file(path)["V"].to(lm.device)

    def _tokens(self, lm: LanguageModel) -> int:
        wanted = self.corpus.tokens or 4 * lm.n_neurons
        return -(-wanted // self.corpus.length) * self.corpus.length

    def _key(self, lm: LanguageModel) -> str:
        if lm not in self._keys:
            about = [VERSION, lm.weight_hash(), str(lm.dtype), lm.bos_policy]
            about += [self.corpus.identity(), self._tokens(lm), self.corpus.length]
            self._keys[lm] = digest(about)[:24]
        return self._keys[lm]

    def _folder(self, lm: LanguageModel) -> Path:
        return cache_folder() / "second-moments" / self._key(lm)

    def _path(self, lm: LanguageModel, layer: int) -> Path:
        return self._folder(lm) / f"layer-{layer}.safetensors"

    def _compute(self, lm: LanguageModel, layers: Sequence[int], reporter: Reporter) -> None:
        """Read the text once for all layers that are missing."""
        folder = self._folder(lm)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            layers = [layer for layer in layers if not self._path(lm, layer).exists()]
            if not layers:
                return
            rows = self._rows(lm, reporter)
            sums = {layer: torch.zeros((), dtype=torch.float64) for layer in layers}
            with reporter.stage(f"keys of layers {', '.join(map(str, layers))}", len(rows)) as step:
                for batch in torch.split(rows, BATCH):
                    for layer, keys in _keys(lm, batch, layers).items():
                        sums[layer] = sums[layer] + (keys.T @ keys).double()
                    for _ in batch:
                        step()
            for layer, total in sums.items():
                _save(self._path(lm, layer), {"C": (total / rows.numel()).float().contiguous().cpu()})

    def _rows(self, lm: LanguageModel, reporter: Reporter) -> Tensor:
        """Return the text as token ids, (text, length)."""
        count = self._tokens(lm) // self.corpus.length
        if self.corpus.source == SELF:
            path = self._folder(lm) / "text.json"
            if not path.exists():
                write_json(path, _sampled(lm, count, self.corpus, reporter).tolist())
            rows = torch.tensor(json.loads(path.read_text(encoding="utf-8")))
        else:
            rows = _read(lm, self.corpus, count)
        return rows.to(lm.device)


def _keys(lm: LanguageModel, rows: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the keys of every token of some texts, by layer, (token, m), float32."""
    wanted: dict[str, tuple[nn.Module, Side]] = {str(layer): (lm.mlp_out(layer), "input") for layer in layers}
    spot = torch.zeros(1, dtype=torch.long, device=lm.device)
    with torch.no_grad(), capture(wanted) as seen, stop_after(lm, max(layers)), select_positions(lm, spot, spot):
        lm.model(input_ids=rows, use_cache=False)
    return {layer: seen[str(layer)].flatten(0, 1).float() for layer in layers}


def _sampled(lm: LanguageModel, count: int, corpus: Corpus, reporter: Reporter) -> Tensor:
    """Let the model write texts from its start token on, (count, length)."""
    batches = []
    start = torch.tensor([[lm.start_id]], device=lm.device)
    with torch.random.fork_rng(), reporter.stage("sampling text for the keys' second moment", count) as step:
        torch.manual_seed(derived_seed(corpus.seed, "second moment"))
        for done in range(0, count, BATCH):
            size = min(BATCH, count - done)
            with torch.no_grad():
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
    """Cut a text into rows that each begin as the model's texts do, (count, length).

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
            f"corpus '{corpus.source}' has {len(ids)} tokens, {count * body} are needed; name a longer one, or set "
            "corpus_tokens"
        )
    return torch.tensor([head + ids[i * body : (i + 1) * body] for i in range(count)])


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as work:
        file = Path(work) / path.name
        save_file(tensors, file)
        file.replace(path)
