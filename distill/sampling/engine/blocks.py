"""BlockPool: who holds which blocks of the cache, and which hold a prefix that may be asked for again.

Counts references, so that rows share the full blocks of a prompt (paged attention: Kwon et al. 2023,
arXiv 2309.06180). Full blocks of prompts stay findable by their tokens and by the block before
them, as long as memory lasts; the one unused longest goes first. Keys are the tokens themselves
under a number for the chain before them, no digests: equal key, equal prefix. Touches no tensors.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROOT = 0
"""Number of the empty chain."""

Key = tuple[int, tuple[int, ...]]
"""The chain before a block, and the block's tokens."""


@dataclass(frozen=True, slots=True)
class Known:
    """The findable beginning of a prompt."""

    blocks: list[int]
    missing: Key | None
    """Key of the first full block that was not found; None when all were."""


class BlockPool:
    """Blocks 0 .. `blocks` - 1 of `block_size` tokens."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self._holders = [0] * blocks
        self._unused = list(range(blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()
        """Blocks that nobody holds but whose content may be found, the one unused longest first."""
        self._found: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._chains: dict[int, int] = {}
        """Number of the chain that ends with a findable block."""
        self._next_chain = ROOT + 1

    @property
    def free(self) -> int:
        """Blocks that can be taken, findable ones included."""
        return len(self._unused) + len(self._kept)

    @property
    def held(self) -> int:
        """Blocks somebody holds."""
        return self.blocks - self.free

    def needed(self, tokens: int) -> int:
        """Blocks that so many tokens fill."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int]:
        """`count` blocks of arbitrary content, held once. The caller has looked at `free`."""
        assert count <= self.free, "more blocks taken than are free"
        taken = []
        for _ in range(count):
            if self._unused:
                block = self._unused.pop()
            else:
                block, _ = self._kept.popitem(last=False)
                self._unlist(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks once more."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._kept[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks, the end of the chain first, so that what many prompts begin with stays longest."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0, "a block was released twice"
            if self._holders[block] == 0:
                if block in self._keys:
                    self._kept[block] = None
                else:
                    self._unused.append(block)

    def find(self, tokens: Sequence[int]) -> Known:
        """How far a prompt is known already; holds nothing."""
        blocks: list[int] = []
        chain = ROOT
        for key_tokens in _full(tokens, self.block_size):
            block = self._found.get((chain, key_tokens))
            if block is None:
                return Known(blocks, (chain, key_tokens))
            blocks.append(block)
            chain = self._chains[block]
        return Known(blocks, None)

    def publish(self, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """Make the full blocks of these tokens findable; `blocks` hold them."""
        chain = ROOT
        for key_tokens, block in zip(_full(tokens, self.block_size), blocks, strict=False):
            key = (chain, key_tokens)
            if key not in self._found:
                if block in self._keys:  # it was published under a chain that has since been evicted
                    self._unlist(block)
                self._found[key], self._keys[block] = block, key
                self._chains[block], self._next_chain = self._next_chain, self._next_chain + 1
            chain = self._chains[self._found[key]]

    def forget(self) -> None:
        """Nothing is findable any more: the weights that made it are gone."""
        self._unused.extend(self._kept)
        self._kept.clear()
        for index in (self._found, self._keys, self._chains):
            index.clear()

    def _unlist(self, block: int) -> None:
        del self._found[self._keys.pop(block)], self._chains[block]


def _full(tokens: Sequence[int], size: int) -> Iterable[tuple[int, ...]]:
    return (tuple(tokens[start : start + size]) for start in range(0, len(tokens) - size + 1, size))
