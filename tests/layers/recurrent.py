"""A recurrent network with one layer of BN for all time steps."""

import torch
from torch import nn

from bnbook.layers.norm import BatchNorm


class Recurrent(nn.Module):
    """tanh(BN(W x_t + U h)): one layer of BN for all time steps."""

    def __init__(self):
        super().__init__()
        self.input, self.recurrent = nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.norm = BatchNorm(4)

    def forward(self, x):
        state = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            state = torch.tanh(self.norm(self.input(step) + self.recurrent(state)))
        return state
