"""The default length of training: until the bound on held-out rows has stopped growing."""

from __future__ import annotations

from dataclasses import dataclass

from gvae.checks import check_whole
from gvae.errors import ConfigError

__all__ = ["Until"]

# The rule of Until.of, in steps: measured on tables of 140 to 1,440 rows by examples/reproduce/length.py
EVERY, PATIENCE, LEAST, MOST = 50, 2000, 2000, 10_000
PATIENCE_EPOCHS, MOST_EPOCHS = 10, 20  # and no fewer epochs than these, where an epoch has many steps


@dataclass(frozen=True)
class Until:
    """How long to train: until the bound on validation rows has stopped growing. All are whole numbers of at least 1.

    every    : a look at that bound at the end of the first epoch after each multiple of so many steps, and at the last step
    patience : end when so many looks in a row have not found a better bound; the weights of the best one are kept
    least    : steps before which training does not end
    most     : steps after which it ends in any case

    On a small table, where an epoch is a step or two, training needs a number of steps rather than of epochs, and to look
    after every epoch would cost more than the steps.

        train(model, table, validation=held_out, until=Until.of(len(table), batch_size=100))
    """

    every: int
    patience: int
    least: int
    most: int

    def __post_init__(self) -> None:
        check_whole(**vars(self))
        if self.least > self.most:
            raise ConfigError(f"Until: least is {self.least}, expected at most most={self.most}")

    @classmethod
    def of(cls, n_rows: int, batch_size: int) -> Until:
        """The default for so many training rows: a look every 50 steps or every epoch, whichever is longer; a patience of
        2,000 steps, and of 10 epochs at least where looks are epochs; 2,000 steps at least; 10,000 steps or 20 epochs,
        whichever is longer, at most."""
        check_whole(n_rows=n_rows, batch_size=batch_size)
        per_epoch = -(-n_rows // batch_size)
        between = max(EVERY, per_epoch)  # two looks
        patience = max(-(-PATIENCE // between), PATIENCE_EPOCHS)
        return cls(every=EVERY, patience=patience, least=LEAST, most=max(MOST, MOST_EPOCHS * per_epoch))
