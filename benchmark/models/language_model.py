"""The interface of a model for editors and probing: its modules by role, and its tokenisation.

All tokenisation rules are defined here: the BOS token, the space before a target, padding, and the tokens of a subject.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from ..core.schema import SLOT
from ..core.text import WORD_JOINER, border, join_answer
from .chat import ChatFrame, chat_frame
from .families import ModelFamily
from .identity import config_hash, tokenizer_hash
from .memory import Memory
from .modules import ModelModules
from .reading import Reading, make_reading
from .special_tokens import BosPolicy, find_bos
from .weights import WeightMonitor, parameter_digest, tensor_bytes, weight_fingerprint


@dataclass(frozen=True)
class Tokens:
    """Token ids and the character span ``(start, end)`` of each. The span of BOS is ``(0, 0)``."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class TokenQuery(NamedTuple):
    """A text, the position at which the model predicts a token, and that token."""

    ids: tuple[int, ...]
    position: int
    token: int


@dataclass(frozen=True)
class Padded:
    """A padded batch: ``ids`` and ``mask`` of shape (batch, length), ``lengths`` of shape (batch,)."""

    ids: Tensor
    mask: Tensor
    lengths: Tensor


class Recalls(Protocol):
    """Text before a prompt that depends on the prompt; see :class:`~benchmark.editing.Recall`."""

    def preface(self, lm: LanguageModel, prompt: str) -> str:
        """Return the text that precedes a prompt."""
        ...


