"""Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

import torch

from training.optimizers.adam import adam_entry

OPTIMIZER = adam_entry("adamw", torch.optim.AdamW)
