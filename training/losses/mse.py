"""The mean squared error."""

from torch.nn import functional

from training.losses.loss import pixel_loss

LOSS = pixel_loss("mse", functional.mse_loss)
