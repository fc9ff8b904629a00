"""Finds the token that starts every text of a causal model."""

from __future__ import annotations

from typing import Any, Literal

from ..core.errors import KnbenchError

BosPolicy = Literal["auto", "always", "never"]


def find_bos(tokenizer: Any, policy: BosPolicy, label: str, *, causal: bool) -> int | None:
    """Return the id of the token that starts each text of a causal model, or None.

    Args:
        tokenizer: a tokenizer of transformers.
        policy: ``auto`` follows the tokenizer, which may add another token than the one that its configuration names as
            BOS; ``always`` and ``never`` override it.
        label: name of the model in messages.
        causal: whether the model is causal. A masked model gets the special tokens of its tokenizer and no other.

    Raises:
        KnbenchError: ``always``, and the tokenizer has no BOS token or the model is masked; or ``auto``, and the
            tokenizer adds several tokens.
    """
    if policy == "never" or (policy == "auto" and not causal):
        return None
    if not causal:
        raise KnbenchError(f"model '{label}' is masked, and its tokenizer adds its special tokens; use bos='auto'")
    if policy == "always":
        if tokenizer.bos_token_id is None:
            raise KnbenchError(f"model '{label}' has no BOS token; use bos='auto' or bos='never'")
        return int(tokenizer.bos_token_id)
    text = "a"
    ids = list(tokenizer(text).input_ids)
    plain = list(tokenizer(text, add_special_tokens=False).input_ids)
    added = next((ids[:n] for n in range(len(ids)) if ids[n : n + len(plain)] == plain), [])
    if len(added) > 1:
        tokens = " ".join(tokenizer.convert_ids_to_tokens(added))
        raise KnbenchError(
            f"model '{label}': its tokenizer starts each text with several tokens ({tokens}), one is supported; use "
            "bos='never' or a tokenizer that adds one"
        )
    return int(added[0]) if added else None
