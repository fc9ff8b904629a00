"""Asking a model a batch of probes, and writing down raw observations.

The same numbers as one forward pass per answer, with less work: answers that share a text share its row, a
text that begins another is read off the longer one, rows of like length share a batch, and only the positions
that are asked for pass through the output head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.schema import Case, Probe, derived_seed
from ..models.hooks import select_positions
from ..models.language_model import LanguageModel

TOP_K = 5
"""Tokens that written text is drawn from, as Meng et al. 2022 draw theirs."""

Observation = dict[str, Any]
"""Raw numbers of one probe on one model, as they stand in a record; see :meth:`Prober.observe`."""


@dataclass(frozen=True)
class _Answer:
    """A target in its context, as token ids."""

    context: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """What the model must read to predict every token of the answer."""
        return self.context + self.ids[:-1]

    @property
    def columns(self) -> range:
        """Positions in the row at which the answer's tokens are predicted."""
        return range(len(self.context) - 1, len(self.context) + len(self.ids) - 1)


@dataclass
class Reference:
    """The unedited model's next-token log-probabilities, by prompt: what ``kl`` is measured against."""

    distributions: dict[str, Tensor] = field(default_factory=dict)


class Prober:
    """Measures probes on a causal model.

    Args:
        lm: the model.
        batch_size: rows per forward pass.
        new_tokens: least length of the greedy continuation, in tokens; an answer that is longer gets what it needs.
        free_tokens: length of the text written for a ``generation`` probe.
    """

    def __init__(self, lm: LanguageModel, *, batch_size: int = 32, new_tokens: int = 6, free_tokens: int = 100) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.new_tokens = new_tokens
        self.free_tokens = free_tokens

    def check(self, case: Case) -> None:
        """Make sure that a case can be tokenised for this model.

        Raises:
            ValueError: its subject covers no token, or an answer has none of its own.
        """
        self.lm.subject_span(case.request.prompt, case.request.subject)
        self.lm.split(case.request.text, case.request.target_new)
        for probe in case.probes:
            if probe.kind != "generation":
                self._answer(probe, probe.target)
                self._answer(probe, probe.rival)

    def observe(
        self, probes: Sequence[Probe], *, remember: Reference | None = None, against: Reference | None = None
    ) -> list[Observation]:
        """Measure every probe once.

        Each observation holds, for ``target`` and ``rival``, the summed ``logprob``, and per token
        ``token_logprobs``, ``ranks`` (0: no token is more probable) and ``argmax`` ids, each token after the
        *true* previous ones. Completions also hold the most probable next token (``top``, ``top_id``,
        ``top_logprob``) and the ``generated`` greedy continuation, which is fed nothing but the prompt. A
        ``generation`` probe's observation holds nothing but the ``text`` written after its prompt.

        Args:
            probes: what to ask.
            remember: where to keep the distributions of ``unchanged`` probes, on the unedited model.
            against: distributions to compare with: adds ``kl``, KL(before || now) in nats, to those probes.

        A batch that does not fit into memory is halved, for this and all that follows: the numbers do not depend on it.

        Raises:
            ValueError: an answer cannot be tokenised after its prompt.
        """
        while True:
            try:
                return self._observe(probes, remember, against)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2

    @torch.inference_mode()
    def _observe(
        self, probes: Sequence[Probe], remember: Reference | None, against: Reference | None
    ) -> list[Observation]:
        asked = [probe for probe in probes if probe.kind != "generation"]
        pairs = [(self._answer(p, p.target), self._answer(p, p.rival)) for p in asked]
        wanted = {(a.row, c) for pair in pairs for a in pair for c in a.columns}
        tokens: dict[tuple[tuple[int, ...], int], set[int]] = {key: set() for key in wanted}
        for answer in (a for pair in pairs for a in pair):
            for column, token in zip(answer.columns, answer.ids, strict=True):
                tokens[answer.row, column].add(token)
        prompts: dict[tuple[int, ...], str] = {
            target.context: probe.prompt
            for probe, (target, _) in zip(asked, pairs, strict=True)
            if probe.expect == "unchanged" and probe.kind == "completion"
        }
        seen, divergences = self._read(tokens, prompts, remember, against)
        needs = [self._length(p, t) if p.kind == "completion" else 0 for p, (t, _) in zip(asked, pairs, strict=True)]
        longest: dict[tuple[int, ...], int] = {}
        for (target, _), need in zip(pairs, needs, strict=True):
            longest[target.context] = max(need, longest.get(target.context, 0))
        continuations = self._continue(longest)
        texts = iter(self._write([probe.prompt for probe in probes if probe.kind == "generation"]))
        answered = iter(zip(pairs, needs, strict=True))
        observations = []
        for probe in probes:
            if probe.kind == "generation":
                observations.append({"text": next(texts)})
                continue
            (target, rival), need = next(answered)
            observation: Observation = {"target": _summary(target, seen), "rival": _summary(rival, seen)}
            if probe.kind == "completion":
                top = seen[target.row, len(target.context) - 1]
                observation["top"] = self.lm.decode([top.argmax])
                observation["top_id"] = top.argmax
                observation["top_logprob"] = top.top
                # Cut to what this probe needs: its neighbours in the batch shall not decide what stands in the record.
                observation["generated"] = self.lm.decode(continuations.get(target.context, [])[:need])
                if target.context in divergences and probe.expect == "unchanged":
                    observation["kl"] = divergences[target.context]
            observations.append(observation)
        return observations

    @torch.inference_mode()
    def first_token_logprobs(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return the log-probability of each answer's first token after each prompt, (prompt, answer)."""
        pairs = [[self._encode(prompt, answer) for answer in answers] for prompt in prompts]
        table: list[list[float]] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            contexts = [row[0].context for row in batch]
            logprobs = self._logprobs(contexts, [(i, len(context) - 1) for i, context in enumerate(contexts)])
            table += [logprobs[i, [a.ids[0] for a in row]].tolist() for i, row in enumerate(batch)]
        return table

    def _encode(self, prompt: str, text: str) -> _Answer:
        context, ids = self.lm.split(self.lm.prompt_prefix + prompt, text)
        return _Answer(context, ids)

    def _answer(self, probe: Probe, text: str) -> _Answer:
        return self._encode(probe.prompt, text)

    def _read(
        self,
        tokens: Mapping[tuple[tuple[int, ...], int], set[int]],
        prompts: Mapping[tuple[int, ...], str],
        remember: Reference | None,
        against: Reference | None,
    ) -> tuple[dict[tuple[tuple[int, ...], int], _Position], dict[tuple[int, ...], float]]:
        """Run the rows and read off the asked-for positions."""
        hosts = _hosts({row for row, _ in tokens})
        asked: dict[tuple[int, ...], dict[int, list[tuple[tuple[int, ...], int]]]] = {}
        for row, column in tokens:
            asked.setdefault(hosts[row], {}).setdefault(column, []).append((row, column))
        seen: dict[tuple[tuple[int, ...], int], _Position] = {}
        divergences: dict[tuple[int, ...], float] = {}
        for rows in _batches(sorted(asked, key=lambda r: (len(r), r)), self.batch_size):
            spots = [(i, column) for i, row in enumerate(rows) for column in asked[row]]
            logprobs = self._logprobs(rows, spots)
            top = logprobs.max(dim=-1)
            for n, (i, column) in enumerate(spots):
                prompt = prompts.get(rows[i][: column + 1])
                if prompt is not None:
                    if remember is not None:
                        remember.distributions[prompt] = logprobs[n].clone()
                    if against is not None:
                        divergences[rows[i][: column + 1]] = kl_divergence(against.distributions[prompt], logprobs[n])
                for key in asked[rows[i]][column]:
                    ids = sorted(tokens[key])
                    values = logprobs[n, ids]
                    ranks = (logprobs[n] > values[:, None]).sum(-1)
                    seen[key] = _Position(
                        argmax=int(top.indices[n]),
                        top=float(top.values[n]),
                        logprob=dict(zip(ids, values.tolist(), strict=True)),
                        rank=dict(zip(ids, ranks.tolist(), strict=True)),
                    )
        return seen, divergences

    def _logprobs(self, rows: Sequence[Sequence[int]], spots: Sequence[tuple[int, int]]) -> Tensor:
        """Return log-probabilities at the ``(row, column)`` spots, shape (spot, vocabulary), float32."""
        batch = self.lm.pad(rows)
        index = torch.tensor(spots, device=self.lm.device)
        with select_positions(self.lm, index[:, 0], index[:, 1]):
            logits = self.lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        logprobs: Tensor = logits.float().log_softmax(-1)
        if bool(logprobs.isnan().any()):
            raise FloatingPointError("the model's probabilities are not numbers")
        return logprobs

    def _length(self, probe: Probe, target: _Answer) -> int:
        """Return how many tokens a probe's continuation needs: its longest spelling and one that shows where it ends.

        A continuation of a fixed length would judge every longer answer wrong.
        """
        if not self.new_tokens:
            return 0
        aliases = [len(self.lm.tokenizer(f" {a}", add_special_tokens=False).input_ids) for a in probe.aliases]
        return max(self.new_tokens, 1 + max([len(target.ids), *aliases]))

    def _continue(self, lengths: Mapping[tuple[int, ...], int]) -> dict[tuple[int, ...], list[int]]:
        """Continue each context greedily, by at least so many tokens where the model does not end before."""
        found: dict[tuple[int, ...], list[int]] = {}
        contexts = [context for context, length in lengths.items() if length]
        for rows in _batches(sorted(contexts, key=lambda r: (lengths[r], len(r), r)), self.batch_size):
            found.update(zip(rows, self._generate(rows, max(lengths[row] for row in rows)), strict=True))
        return found

    def _write(self, prompts: Sequence[str]) -> list[str]:
        """Let the model write on after each prompt: sampled from its five most probable tokens.

        Drawn by the Gumbel-max trick from noise that depends on the prompt and the step alone, so that a text does
        not depend on what shares its batch, and the edited model is given the same luck as the unedited one.
        """
        contexts = {prompt: self.lm.encode(self.lm.prompt_prefix + prompt).ids for prompt in prompts}
        texts: dict[str, str] = {}
        order = sorted(contexts, key=lambda prompt: (len(contexts[prompt]), prompt))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            generators = [torch.Generator().manual_seed(derived_seed("write", prompt)) for prompt in batch]

            def draw(_ids: Tensor, logits: Tensor, generators: Sequence[torch.Generator] = generators) -> Tensor:
                top = logits.float().topk(TOP_K, dim=-1)
                noise = torch.stack([torch.rand(TOP_K, generator=g) for g in generators]).clamp_min(1e-10)
                scores = top.values - torch.log(-torch.log(noise)).to(logits.device)
                return torch.full_like(logits.float(), -torch.inf).scatter(-1, top.indices, scores)

            rows = self._generate([contexts[prompt] for prompt in batch], self.free_tokens, draw)
            texts.update(zip(batch, map(self.lm.decode, rows), strict=True))
        return [texts[prompt] for prompt in prompts]

    def _generate(self, rows: Sequence[Sequence[int]], length: int, *processors: Any) -> list[list[int]]:
        """Return the ids that continue each row; the padding stands left so that new tokens line up."""
        batch = self.lm.pad(rows, side="left")
        out = self.lm.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            max_new_tokens=length,
            logits_processor=list(processors),
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=self.lm.start_id,
        )
        new: list[list[int]] = out[:, batch.ids.shape[1] :].tolist()
        return new


