"""Stop strings, found in text but looked for only where a token could have completed one.

The token that completes a stop string contains the string's last character, so one table
of tokens a set of strings keeps all other steps free of decoding.
"""

import torch
from torch import Tensor

from distill.prompts import Chat

BROKEN = "\ufffd"
"""What a token that is part of a character decodes to; it may complete any."""


class StopStrings:
    """The sets of stop strings met so far; set 0 is empty."""

    def __init__(self, chat: Chat, vocab_size: int, device: torch.device) -> None:
        self.chat = chat
        self.sets: dict[tuple[str, ...], int] = {(): 0}
        self.may_end_SV = torch.zeros(1, vocab_size, dtype=torch.bool, device=device)
        self.texts: list[str] = []

    def index(self, stops: tuple[str, ...]) -> int:
        """The number of a set, made on first sight."""
        if stops not in self.sets:
            self.sets[stops] = len(self.sets)
            mask_V = torch.tensor(self._may_end(stops), device=self.may_end_SV.device)
            self.may_end_SV = torch.cat([self.may_end_SV, mask_V[None]])
        return self.sets[stops]

    def candidates(self, sets_B: Tensor, ids_B: Tensor) -> list[int]:
        """Places in the batch whose newest token may have completed a stop string."""
        if len(self.sets) == 1:
            return []
        return self.may_end_SV[sets_B, ids_B].nonzero().flatten().tolist()

    def found(self, token_ids: list[int], stops: tuple[str, ...]) -> bool:
        """True when the text of these tokens contains a stop string."""
        text = self.chat.decode(token_ids)
        return any(stop in text for stop in stops)

    def _may_end(self, stops: tuple[str, ...]) -> list[bool]:
        if not self.texts:
            ids = [[token] for token in range(self.may_end_SV.shape[1])]
            self.texts = self.chat.tokenizer.batch_decode(ids, skip_special_tokens=False)
        lasts = {stop[-1] for stop in stops}
        if any(last.isspace() for last in lasts):  # some tokenizers put spaces between tokens
            return [True] * len(self.texts)
        return [BROKEN in text or not lasts.isdisjoint(text) for text in self.texts]


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the earliest stop string."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
