"""The mean absolute error."""

from torch.nn import functional

from training.losses.loss import pixel_loss

LOSS = pixel_loss("l1", functional.l1_loss)