class LanguageModel(ModelModules):
    """A model with its tokenizer and the module paths of its family.

    Args:
        model: a Hugging Face model with a language-modelling head.
        tokenizer: its fast tokenizer.
        family: the module paths of the architecture.
        name: the name of the model in reports.
        revision: the version of the weights, or None if it is unknown.
        bos: ``auto`` adds BOS if the tokenizer does so itself; ``always`` and ``never`` override it.
        unused_tensors: names of the tensors in the weights file that the architecture does not have.

    Attributes:
        prompt_prefix: text before every prompt. :meth:`Edit.applied` sets it for in-context editing.
        recall: gives each prompt a text of its own before it, or None. An edit sets it.
        memories: active memories by module name, the innermost first. An edit sets them.
        bos_id: the id of the BOS token that starts each text, or None.
        chat: the chat template around every prompt, or None. :meth:`use_chat_template` sets it.

    The attributes of :class:`~.modules.ModelModules` describe its modules.

    Raises:
        KnbenchError: the tokenizer is not fast, or ``bos`` is ``always`` and the tokenizer has no BOS token.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        family: ModelFamily,
        *,
        name: str,
        revision: str | None = None,
        bos: BosPolicy = "auto",
        unused_tensors: Sequence[str] = (),
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise KnbenchError(
                f"model '{name}' has no fast tokenizer, which is needed to locate the tokens of a subject"
            )
        super().__init__(model, family, name)
        self.tokenizer = tokenizer
        self.revision = revision
        self.unused_tensors = tuple(unused_tensors)
        self.bos_policy = bos
        self.prompt_prefix = ""
        self.recall: Recalls | None = None
        self.memories: dict[str, tuple[Memory, ...]] = {}
        self.memories_suspended = False
        self.current_reading: Reading | None = None
        self._prefaces: dict[str, str] = {}
        self.bos_id = find_bos(tokenizer, bos, name, causal=self.causal)
        self.chat: ChatFrame | None = None
        self._hashed: tuple[str, WeightMonitor] | None = None
        self._vocabulary: int = self.model.get_input_embeddings().weight.shape[0]

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {len(self.blocks)} layers, {self.dtype}, {self.device})"

    def use_chat_template(self, apply: bool) -> None:
        """Put every prompt into the tokenizer's chat template from now on, or stop doing so.

        The prompt is the user's message, and the target is the reply, without a space before it. Whole sentences and
        texts without a target are read as they are.

        Raises:
            KnbenchError: the model is masked, or its tokenizer has no usable chat template.
        """
        if apply and not self.causal:
            raise KnbenchError(f"model '{self.name}' is masked and has no chat; run without --apply-chat-template")
        self.chat = chat_frame(self.tokenizer, self.name, adds_bos=self.bos_id is not None) if apply else None

    def asked(self, prompt: str) -> str:
        """Return a prompt in the chat template, or the prompt itself if none is used."""
        return prompt if self.chat is None else self.chat.around(prompt)

    # --- memories and recalled texts -------------------------------------------------------------------------

    @contextmanager
    def reading(
        self, batch: Padded, prompts: Sequence[int], ends: Sequence[int] | None = None
    ) -> Iterator[Reading | None]:
        """Tell active memories where the prompts of a batch end, in a ``with`` block.

        It covers passes that read the batch and passes that continue its cache. Without active memories it does
        nothing.

        Args:
            batch: the rows that the model reads, padded on either side.
            prompts: number of tokens of each row up to the end of its prompt, BOS included; 0 for a row that has no
                prompt.
            ends: column of the decision of each row without padding; None takes the last token of the prompt. In a row
                of a masked model it is the first mask.
        """
        if not self.memories:
            yield None
            return
        whole = make_reading(batch.mask, prompts, self.leading_tokens, ends)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids: Any = kwargs.get("input_ids", args[0] if args else None)
            past: Any = kwargs.get("past_key_values")
            earlier = past.get_seq_length() if hasattr(past, "get_seq_length") else 0
            self.current_reading = whole.continued(int(earlier), ids.shape[1])

        handle, outer = self.model.register_forward_pre_hook(before, with_kwargs=True), self.current_reading
        try:
            yield whole
        finally:
            handle.remove()
            self.current_reading = outer

    @contextmanager
    def without_memories(self) -> Iterator[None]:
        """Switch the active memories off, in a ``with`` block."""
        before, self.memories_suspended = self.memories_suspended, True
        try:
            yield
        finally:
            self.memories_suspended = before

    def preface(self, prompt: str) -> str:
        """Return the text that precedes a prompt: ``prompt_prefix``, and what is recalled for this prompt.

        An empty prompt recalls nothing. The recalled text of each prompt is computed once per edit, without memories.
        """
        return self.prompt_prefix + self.recalled(prompt)

    def recalled(self, prompt: str) -> str:
        """Return the text that is recalled for a prompt, or an empty string."""
        if self.recall is None or not prompt.strip():
            return ""
        if prompt not in self._prefaces:
            recall = self.recall
            with self.without_memories(), self.without_preface():
                self._prefaces[prompt] = recall.preface(self, prompt)
        return self._prefaces[prompt]

    def set_recall(self, recall: Recalls | None) -> None:
        """Replace :attr:`recall`, and forget what it recalled."""
        self.recall = recall
        self._prefaces = {}

    @contextmanager
    def without_preface(self) -> Iterator[None]:
        """Remove the text before prompts, with which the unedited model is not measured, in a ``with`` block."""
        before, self.prompt_prefix, self.recall = (self.prompt_prefix, self.recall), "", None
        try:
            yield
        finally:
            self.prompt_prefix, self.recall = before

    @cached_property
    def leading_tokens(self) -> int:
        """Number of special tokens that start a text."""
        spans = self.encode("a").spans
        return next(i for i, (start, end) in enumerate(spans) if end > start)

    # --- tokenisation ----------------------------------------------------------------------------------------

    @property
    def start_id(self) -> int:
        """The token that conditions a text without context: BOS, otherwise end of text, as in lm-eval.

        A token that the tokenizer adds to every text counts as BOS.

        Raises:
            KnbenchError: the tokenizer has neither.
        """
        for candidate in (self.bos_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        raise KnbenchError(
            f"model '{self.name}' has neither a BOS nor an end-of-text token, which must start a sentence"
        )

    def encode(self, text: str) -> Tokens:
        """Tokenise a text. A causal model may get BOS first; a masked model gets its special tokens.

        Raises:
            ValueError: the text spells a special token for which the model has no embedding.
        """
        text = text.removesuffix(WORD_JOINER)  # at the end of a prompt; see core/text.py
        encoded = self.tokenizer(text, add_special_tokens=not self.causal, return_offsets_mapping=True)
        ids, spans = tuple(encoded.input_ids), tuple((a, b) for a, b in encoded.offset_mapping)
        if max(ids, default=0) >= self._vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(f"{text!r} contains the token {token!r}, for which the model has no embedding")
        if self.bos_id is not None:
            ids, spans = (self.bos_id, *ids), ((0, 0), *spans)
        return Tokens(ids, spans)

    def split(self, prompt: str, target: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokenise a prompt and its continuation as one text, and split the ids at the start of the continuation.

        :func:`~benchmark.core.text.separator` returns the space between them, which belongs to the first token of the
        target. Other white space at the end of the prompt belongs to the context. An empty prompt is replaced by the
        start token.

        Returns:
            The ids of the context (at least one) and those of the target (at least one, never BOS).

        Raises:
            ValueError: the target has no separate token, or a token contains parts of both.
        """
        prompt = self.asked(prompt)
        text, start = join_answer(prompt, target), border(prompt, target)
        tokens = self.encode(text)
        cut = next((i for i, span in enumerate(tokens.spans) if _continues(text, start, span)), len(tokens.ids))
        if cut and tokens.spans[cut - 1][1] > start:
            raise ValueError(
                f"one token contains the end of {prompt!r} and the start of {target!r}, hence the target has no "
                "probability of its own; write other words before the target"
            )
        if cut == len(tokens.ids):
            raise ValueError(f"the target {target!r} has no separate token after {prompt!r}")
        context = tokens.ids[:cut] or (self.start_id,)
        return context, tokens.ids[cut:]

    @property
    def mask_id(self) -> int:
        """The token that a masked model fills.

        Raises:
            KnbenchError: the tokenizer has no mask token.
        """
        if self.tokenizer.mask_token_id is None:
            raise KnbenchError(f"model '{self.name}' has no mask token")
        return int(self.tokenizer.mask_token_id)

    def locate_target(self, prompt: str, target: str, suffix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokenise a whole sentence for a masked model and locate its target.

        Returns:
            The ids of the sentence and the positions of the target's tokens (at least one).

        Raises:
            ValueError: the target has no separate token, or shares one with its context.
        """
        text = join_answer(prompt, target)
        tokens = self.encode(text + suffix)
        start, end = border(prompt, target), len(text)
        positions = tuple(i for i, span in enumerate(tokens.spans) if _continues(text, start, span) and span[1] <= end)
        covered = {c for i in positions for c in range(*tokens.spans[i])}
        if not set(range(end - len(target), end)) <= covered:
            raise ValueError(f"the target {target!r} shares a token with the surrounding text after {prompt!r}")
        if not positions:
            raise ValueError(f"the target {target!r} has no separate token after {prompt!r}")
        return tokens.ids, positions

    def token_queries(self, prompt: str, target: str, suffix: str) -> list[TokenQuery]:
        """Return one query per token of a target. Each contains the true previous tokens (teacher forcing).

        A causal model predicts the token from the preceding text. A masked model predicts it at its own position: this
        token and the following ones of the target are masked, and the suffix is present. :meth:`preface` precedes
        the prompt.

        Raises:
            ValueError: the target cannot be tokenised after the prompt.
        """
        prompt = self.preface(prompt) + prompt
        if self.causal:
            context, tokens = self.split(prompt, target)
            return [TokenQuery(context + tokens[:n], len(context) + n - 1, token) for n, token in enumerate(tokens)]
        ids, positions = self.locate_target(prompt, target, suffix)
        queries = []
        for n, position in enumerate(positions):
            masked = set(positions[n:])
            visible = tuple(self.mask_id if i in masked else token for i, token in enumerate(ids))
            queries.append(TokenQuery(visible, position, ids[position]))
        return queries

    def subject_span(self, template: str, subject: str, target: str = "") -> tuple[Tokens, range]:
        """Replace ``{}`` in ``template`` by ``subject``, tokenise the text, and locate the tokens of the subject.

        Character offsets of the tokenizer determine the span. They also locate a subject that shares a token with the
        surrounding text or occurs twice in the prompt. The subject needs no spaces around it: particles and suffixes
        may follow.

        Args:
            template: the prompt with ``{}`` in place of the subject.
            subject: the text that replaces it.
            target: a continuation, which is tokenised together with the prompt as in :meth:`split`.

        Returns:
            The tokens of the text and the range of the subject's tokens.

        Raises:
            ValueError: the template has no ``{}``, or no token covers the subject.
        """
        if SLOT not in template:
            raise ValueError(f"the prompt {template!r} has no subject")
        template = self.asked(template)
        start = template.index(SLOT)
        end = start + len(subject)
        tokens = self.encode(join_answer(template.replace(SLOT, subject, 1), target))
        hits = [i for i, (a, b) in enumerate(tokens.spans) if b > a and a < end and b > start]
        if not hits:
            raise ValueError(f"no token of {template!r} covers the subject {subject!r}")
        return tokens, range(hits[0], hits[-1] + 1)

    def pad(self, rows: Sequence[Sequence[int]], *, side: Literal["left", "right"] = "right") -> Padded:
        """Pad token rows to one batch. The attention mask excludes the padding."""
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        filler = self.tokenizer.pad_token_id
        if filler is None or filler >= self._vocabulary:  # added without a row for it
            filler = self.start_id
        ids = torch.full((len(rows), width), filler)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, columns] = torch.tensor(row)
            mask[i, columns] = 1
        return Padded(ids.to(self.device), mask.to(self.device), lengths.to(self.device))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids. Special tokens are skipped, and spaces are kept as in the tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # --- identity --------------------------------------------------------------------------------------------

    def weight_hash(self, *, cached: bool = False) -> str:
        """Return a sha256 over the state dictionary: name, dtype, shape and bytes of each tensor.

        Args:
            cached: return the result of the last call if no parameter shows a change since then; see
                :meth:`~.weights.WeightMonitor.changed`. A large model is then hashed once after it is loaded.
        """
        if cached and self._hashed is not None and not self._hashed[1].changed():
            return self._hashed[0]
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor_bytes(tensor))
        self._hashed = digest.hexdigest(), WeightMonitor(self.model)
        return self._hashed[0]

    @cached_property
    def tokenizer_hash(self) -> str:
        """A sha256 of the tokenizer; see :func:`~.identity.tokenizer_hash`."""
        return tokenizer_hash(self.tokenizer)

    @cached_property
    def config_hash(self) -> str:
        """A sha256 of the configuration's computing part; see :func:`~.identity.config_hash`."""
        return config_hash(self.model.config, getattr(self.model, "generation_config", None))

    def fingerprint(self) -> str:
        """Return a fast hash of all weights, which verifies that they are restored bit for bit.

        See :class:`~.weights.WeightMonitor` for the verification after each edit.
        """
        return weight_fingerprint(parameter_digest(parameter) for parameter in self.model.parameters())


def _continues(text: str, start: int, span: tuple[int, int]) -> bool:
    """Return whether a token belongs to the text from ``start`` on.

    Some tokenizers replace white space, such as a line break, by the space of the next token. The span of this token
    includes the white space before ``start``.
    """
    return span[0] < span[1] > start and not text[min(span[0], start) : start].strip()
