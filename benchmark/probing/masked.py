"""Probing masked language models, which are asked at the target's own place, its right context being read too.

A target of n tokens stands as n masks that are filled from the left: each token is scored after the true previous
ones, with masks for those to come. A sentence's score is its pseudo-log-likelihood, each token masked in turn (Salazar
et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.schema import Case, Probe
from ..models.language_model import LanguageModel, TokenQuery
from .causal import Observation, Prober, Reference, kl_divergence


class MaskedProber(Prober):
    """Measures probes on a masked model; see :class:`Prober` for what an observation holds."""

    def check(self, case: Case) -> None:
        """Make sure that a case can be tokenised for this model.

        Raises:
            ValueError: its subject covers no token, or an answer has none of its own.
        """
        self.lm.subject_span(case.request.prompt, case.request.subject)
        for probe in case.probes:
            if probe.kind == "generation":
                raise ValueError("a masked model does not write text; fluency is for causal models")
            for answer in (probe.target, probe.rival):
                self._questions(probe, answer)

    def first_token_logprobs(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return the bound 0: the first of n masks says nothing of another number of masks."""
        return [[0.0] * len(answers) for _ in prompts]

    def _questions(self, probe: Probe, answer: str) -> list[TokenQuery]:
        """Return one question per token of an answer, or of a sentence."""
        if probe.kind == "minimal_pair":
            ids, positions = self.lm.place(self.lm.prompt_prefix.rstrip(), answer, "")
            return [TokenQuery((*ids[:p], self.lm.mask_id, *ids[p + 1 :]), p, ids[p]) for p in positions]
        return self.lm.token_queries(probe.prompt, answer, probe.suffix)

    @torch.inference_mode()
    def _observe(
        self, probes: Sequence[Probe], remember: Reference | None, against: Reference | None
    ) -> list[Observation]:
        asked = [[self._questions(probe, answer) for answer in (probe.target, probe.rival)] for probe in probes]
        rows = sorted({(q[0], q[1]) for pair in asked for answer in pair for q in answer}, key=lambda r: (len(r[0]), r))
        keys = {
            pair[0][0][:2]: self._key(probe)
            for probe, pair in zip(probes, asked, strict=True)
            if probe.expect == "unchanged" and probe.kind == "completion"
        }
        wanted: dict[tuple[tuple[int, ...], int], set[int]] = {row: set() for row in rows}
        for question in (q for pair in asked for answer in pair for q in answer):
            wanted[question[:2]].add(question[2])
        seen: dict[tuple[tuple[int, ...], int], dict[int, tuple[float, int]]] = {}
        top: dict[tuple[tuple[int, ...], int], tuple[int, float]] = {}
        divergence: dict[tuple[tuple[int, ...], int], float] = {}
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            logprobs = self._logprobs([text for text, _ in batch], [(i, p) for i, (_, p) in enumerate(batch)])
            for n, row in enumerate(batch):
                ids = sorted(wanted[row])
                values = logprobs[n, ids]
                ranks = (logprobs[n] > values[:, None]).sum(-1).tolist()
                seen[row] = dict(zip(ids, zip(values.tolist(), ranks, strict=True), strict=True))
                best = int(logprobs[n].argmax())
                top[row] = best, float(logprobs[n, best])
                if row in keys and remember is not None:
                    remember.distributions[keys[row]] = logprobs[n].clone()
                if row in keys and against is not None:
                    divergence[row] = kl_divergence(against.distributions[keys[row]], logprobs[n])
        observations = []
        for probe, pair in zip(probes, asked, strict=True):
            observation: Observation = {}
            for side, answer in zip(("target", "rival"), pair, strict=True):
                found = [seen[q[:2]][q[2]] for q in answer]
                observation[side] = {
                    "logprob": sum(logprob for logprob, _ in found),
                    "token_logprobs": [logprob for logprob, _ in found],
                    "ranks": [rank for _, rank in found],
                    "argmax": [top[q[:2]][0] for q in answer],
                }
            if probe.kind == "completion":
                first = pair[0][0][:2]
                observation["top"] = self.lm.decode([top[first][0]])
                observation["top_id"], observation["top_logprob"] = top[first]
                observation["generated"] = self._fill(pair[0])
                if first in divergence and probe.expect == "unchanged":
                    observation["kl"] = divergence[first]
            observations.append(observation)
        return observations

    def _key(self, probe: Probe) -> str:
        return f"{probe.prompt} \u0000 {probe.target}"

    def _fill(self, token_queries: Sequence[TokenQuery]) -> str:
        """Fill the target's masks from the left, each with the most probable token."""
        text, filled = list(token_queries[0][0]), []
        for _, position, _ in token_queries if self.new_tokens else []:
            text[position] = int(self._logprobs([text], [(0, position)])[0].argmax())
            filled.append(text[position])
        return self.lm.decode(filled)


def make_prober(lm: LanguageModel, *, batch_size: int = 32, new_tokens: int = 6, free_tokens: int = 100) -> Prober:
    """Return the prober that fits a model's objective."""
    kind = Prober if lm.causal else MaskedProber
    return kind(lm, batch_size=batch_size, new_tokens=new_tokens, free_tokens=free_tokens)