@dataclass(frozen=True)
class _Position:
    """What the model predicts at one position."""

    argmax: int
    top: float
    logprob: Mapping[int, float]
    rank: Mapping[int, int]


def _summary(answer: _Answer, seen: Mapping[tuple[tuple[int, ...], int], _Position]) -> dict[str, Any]:
    spots = [seen[answer.row, column] for column in answer.columns]
    logprobs = [spot.logprob[token] for spot, token in zip(spots, answer.ids, strict=True)]
    if not math.isfinite(sum(logprobs)):
        raise FloatingPointError("the model rules an answer out altogether")
    return {
        "logprob": sum(logprobs),
        "token_logprobs": logprobs,
        "ranks": [spot.rank[token] for spot, token in zip(spots, answer.ids, strict=True)],
        "argmax": [spot.argmax for spot in spots],
    }


def _hosts(rows: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Map each row to a longest row that begins with it, whose causal states it shares.

    >>> _hosts([(1,), (1, 2), (3,)])
    {(3,): (3,), (1, 2): (1, 2), (1,): (1, 2)}
    """
    hosts: dict[tuple[int, ...], tuple[int, ...]] = {}
    following: tuple[int, ...] | None = None
    for row in sorted(rows, reverse=True):  # what begins with a row stands directly behind it in order
        hosts[row] = hosts[following] if following and following[: len(row)] == row else row
        following = row
    return hosts


def _batches(rows: Sequence[tuple[int, ...]], size: int) -> Iterable[Sequence[tuple[int, ...]]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def kl_divergence(before: Tensor, now: Tensor) -> float:
    """KL(before || now) in nats from two vectors of log-probabilities, summed in float64.

    Tokens that a model rules out altogether take no part before the edit.

    Raises:
        FloatingPointError: a token is ruled out now that was not before, so that there is no number.
    """
    possible = before > -torch.inf
    p, q = before[possible].double(), now[possible].double()
    value = float((p.exp() * (p - q)).sum())
    if not math.isfinite(value):
        raise FloatingPointError("the divergence from the unedited model is not a number")
    return max(0.0, value)
