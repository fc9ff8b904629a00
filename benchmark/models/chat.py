"""The text that a chat template puts around a user's message, as ``--apply-chat-template`` of lm-eval does."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core.errors import KnbenchError
from ..core.text import WORD_JOINER

_MESSAGE = "MESSAGE-0417"
"""A text that no template contains; its place in the rendered conversation is that of the message."""


class ChatFrame(NamedTuple):
    """The text around a user's message, up to the first character of the reply.

    Attributes:
        before: the text before the message.
        after: the text after it. The reply follows without a space.
    """

    before: str
    after: str

    def around(self, prompt: str) -> str:
        """Return a prompt as the message, with a mark that no space precedes the reply. An empty prompt is unchanged.

        >>> ChatFrame("<user>", "</user>").around("Where is Oslo?").rstrip(WORD_JOINER)
        '<user>Where is Oslo?</user>'
        """
        if not prompt:
            return prompt
        return f"{self.before}{prompt.removesuffix(WORD_JOINER)}{self.after}{WORD_JOINER}"

    def message(self, text: str) -> str | None:
        """Return the message of a text that begins and ends as the frame does, or None.

        >>> ChatFrame("<user>", "</user>").message("<user>Where is Oslo?</user>")
        'Where is Oslo?'
        """
        inside = text[text.find(self.before) + len(self.before) :] if self.before in text else None
        return inside.removesuffix(self.after) if inside is not None and inside.endswith(self.after) else None


def chat_frame(tokenizer: Any, name: str, *, adds_bos: bool) -> ChatFrame:
    """Return the frame of a tokenizer's chat template with one user's message and the start of the reply.

    Args:
        tokenizer: the tokenizer.
        name: name of the model, for messages.
        adds_bos: whether BOS is put before every text; the template's own BOS is then left out.

    Raises:
        KnbenchError: the tokenizer has no chat template, or it cannot render one user's message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KnbenchError(f"model '{name}' has no chat template; run without --apply-chat-template")
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _MESSAGE}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates are programs and raise errors of every type
        raise KnbenchError(f"model '{name}': its chat template fails: {str(error).splitlines()[0]}") from error
    before, found, after = text.partition(_MESSAGE)
    if not found or _MESSAGE in after:
        raise KnbenchError(f"model '{name}': its chat template does not contain the user's message once")
    if adds_bos and tokenizer.bos_token:
        before = before.removeprefix(tokenizer.bos_token)
    return ChatFrame(before, after)
