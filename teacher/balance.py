"""Load of the routed experts: counted, penalized a sequence at a time, equalized by the correction bias.

DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): after a step the bias of every expert moves by
gamma towards the mean load (algorithm 1 of arXiv 2408.15664), and a loss of weight alpha
keeps single sequences from extremes (eqs. 17-20). Both only look at what the routers did.
Where ranks share the experts, `join` adds up their counts first: every rank moves its copy of a bias alike.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from teacher.moe import Router
from teacher.parallel.joins import Join, alone
from teacher.rows import Rows

# N tokens, S sequences, E experts, K experts a token


class LoadMeter:
    """What the routers of one model report. Routers see it through their `meter`; keys are layer numbers."""

    def __init__(self, routers: Mapping[int, Router], *, losses: bool, join: Join = alone) -> None:
        """`losses`: keep the balance loss of every pass until it is taken. `join`: adds up over ranks, in place."""
        self.routers, self.join = dict(routers), join
        self.keeps_losses = losses
        self.kept: list[tuple[Tensor, Tensor, Rows]] = []
        self.rows: Rows | None = None
        self.step: dict[int, Tensor] = {}
        self.window: dict[int, Tensor] = {}
        for layer, router in self.routers.items():
            router.meter = self
            self.step[layer] = torch.zeros(len(router.weight), dtype=torch.int64, device=router.weight.device)
            self.window[layer] = self.step[layer].clone()
        self._layer_of = {id(router): layer for layer, router in self.routers.items()}

    @contextmanager
    def watching(self, rows: Rows) -> Iterator[None]:
        """Count what routers do inside: a forward pass, and not its repetition under activation checkpointing."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None

    def see(self, router: Router, scores_NE: Tensor, chosen_NK: Tensor) -> None:
        """A router's report on one batch: scores with their graph, and the experts chosen."""
        if self.rows is None:
            return
        layer = self._layer_of[id(router)]
        count_E = torch.zeros_like(self.step[layer]).scatter_add_(
            0, chosen_NK.flatten(), torch.ones_like(chosen_NK.flatten())
        )
        self.step[layer] += count_E
        self.window[layer] += count_E
        if self.keeps_losses:
            biased = router.config.topk_method == "noaux_tc"
            # eq. 18 counts the best by score, whatever bias and groups made of it; V2 (arXiv 2405.04434, eq. 24)
            # counts the chosen ones
            picked_NK = scores_NE.detach().topk(chosen_NK.shape[1], dim=-1).indices if biased else chosen_NK
            # Kept and not yet computed with: under activation checkpointing this runs inside a region that is
            # run again, where nothing may be saved for the backward pass that is not saved both times.
            self.kept.append((scores_NE, picked_NK, self.rows))

    def take_loss(self) -> Tensor:
        """The balance loss since it was last taken, summed over layers and sequences; 0 without any."""
        kept, self.kept = self.kept, []
        losses = [sequence_balance(scores, picked, *rows.sequences()) for scores, picked, rows in kept]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def take_load(self) -> dict[int, Tensor]:
        """Tokens each expert got since this was last asked, (E,) int64 on the CPU, by layer."""
        taken = {layer: count_E.cpu() for layer, count_E in self._whole(self.window).items()}
        for layer, count_E in self.window.items():
            self.window[layer] = torch.zeros_like(count_E)
        return taken

    @torch.no_grad()
    def update_bias(self, rate: float) -> None:
        """Move every correction bias by `rate` against the load of the step that ends here.

        The move is centered: what all experts share changes no choice, and left in it would add up over
        a long run until float32 no longer resolves the differences that do.
        """
        for layer, count_E in self._whole(self.step).items():
            load_E = count_E.to(torch.float32)
            move_E = rate * (load_E.mean() - load_E).sign()
            self.routers[layer].e_score_correction_bias.add_(move_E - move_E.mean())

    def _whole(self, counts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Counts of all ranks, in one sum."""
        if not counts:
            return {}
        whole_LE = self.join(torch.stack(list(counts.values())))
        return dict(zip(counts, whole_LE, strict=True))

    def end_step(self) -> None:
        """Forget the step's counts."""
        for count_E in self.step.values():
            count_E.zero_()


def sequence_balance(scores_NE: Tensor, picked_NK: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Sum over sequences of f_i P_i summed over experts (report, eqs. 17-20 without alpha).

    `scores_NE` carry the gradient (through P); `picked_NK` are the experts counted in f.
    """
    experts, choices = scores_NE.shape[1], picked_NK.shape[1]
    length_S = torch.zeros(sequences, device=scores_NE.device).index_add_(
        0, sequence_N, torch.ones_like(sequence_N, dtype=torch.float32)
    )
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)  # eq. 19
    mean_SE = share_NE.new_zeros(sequences, experts).index_add(0, sequence_N, share_NE) / length_S[:, None]  # eq. 20
    cell = (sequence_N[:, None] * experts + picked_NK).flatten()
    count_SE = torch.zeros(sequences * experts, device=scores_NE.device).scatter_add_(
        0, cell, torch.ones_like(cell, dtype=torch.float32)
    )
    frequency_SE = count_SE.view(sequences, experts) * (experts / choices) / length_S[:, None]  # eq. 18
    return (frequency_SE * mean_SE).sum()
