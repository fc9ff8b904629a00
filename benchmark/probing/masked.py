"""Measures probes on masked language models, which predict a target at its own position and read its right context.

A target of n tokens is replaced by n masks, which are filled from left to right: each token is scored given the true
previous tokens, with masks in place of the later ones. The score of a sentence is its pseudo-log-likelihood, for which
each token is masked in turn (Salazar et al. 2020).

The rows of all probes share passes. A mask is filled from the prediction that scored it, if both have the same row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..core.records import Answer, Observation
from ..core.schema import Case, Probe
from ..models.language_model import TokenQuery
from .base import Position, Prober, Reference, token_ranks
from .divergence import divergence
from .positions import check_length


class MaskedProber(Prober):
    """Measures probes on a masked model; see :class:`~.base.Prober` for the arguments and the observations."""

    def check(self, case: Case) -> None:
        """Check that the model's tokenizer can encode a case.

        Raises:
            ValueError: no token covers the subject, an answer has no token of its own, a text exceeds the model's
                positions, or a probe generates text.
        """
        for request in case.requests:
            if request.subject:
                self.lm.subject_span(request.prompt, request.subject)
        for probe in case.probes:
            if probe.kind == "passages":
                self._check_passages()
                continue
            if probe.kind == "generation":
                raise ValueError("a masked model does not write text; fluency is for causal models")
            for answer in _answers(probe):
                queries = self._token_queries(probe, answer)
                check_length(len(queries[0].ids), self.positions, probe.prompt or answer)

    def logprob_bounds(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return the trivial bound 0, of shape (prompt, answer).

        The first of n masks gives no bound for an answer with another number of masks.
        """
        return [[0.0] * len(answers) for _ in prompts]

    def _token_queries(self, probe: Probe, answer: str) -> list[TokenQuery]:
        """Return one query per token of an answer or, for a minimal pair, of the sentence."""
        if probe.kind == "minimal_pair":
            ids, positions = self.lm.locate_target(self.lm.prompt_prefix.rstrip(), answer, "")
            return [TokenQuery((*ids[:p], self.lm.mask_id, *ids[p + 1 :]), p, ids[p]) for p in positions]
        return self.lm.token_queries(probe.prompt, answer, probe.suffix)

    def _prompt_length(self, probe: Probe, queries: Sequence[TokenQuery]) -> int:
        """Return the number of tokens before an answer, or 0 for a sentence without a prompt."""
        return queries[0].position if probe.prompt.strip() else 0

    @torch.inference_mode()
    def _observe(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None
    ) -> list[Observation]:
        if not self.lm.memories:
            return self._observe_together(probes, save_to, compare_to)
        # Memories decide from the prompt: rows share a pass only if their prompts end at the same token.
        lengths = [self._prompt_length(probe, self._token_queries(probe, probe.target)) for probe in probes]
        found: dict[int, Observation] = {}
        for length in sorted(set(lengths)):
            members = [i for i, own in enumerate(lengths) if own == length]
            observations = self._observe_together([probes[i] for i in members], save_to, compare_to, length)
            found.update(zip(members, observations, strict=True))
        return [found[i] for i in range(len(probes))]

    def _observe_together(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None, prompt: int = 0
    ) -> list[Observation]:
        """Measure every probe once; see :meth:`_observe`.

        Args:
            probes: the probes.
            save_to: receives the distributions of the unedited model.
            compare_to: holds them.
            prompt: number of tokens before the answers, which all probes must share if the model has memories.
        """
        pairs = [[self._token_queries(probe, answer) for answer in _answers(probe)] for probe in probes]
        queries = [query for pair in pairs for answer in pair for query in answer]
        positions = sorted({_position(q) for q in queries}, key=lambda position: (len(position[0]), position))
        reference_keys: dict[Position, set[Position]] = {}
        for probe, pair in zip(probes, pairs, strict=True):
            if probe.expect == "unchanged" and probe.kind == "completion":
                first = _position(pair[0][0])
                reference_keys.setdefault(first, set()).add(self._reference_key(probe, first))
        tokens: dict[Position, set[int]] = {position: set() for position in positions}
        for query in queries:
            tokens[_position(query)].add(query.token)
        scores: dict[Position, dict[int, tuple[float, int]]] = {}  # (log-probability, rank) by token id
        top: dict[Position, tuple[int, float]] = {}  # the most probable token id, and its log-probability
        divergences: dict[Position, tuple[float, float]] = {}
        for batch, logprobs in self._predictions(positions, prompt):
            best = logprobs.max(dim=-1)
            for n, position in enumerate(batch):
                ids = sorted(tokens[position])
                top[position] = int(best.indices[n]), float(best.values[n])
                ranks = token_ranks(logprobs[n], ids, top[position][0])
                scores[position] = dict(zip(ids, zip(logprobs[n, ids].tolist(), ranks, strict=True), strict=True))
                for key in reference_keys.get(position, ()):
                    if save_to is not None:
                        save_to.distributions[key] = logprobs[n].clone()
                    if compare_to is not None:
                        divergences[position] = divergence(compare_to.distributions[key], logprobs[n])
        completions = [
            pair[0] for probe, pair in zip(probes, pairs, strict=True) if probe.kind == "completion" and self.new_tokens
        ]
        filled = iter(self._fill(completions, {position: token for position, (token, _) in top.items()}, prompt))
        observations = []
        for probe, pair in zip(probes, pairs, strict=True):
            target, *rivals = (self._score(answer, scores, top) for answer in pair)
            rival = rivals[0] if rivals else None
            if probe.kind == "minimal_pair":
                observations.append(Observation(target_answer=target, rival_answer=rival))
                continue
            first = _position(pair[0][0])
            top_id, top_logprob = top[first]
            kl, js = divergences.get(first, (None, None)) if probe.expect == "unchanged" else (None, None)
            observations.append(
                Observation(
                    target_answer=target,
                    rival_answer=rival,
                    top=self.lm.decode([top_id]),
                    top_id=top_id,
                    top_logprob=top_logprob,
                    generated=next(filled) if self.new_tokens else "",
                    kl=kl,
                    js=js,
                    recalled=self.lm.recalled(probe.prompt) or None,
                )
            )
        return observations

    def reference_key(self, probe: Probe) -> Position:
        """Return the key of a completion in :attr:`.base.Reference.distributions`.

        Raises:
            ValueError: the target cannot be tokenised after the prompt.
        """
        return self._reference_key(probe, _position(self._token_queries(probe, probe.target)[0]))

    def _reference_key(self, probe: Probe, first: Position) -> Position:
        """Return the position at which the unedited model predicts the target's first token."""
        if not (self.lm.prompt_prefix or self.lm.recall):
            return first
        with self.lm.without_preface():
            return _position(self._token_queries(probe, probe.target)[0])

    def _score(
        self,
        queries: Sequence[TokenQuery],
        scores: Mapping[Position, Mapping[int, tuple[float, int]]],
        top: Mapping[Position, tuple[int, float]],
    ) -> Answer:
        """Return the scores of an answer from log-probability and rank of each token, by position and token id."""
        token_scores = [scores[_position(q)][q.token] for q in queries]
        return Answer(
            logprob=sum(logprob for logprob, _ in token_scores),
            token_logprobs=tuple(logprob for logprob, _ in token_scores),
            ranks=tuple(rank for _, rank in token_scores),
            argmax=tuple(top[_position(q)][0] for q in queries),
        )

    def _predictions(self, positions: Sequence[Position], prompt: int) -> Iterator[tuple[Sequence[Position], Tensor]]:
        """Yield the positions of each pass, and their log-probabilities of shape (position, vocabulary)."""
        for start in range(0, len(positions), self.batch_size):
            batch = positions[start : start + self.batch_size]
            columns = [column for _, column in batch]
            cells = list(enumerate(columns))
            yield batch, self._logprobs([row for row, _ in batch], cells, [prompt] * len(batch), columns)

    def _fill(self, answers: Sequence[Sequence[TokenQuery]], known: Mapping[Position, int], prompt: int) -> list[str]:
        """Fill the masks of each target from left to right, each with the most probable token.

        Args:
            answers: the queries of each target, of which the first has all masks.
            known: the most probable token at positions that have been predicted.
            prompt: number of tokens before the answers, for memories.
        """
        best = dict(known)
        rows, filled = [list(queries[0].ids) for queries in answers], [list[int]() for _ in answers]
        for step in range(max(map(len, answers), default=0)):
            asked = {
                i: (tuple(rows[i]), queries[step].position) for i, queries in enumerate(answers) if step < len(queries)
            }
            unknown = sorted(set(asked.values()) - set(best), key=lambda position: (len(position[0]), position))
            for batch, logprobs in self._predictions(unknown, prompt):
                best.update(zip(batch, logprobs.argmax(-1).tolist(), strict=True))
            for i, position in asked.items():
                rows[i][position[1]] = best[position]
                filled[i].append(best[position])
        return [self.lm.decode(tokens) for tokens in filled]


def _answers(probe: Probe) -> tuple[str, ...]:
    """Return the target and, if the probe has one, the rival."""
    return (probe.target, probe.rival) if probe.rival else (probe.target,)


def _position(query: TokenQuery) -> Position:
    return query.ids, query.position
