"""Small transformers: a classifier and a segmenter of images, and a language model, that learn on a laptop.

Letters of shapes: B batch, T tokens, D width, H heads, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph.errors import ArchitectureError


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        width: D.
        heads: H, which divides D.
        causal: each token sees itself and those before it.

    Raises:
        ArchitectureError: H does not divide D.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        if width % heads:
            raise ArchitectureError(
                f"a width of {width} does not part into {heads} heads", hint="heads must divide width"
            )
        self.heads, self.head_width, self.causal = heads, width // heads, causal
        self.query, self.key, self.value = (nn.Linear(width, heads * self.head_width) for _ in range(3))
        self.out = nn.Linear(heads * self.head_width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Attend: (B, T, D) -> (B, T, D)."""
        B, T, _ = x_BTD.shape
        q, k, v = (
            f(x_BTD).view(B, T, self.heads, self.head_width).transpose(1, 2)  # (B, H, T, D / H)
            for f in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(B, T, self.heads * self.head_width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two linear layers, each added to the stream, normalised before it (pre-norm)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.up, self.down = nn.Linear(width, mlp_ratio * width), nn.Linear(mlp_ratio * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        return x_BTD + self.down(F.gelu(self.up(self.norm2(x_BTD))))  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """Patches of an image as tokens, then blocks (ViT, Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    def __init__(
        self, in_channels: int, image_size: int, patch_size: int, width: int, depth: int, heads: int, mlp: int
    ) -> None:
        super().__init__()
        patch_size = max(1, min(patch_size, image_size // 4))  # a digit of 8 pixels has 16 patches
        self.grid = image_size // patch_size
        self.patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.positions = nn.Parameter(torch.randn(1, self.grid**2, width) * 0.5)  # as large as patches
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode: (B, C, H, W) -> (B, patches, D)."""
        x_BTD = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """An image classifier: the mean of all patches, and a linear head."""

    def __init__(self, encoder: ImageEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.norm.weight.numel(), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify: (B, C, H, W) -> (B, K)."""
        return self.head(self.encoder(x).mean(1))  # type: ignore[no-any-return]


class MaskHead(nn.Module):
    """A class for each pixel from the features of a grid: they are enlarged, refined and told apart.

    Args:
        width: D, of the features.
        inner: their width once they are enlarged.
        num_classes: K.
        scale: pixels along each side of a place of the grid.
    """

    def __init__(self, width: int, inner: int, num_classes: int, scale: int) -> None:
        super().__init__()
        self.decoder = nn.ConvTranspose2d(width, inner, scale, scale)
        self.refine = nn.Conv2d(inner, inner, 3, padding=1)
        self.head = nn.Conv2d(inner, num_classes, 1)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """Segment: (B, D, h, w) -> (B, H, W, K)."""
        x_BDHW = F.gelu(self.refine(F.gelu(self.decoder(x_BDhw))))
        return self.head(x_BDHW).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Segmenter(MaskHead):
    """A class for each pixel: an encoder as SAM's (arXiv:2304.02643), and a head on its grid."""

    def __init__(self, encoder: ImageEncoder, num_classes: int, image_size: int) -> None:
        width = encoder.norm.weight.numel()
        super().__init__(width, width // 2, num_classes, image_size // encoder.grid)
        self.encoder = encoder

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Segment: (B, C, H, W) -> (B, H, W, K)."""
        x_BTD = self.encoder(x_BCHW)
        grid = self.encoder.grid
        return super().forward(x_BTD.transpose(1, 2).reshape(-1, x_BTD.shape[2], grid, grid))


class CausalLM(nn.Module):
    """A language model whose head is its embedding (GPT-2, Radford et al. 2019)."""

    def __init__(self, vocab_size: int, length: int, width: int, depth: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, mlp, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of the next token: (B, T) -> (B, T, K); T is at most the length that it was built for."""
        x_BTD = self.embedding(ids_BT) + self.positions[:, : ids_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return F.linear(self.norm(x_BTD), self.embedding.weight)


def vit_tiny(
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    patch_size: int = 4,
    width: int = 96,
    depth: int = 6,
    heads: int = 6,
    mlp_ratio: int = 4,
) -> VisionTransformer:
    """A vision transformer for small images; patches have at most a quarter of their side."""
    encoder = ImageEncoder(in_channels, image_size, patch_size, width, depth, heads, mlp_ratio)
    return VisionTransformer(encoder, num_classes)


def seg_tiny(
    num_classes: int = 5,
    in_channels: int = 3,
    image_size: int = 32,
    patch_size: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: int = 4,
) -> Segmenter:
    """A segmenter for small images; patches have at most a quarter of their side."""
    encoder = ImageEncoder(in_channels, image_size, patch_size, width, depth, heads, mlp_ratio)
    return Segmenter(encoder, num_classes, image_size)


def gpt_tiny(
    vocab_size: int = 256,
    length: int = 256,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: int = 4,
) -> CausalLM:
    """A causal language model for bytes."""
    return CausalLM(vocab_size, length, width, depth, heads, mlp_ratio)
