"""Measures probes on causal language models.

The numbers equal those of one forward pass per answer token. Batching needs less work:

- a text that is the beginning of another is read from the longer one, because causal states do not depend on later
  tokens;
- texts that begin alike share these tokens in one packed row, see :mod:`.layouts`. For a model that cannot read such
  rows, texts of similar length share a batch;
- only the positions that predict a token pass through the output head;
- continuations start from the keys and values of this pass, see :mod:`.continuations`.

Memories decide at the end of a prompt, and two prompts of which one begins with the other are different questions. On a
model with memories, texts therefore share a pass only if their prompts end at the same token, and only texts without a
prompt share a row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..core.records import Answer, Observation
from ..core.schema import Case, Probe, derived_seed
from ..models.generation import default_generation_config
from ..models.hooks import select_positions
from .abilities import Abilities, abilities
from .base import Position, Prober, Reference, Row, checked_logprobs, token_ranks
from .continuations import CachedTexts, Continuations, Question
from .divergence import divergence
from .layouts import Layout, batches, hosts, packed, packs, padded
from .positions import check_length

TOP_K = 5
"""Number of most probable tokens that free text is sampled from, as in Meng et al. 2022 (ROME)."""


@dataclass(frozen=True)
class _Answer:
    """The token ids of an answer and of the context that precedes it.

    Attributes:
        prompt: number of tokens of the prompt, which is the whole context; 0 for a sentence without a prompt.
    """

    context: Row
    ids: Row
    prompt: int

    @property
    def row(self) -> Row:
        """Input from which the model predicts every token of the answer."""
        return self.context + self.ids[:-1]

    @property
    def beginnings(self) -> list[Row]:
        """The text before each token of the answer, after which the model predicts it."""
        return [self.context + self.ids[:n] for n in range(len(self.ids))]


@dataclass(frozen=True)
class _Prediction:
    """The model's prediction after one text, for the tokens that the probes need.

    Attributes:
        argmax: id of the most probable token.
        max_logprob: log-probability of that token, in nats.
        logprobs: log-probability in nats, by token id.
        ranks: number of tokens that are preferred, by token id; see :func:`.base.token_ranks`.
    """

    argmax: int
    max_logprob: float
    logprobs: Mapping[int, float]
    ranks: Mapping[int, int]


class CausalProber(Prober):
    """Measures probes on a causal model; see :class:`~.base.Prober` for the arguments and the observations."""

    @cached_property
    def abilities(self) -> Abilities:
        """The fast passes that the model computes correctly, tried before the first measurement."""
        return abilities(self.lm)

    def check(self, case: Case) -> None:
        """Check that the model's tokenizer can encode a case.

        Raises:
            ValueError: no token covers the subject, an answer has no token of its own, or a text with its continuation
                exceeds the model's positions.
        """
        for request in case.requests:
            if request.subject:
                self.lm.subject_span(request.prompt, request.subject)
            context, ids = self.lm.split(request.text, request.target_new)
            check_length(len(context) + len(ids) - 1, self.positions, request.text)
        for probe in case.probes:
            if probe.kind == "passages":
                self._check_passages()
                continue
            if probe.kind == "generation":
                self._check_generated(len(self._context(probe.prompt)), self.free_tokens, probe)
                continue
            target, rival = self._encode(probe.prompt, probe.target), self._encode_rival(probe)
            for answer in (target, rival):
                if answer is not None:
                    check_length(len(answer.row), self.positions, probe.prompt or probe.target)
            if probe.kind == "completion":
                self._check_generated(len(target.context), self._continuation_length(probe, target), probe)

    def _check_generated(self, context: int, length: int, probe: Probe) -> None:
        """Check that a context and the generated tokens, of which the last is not read, fit the positions."""
        purpose = f", of which {length} are generated" if length else ""
        check_length(context + max(length - 1, 0), self.positions, probe.prompt, purpose)

    @torch.inference_mode()
    def logprob_bounds(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return the log-probability in nats of each answer's first token after each prompt, (prompt, answer).

        An answer is at most as probable as its first token.

        Raises:
            ValueError: an answer cannot be tokenised after a prompt.
        """
        encoded = [[self._encode(prompt, answer) for answer in answers] for prompt in prompts]
        table: list[list[float]] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = encoded[start : start + self.batch_size]
            contexts = [row[0].context for row in batch]
            ends = [(i, len(context) - 1) for i, context in enumerate(contexts)]
            logprobs = self._logprobs(contexts, ends, [row[0].prompt for row in batch])
            table += [logprobs[i, [a.ids[0] for a in row]].tolist() for i, row in enumerate(batch)]
        return table

    @torch.inference_mode()
    def _observe(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None
    ) -> list[Observation]:
        scored = [probe for probe in probes if probe.kind != "generation"]
        pairs = [(self._encode(p.prompt, p.target), self._encode_rival(p)) for p in scored]
        reference_keys: dict[Row, set[Position]] = {}
        for probe, (target, _) in zip(scored, pairs, strict=True):
            if probe.expect == "unchanged" and probe.kind == "completion":
                reference_keys.setdefault(target.context, set()).add(self._reference_key(probe, target))
        lengths = [
            self._continuation_length(probe, target) if probe.kind == "completion" else 0
            for probe, (target, _) in zip(scored, pairs, strict=True)
        ]
        # The number of tokens of the prompt is part of a question only for memories.
        keys = [(target.context, target.prompt if self.lm.memories else 0) for target, _ in pairs]
        longest: dict[Question, int] = {}
        for key, length in zip(keys, lengths, strict=True):
            if length:
                longest[key] = max(length, longest.get(key, 0))
        continuations = Continuations(self.lm, longest if self.abilities.continues else {}, self.batch_size)
        answers = [answer for pair in pairs for answer in pair if answer is not None]
        predictions, divergences = self._predict_answers(answers, reference_keys, save_to, compare_to, continuations)
        continued = continuations.finish() if self.abilities.continues else self._continue(longest)
        texts = iter(self._write([probe.prompt for probe in probes if probe.kind == "generation"]))
        scored_answers = iter(zip(pairs, keys, lengths, strict=True))
        observations = []
        for probe in probes:
            if probe.kind == "generation":
                observations.append(Observation(text=next(texts)))
                continue
            (target, rival), key, length = next(scored_answers)
            target_answer = _score(target, predictions[target.prompt])
            rival_answer = None if rival is None else _score(rival, predictions[rival.prompt])
            if probe.kind == "minimal_pair":
                observations.append(Observation(target_answer=target_answer, rival_answer=rival_answer))
                continue
            first = predictions[target.prompt][target.context]
            kl, js = divergences.get(target.context, (None, None)) if probe.expect == "unchanged" else (None, None)
            observations.append(
                Observation(
                    target_answer=target_answer,
                    rival_answer=rival_answer,
                    top=self.lm.decode([first.argmax]),
                    top_id=first.argmax,
                    top_logprob=first.max_logprob,
                    # Cut to this probe's own length: a probe with the same context may have needed a longer one.
                    generated=self.lm.decode(continued.get(key, [])[:length]),
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
        return self._reference_key(probe, self._encode(probe.prompt, probe.target))

    def _reference_key(self, probe: Probe, target: _Answer) -> Position:
        """Return the position at which the unedited model predicts the target's first token."""
        if self.lm.prompt_prefix or self.lm.recall:
            with self.lm.without_preface():
                target = self._encode(probe.prompt, probe.target)
        return target.context, len(target.context) - 1

    def _context(self, prompt: str) -> Row:
        return self.lm.encode(self.lm.asked(self.lm.preface(prompt) + prompt)).ids

    def _encode(self, prompt: str, text: str) -> _Answer:
        context, ids = self.lm.split(self.lm.preface(prompt) + prompt, text)
        return _Answer(context, ids, len(context) if prompt.strip() else 0)

    def _encode_rival(self, probe: Probe) -> _Answer | None:
        return self._encode(probe.prompt, probe.rival) if probe.rival else None

    def _predict_answers(
        self,
        answers: Sequence[_Answer],
        reference_keys: Mapping[Row, Collection[Position]],
        save_to: Reference | None,
        compare_to: Reference | None,
        continuations: Continuations,
    ) -> tuple[dict[int, dict[Row, _Prediction]], dict[Row, tuple[float, float]]]:
        """Run the texts of some answers; see :meth:`_predict`.

        Returns:
            By number of tokens of the prompt, the prediction after every beginning of its answers. And the KL and
            Jensen-Shannon divergence by context.
        """
        lengths = sorted({answer.prompt for answer in answers})
        if not self.lm.memories:
            tokens = _tokens_after(answers)
            predictions, divergences = self._predict(tokens, reference_keys, save_to, compare_to, continuations)
            return dict.fromkeys(lengths, predictions), divergences
        found: dict[int, dict[Row, _Prediction]] = {}
        all_divergences: dict[Row, tuple[float, float]] = {}
        for length in lengths:
            tokens = _tokens_after([answer for answer in answers if answer.prompt == length])
            keys = {context: found for context, found in reference_keys.items() if len(context) == length}
            found[length], divergences = self._predict(tokens, keys, save_to, compare_to, continuations, length)
            all_divergences.update(divergences)
        return found, all_divergences

    def _predict(
        self,
        tokens: Mapping[Row, set[int]],
        reference_keys: Mapping[Row, Collection[Position]],
        save_to: Reference | None,
        compare_to: Reference | None,
        continuations: Continuations,
        prompt: int = 0,
    ) -> tuple[dict[Row, _Prediction], dict[Row, tuple[float, float]]]:
        """Return the predictions after the given texts.

        Args:
            tokens: the token ids whose log-probability and rank are needed, by text.
            reference_keys: keys in :class:`~.base.Reference`, by context.
            save_to: receives the distributions of these contexts.
            compare_to: holds the unedited model's distributions of these contexts.
            continuations: receive the states of the contexts that are to be continued.
            prompt: number of tokens of the prompt, which all texts must share if the model has memories.

        Returns:
            The prediction after every text, and the divergences in nats by context.
        """
        members: dict[Row, list[Row]] = {}
        for text, host in sorted(hosts(tokens).items()):
            members.setdefault(host, []).append(text)
        predictions: dict[Row, _Prediction] = {}
        divergences: dict[Row, tuple[float, float]] = {}
        for layout in self._layouts(list(members), prompt):
            ends = [(text, host) for host in layout.paths for text in members[host]]
            logprobs = self._read(layout, ends, continuations, prompt)
            top = logprobs.max(dim=-1)
            for n, (text, _) in enumerate(ends):
                for key in reference_keys.get(text, ()):
                    if save_to is not None:
                        save_to.distributions[key] = logprobs[n].clone()
                    if compare_to is not None:
                        divergences[text] = divergence(compare_to.distributions[key], logprobs[n])
                ids, best = sorted(tokens[text]), int(top.indices[n])
                predictions[text] = _Prediction(
                    argmax=best,
                    max_logprob=float(top.values[n]),
                    logprobs=dict(zip(ids, logprobs[n, ids].tolist(), strict=True)),
                    ranks=dict(zip(ids, token_ranks(logprobs[n], ids, best), strict=True)),
                )
        return predictions, divergences

    def _layouts(self, texts: Sequence[Row], prompt: int) -> Iterator[Layout]:
        """Yield the layouts of the passes that read some texts; see :meth:`_predict`."""
        width = 0 if self.lm.memories and prompt else self.abilities.packing
        if not width:
            in_order = sorted(texts, key=lambda text: (len(text), text))
            yield from (padded(self.lm, rows) for rows in batches(in_order, self.batch_size))
            return
        for group in packs(sorted(texts), self.batch_size, width):
            yield padded(self.lm, group) if len(group) == 1 else packed(self.lm, group)

    def _read(
        self, layout: Layout, ends: Sequence[tuple[Row, Row]], continuations: Continuations, prompt: int
    ) -> Tensor:
        """Run one pass.

        Args:
            layout: the texts of the pass.
            ends: beginnings of these texts after which the model predicts a token, each with its text.
            continuations: receive the states of those beginnings that are to be continued.
            prompt: number of tokens of the prompt of all texts, for memories; 0 without a prompt.

        Returns:
            Log-probabilities of shape (beginning, vocabulary), float32.
        """
        longest = max(layout.paths, key=len)
        check_length(len(longest), self.positions, self.lm.decode(longest))
        places = [(row, columns[-1]) for row, columns in (layout.path(host, len(text)) for text, host in ends)]
        index = torch.tensor(places, device=self.lm.device)
        continued = [n for n, (text, _) in enumerate(ends) if continuations.want(text, prompt)]
        cache = {"past_key_values": DynamicCache(), "use_cache": True} if continued else {"use_cache": False}
        prompts = [prompt] * len(layout.batch.ids)
        with self.lm.reading(layout.batch, prompts) as reading, select_positions(self.lm, index[:, 0], index[:, 1]):
            out = self.lm.model(**layout.inputs, **cache)
        logprobs = checked_logprobs(out.logits)
        if continued:
            texts = [(ends[n][1], len(ends[n][0])) for n in continued]
            states = CachedTexts.gather(out.past_key_values, layout, texts, prompt, reading.notes if reading else None)
            first: list[int] = logprobs[continued].argmax(-1).tolist()
            continuations.collect([ends[n][0] for n in continued], prompt, first, states)
        return logprobs

    def _continuation_length(self, probe: Probe, target: _Answer) -> int:
        """Return the number of tokens that a probe's continuation needs.

        This is the length of the longest spelling of the target, plus one token that shows where the answer ends. A
        fixed length would count every longer answer as wrong.
        """
        if not self.new_tokens:
            return 0
        aliases = [len(self.lm.tokenizer(f" {a}", add_special_tokens=False).input_ids) for a in probe.aliases]
        return max(self.new_tokens, 1 + max([len(target.ids), *aliases]))

    def _continue(self, lengths: Mapping[Question, int]) -> dict[Question, list[int]]:
        """Continue each context greedily by at least its length in tokens, or up to the end-of-text token.

        It reads the contexts again, for models that cannot be continued from the states of a pass.
        """
        continuations: dict[Question, list[int]] = {}
        for keys in batches(sorted(lengths, key=lambda key: (lengths[key], len(key[0]), key)), self.batch_size):
            generated = self._generate([context for context, _ in keys], max(lengths[key] for key in keys))
            continuations.update(zip(keys, generated, strict=True))
        return continuations

    def _write(self, prompts: Sequence[str]) -> list[str]:
        """Sample a text of ``free_tokens`` tokens after each prompt, from the :data:`TOP_K` most probable tokens.

        The Gumbel-max trick draws each token with noise that depends only on the prompt and the step. A text therefore
        does not depend on the other prompts of its batch, and the edited model receives the same noise as the unedited
        one.
        """
        contexts = {prompt: self._context(prompt) for prompt in prompts}
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
        """Return the ids that continue each row. Rows are padded on the left, which aligns the new tokens."""
        batch = self.lm.pad(rows, side="left")
        reading = self.lm.reading(batch, [len(row) for row in rows])
        # Without the settings that the authors chose for samples, not for measurements.
        with reading, default_generation_config(self.lm.model):
            out = self.lm.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=length,
                logits_processor=list(processors),
                do_sample=False,
                num_beams=1,
                pad_token_id=self.lm.start_id,
            )
        new: list[list[int]] = out[:, batch.ids.shape[1] :].tolist()
        return new


def _tokens_after(answers: Sequence[_Answer]) -> dict[Row, set[int]]:
    """Return the token ids that the answers have after each text."""
    tokens: dict[Row, set[int]] = {}
    for answer in answers:
        for text, token in zip(answer.beginnings, answer.ids, strict=True):
            tokens.setdefault(text, set()).add(token)
    return tokens


def _score(answer: _Answer, predictions: Mapping[Row, _Prediction]) -> Answer:
    """Return the scores of an answer.

    Raises:
        FloatingPointError: the answer has probability 0.
    """
    steps = [predictions[text] for text in answer.beginnings]
    logprobs = [step.logprobs[token] for step, token in zip(steps, answer.ids, strict=True)]
    if not math.isfinite(sum(logprobs)):
        raise FloatingPointError("the model assigns probability 0 to an answer")
    return Answer(
        logprob=sum(logprobs),
        token_logprobs=tuple(logprobs),
        ranks=tuple(step.ranks[token] for step, token in zip(steps, answer.ids, strict=True)),
        argmax=tuple(step.argmax for step in steps),
    )
