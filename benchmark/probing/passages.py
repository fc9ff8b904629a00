"""The held-out passages on which the criterion ``integrity`` measures how far ordinary text is predicted as before.

The passages are the same for every model and task. A change of their text is a new set with another name, which is part
of a run's protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.schema import Probe
from ..models.language_model import LanguageModel
from .positions import max_positions

PASSAGE_SET = "passages-1"
"""Name of the set of passages."""

PASSAGES = (
    "The library opens at nine on weekdays. Anyone who lives in the district can borrow up to six books for a month.",
    "Add the onions to the pan and stir until they turn soft. Then pour in the stock and let it simmer for an hour.",
    "When light passes from air into water, it slows down and bends. The angle depends on the two materials.",
    '"You are late again," she said without looking up. He put his wet coat on the chair and did not answer.',
    "The company reported lower profits for the third quarter, because the price of steel rose faster than expected.",
    "Heavy rain fell over the northern hills during the night, and by morning the river had covered both roads.",
    "To reset the device, hold the button for ten seconds. If the lamp stays red, check the cable and try again.",
    "My grandmother kept bees behind the barn. Every August we filled small jars with honey for the neighbours.",
)

MASK_EVERY = 5
"""A masked model predicts each fifth token of a passage. About 15% of the tokens were masked in its training."""


@dataclass(frozen=True)
class PassageRow:
    """A passage as input of a model.

    Attributes:
        ids: token ids, with the masks of a masked model.
        columns: columns at which the model predicts a token, by the end of the text that was read there: the number of
            characters since the start of the passage. For a masked model, it is the end of the masked token.
    """

    ids: tuple[int, ...]
    columns: dict[int, int]


@dataclass
class PassageReference:
    """Predictions of the unedited model for the passages.

    Attributes:
        logprobs: for each passage, log-probabilities in nats of shape (positions, vocabulary), float32. At half the
            precision the divergence of a model from itself would not be 0.
        ends: for each passage, the ends of the text that was read at these positions, see :class:`PassageRow`.
    """

    logprobs: list[Tensor] = field(default_factory=list)
    ends: list[tuple[int, ...]] = field(default_factory=list)


def integrity_probe() -> Probe:
    """Return the probe that reads the passages."""
    return Probe("integrity", "passages", PASSAGE_SET, "", "", "unchanged", suffix="")


def passage_rows(lm: LanguageModel) -> list[PassageRow]:
    """Return the passages as inputs of a model, each after the model's prompt prefix.

    A passage is cut where the unedited model has no further positions.
    """
    limit = max_positions(lm)
    return [_row(lm, passage, limit) for passage in PASSAGES]


def _row(lm: LanguageModel, passage: str, limit: int | None) -> PassageRow:
    kept = _ends(lm, passage, limit)
    start = len(lm.prompt_prefix)
    tokens = lm.encode(lm.prompt_prefix + passage)
    columns = {end - start: column for column, (_, end) in enumerate(tokens.spans) if end - start in kept}
    last = 1 + max(columns.values())
    if lm.causal:
        return PassageRow(tokens.ids[:last], columns)
    masked = set(columns.values())
    complete = limit is None or len(tokens.ids) <= limit
    ids = tokens.ids if complete else tokens.ids[:last]
    return PassageRow(tuple(lm.mask_id if column in masked else i for column, i in enumerate(ids)), columns)


def _ends(lm: LanguageModel, passage: str, limit: int | None) -> set[int]:
    """Return the ends of the text at which the unedited model predicts a token."""
    spans = lm.encode(passage).spans[:limit]
    # Several tokens of one character, as bytes of a rare one, end at the same place; special tokens have no text.
    ends: Sequence[int] = sorted({end for start, end in spans if end > start})
    return set(ends if lm.causal else ends[MASK_EVERY // 2 :: MASK_EVERY])


def stack_positions(rows: Sequence[PassageRow]) -> list[tuple[int, int]]:
    """Return the ``(row index, column)`` positions at which a model predicts a token, in the order of the rows."""
    return [(number, row.columns[end]) for number, row in enumerate(rows) for end in sorted(row.columns)]


def shared_positions(row: PassageRow, ends: Sequence[int], before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predictions of both models at the positions that both have.

    A prefix can change the first token of a passage, and with it one position.

    Args:
        row: the passage as input of the model as it is.
        ends: ends of the text at the positions of the unedited model.
        before: log-probabilities of the unedited model, of shape (positions, vocabulary).
        now: log-probabilities of the model as it is, in the order of the row's ends.
    """
    order = {end: number for number, end in enumerate(sorted(row.columns))}
    pairs = [(number, order[end]) for number, end in enumerate(ends) if end in order]
    index = torch.tensor(pairs, device=before.device)
    return before[index[:, 0]], now[index[:, 1]]
