"""A small transformer encoder on handwritten digits, its feed-forward blocks dense and sparse.

Each image of 8 x 8 pixels is a sequence of 8 rows. `sparsify` leaves a tenth of the weights of the
feed-forward blocks, RigL moves them during the training. Run with ``pip install 'gbdnn[torch]'``:

    python examples/sparse_transformer.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from gbdnn.torch import PatternUpdates, sparsify

WIDTH, HIDDEN, HEADS, LAYERS = 32, 256, 4, 2


class Encoder(nn.Module):
    """Rows of an image to the logits of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.place = nn.Parameter(torch.randn(8, WIDTH) / 10)
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, LAYERS)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits (samples, 10) of (samples, 8, 8)."""
        return self.head(self.encoder(self.embed(rows) + self.place).mean(dim=1))


def train(density: float | None, epochs: int = 10, seed: int = 0) -> tuple[list[float], float, int]:
    """Return the loss of each epoch, the accuracy on images left out, and weights of the blocks."""
    torch.manual_seed(seed)
    images, digits = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    rows = images.float().reshape(-1, 8, 8) / 16
    order = torch.randperm(len(rows))
    fit, held = order[:-360], order[-360:]
    model, steps = Encoder(), epochs * -(-len(fit) // 64)
    if density is not None:
        sparsify(model, density, exclude=["embed", "head"], score="random", fresh=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    updates = None
    if density is not None:
        updates = PatternUpdates(model, optimizer, "rigl", total_steps=steps)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for ids in fit[torch.randperm(len(fit))].split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(rows[ids]), digits[ids])
            loss.backward()
            optimizer.step()
            if updates is not None:
                updates.step()
            total += float(loss.detach()) * len(ids)
        losses.append(total / len(fit))
    with torch.no_grad():
        right = (model.eval()(rows[held]).argmax(1) == digits[held]).float().mean()
    weights = sum(
        layer.weight.numel()
        for block in model.encoder.layers
        for layer in (block.linear1, block.linear2)
    )
    return losses, float(right), weights


def main() -> None:
    """Print both losses side by side."""
    dense, sparse = train(None), train(0.1)
    print("epoch   dense  sparse")
    for epoch, pair in enumerate(zip(dense[0], sparse[0], strict=True), 1):
        print(f"{epoch:5}  {pair[0]:6.3f}  {pair[1]:6.3f}")
    for name, (_, accuracy, weights) in (("dense", dense), ("sparse", sparse)):
        print(f"{name}: accuracy {accuracy:.3f}, {weights:,} weights in feed-forward blocks")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
