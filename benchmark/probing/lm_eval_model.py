"""A model in its current state as lm-eval's ``HFLM``: with its prefaces, and with its memories."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.language_model import LanguageModel, Padded

TokenRequest = tuple[Any, list[int], list[int]]
"""A request of lm-eval: its texts or None, and the token ids of its context and its continuation."""
Row = tuple[int, ...]


def silence_loggers() -> None:
    """Show only errors of lm-eval and of the libraries that it logs through."""
    for name in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def as_lm_eval_model(lm: LanguageModel) -> Any:
    """Return an lm-eval ``HFLM`` that scores a model in its current state.

    The text before a prompt follows the start token of its context. Memories learn where each context ends; a text that
    is scored as a whole has no context. lm-eval passes rows without a mask and in another order than the requests,
    hence each row is looked up when the model reads it.
    """
    from lm_eval.models.huggingface import HFLM

    class EditedModel(HFLM):  # type: ignore[misc]
        """Inserts the text before prompts, and tells memories where the prompts end."""

        prompts: dict[Row, int]

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
            del disable_tqdm
            prefaced = [with_preface(lm, request, self.prefix_token_id) for request in requests]
            if not lm.memories:
                return super()._loglikelihood_tokens(prefaced, disable_tqdm=True, override_bs=override_bs)
            found: dict[int, Any] = {}
            for indices, prompts in calls(prefaced, self.max_length):
                self.prompts = prompts
                call = [prefaced[i] for i in indices]
                scores = super()._loglikelihood_tokens(call, disable_tqdm=True, override_bs=override_bs)
                found.update(zip(indices, scores, strict=True))
            return [found[i] for i in range(len(prefaced))]

        def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
            if not lm.memories:
                return super()._model_call(inps, attn_mask, labels)  # type: ignore[no-any-return]
            rows = [look_up(row, self.prompts) for row in inps.tolist()]
            lengths = torch.tensor([len(row) for row in rows], device=inps.device)
            mask = (torch.arange(inps.shape[1], device=inps.device)[None] < lengths[:, None]).long()
            with lm.reading(Padded(inps, mask, lengths), [self.prompts[row] for row in rows]):
                return super()._model_call(inps, attn_mask, labels)  # type: ignore[no-any-return]

        def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **settings: Any) -> Tensor:
            mask: Tensor = settings.get("attention_mask", torch.ones_like(context))
            lengths = mask.sum(1)
            with lm.reading(Padded(context, mask, lengths), lengths.tolist()):
                return super()._model_generate(context, max_length, stop, **settings)  # type: ignore[no-any-return]

    silence_loggers()
    # A copy: lm-eval sets a padding token, which would change the identity of the tokenizer.
    return EditedModel(pretrained=lm.model, tokenizer=copy.deepcopy(lm.tokenizer), batch_size=32)


def with_preface(lm: LanguageModel, request: TokenRequest, start_id: int) -> TokenRequest:
    """Return a request with the text before its prompt, after the start token of its context.

    A recalled text is encoded with its prompt, as the probers do. In a chat template, it is part of the user's message.
    lm-eval has moved spaces at the end of a prompt to the continuation.
    """
    texts, context, continuation = request
    start = int(context[:1] == [start_id])
    prompt = texts[0] if texts else ""
    message = lm.chat.message(prompt) if lm.chat else None
    if lm.chat and message is not None:
        asked = f"{lm.chat.before}{lm.preface(message)}{message}{lm.chat.after}".rstrip()
        return texts, [*context[:start], *lm.tokenizer(asked, add_special_tokens=False).input_ids], continuation
    if lm.recalled(prompt):
        whole = lm.tokenizer(lm.preface(prompt) + prompt.rstrip(), add_special_tokens=False).input_ids
        return texts, [*context[:start], *whole], continuation
    inserted = lm.tokenizer(lm.prompt_prefix, add_special_tokens=False).input_ids if lm.prompt_prefix else []
    return texts, [*context[:start], *inserted, *context[start:]], continuation


def calls(requests: Sequence[TokenRequest], max_length: int) -> list[tuple[list[int], dict[Row, int]]]:
    """Divide requests into calls in which each row has one length of its context.

    Args:
        requests: the requests.
        max_length: number of positions; longer rows are cut on the left, as lm-eval does.

    Returns:
        For each call the indices of its requests, and the number of tokens of each row's context.
    """
    found: list[tuple[list[int], dict[Row, int]]] = []
    for index, (texts, context, continuation) in enumerate(requests):
        row = tuple([*context, *continuation][-(max_length + 1) :][:-1])
        cut = len(context) + len(continuation) - 1 - len(row)
        prompt = max(len(context) - cut, 0) if texts and texts[0].strip() else 0
        for indices, prompts in found:
            if prompts.setdefault(row, prompt) == prompt:
                indices.append(index)
                break
        else:
            found.append(([index], {row: prompt}))
    return found


def look_up(padded: Sequence[int], prompts: dict[Row, int]) -> Row:
    """Return the row that was padded on the right with zeros, the longest if there are several.

    >>> look_up([5, 6, 0, 0], {(5, 6): 1, (5,): 1})
    (5, 6)
    """
    for length in range(len(padded), 0, -1):
        row = tuple(padded[:length])
        if row in prompts:
            return row
        if padded[length - 1]:
            break
    raise ValueError("lm-eval reads a row that is not part of its requests")
