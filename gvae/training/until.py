"""The default length of training: until the bound on held-out rows has stopped increasing."""

from __future__ import annotations

from dataclasses import dataclass

from gvae.checks import check_whole
from gvae.errors import ConfigError

__all__ = ["Until"]

# The rule of Until.of, in steps: measured on tables of 140 to 1,440 rows by examples/reproduce/length.py
EVERY, PATIENCE, LEAST, MOST = 50, 2000, 2000, 10_000
PATIENCE_EPOCHS, MOST_EPOCHS = 10, 20  # at least these numbers of epochs, where an epoch has many steps


@dataclass(frozen=True)
class Until:
    """Stopping rule of training: until the bound on the validation rows has stopped increasing.

    Parameters
    ----------
    every : int
        Steps between evaluations of the validation bound: it is evaluated at the end of the first epoch after each multiple
        of `every` steps, and at the last step.
    patience : int
        Training ends after this number of consecutive evaluations without a better bound; the weights of the best one are
        kept.
    least : int
        The number of steps before which training does not end.
    most : int
        The number of steps after which training ends in any case.

    Raises
    ------
    ConfigError
        A value is not a positive integer, or least > most.

    Notes
    -----
    On a small table, where an epoch is one or two steps, training needs a number of steps rather than of epochs, and an
    evaluation after every epoch would cost more than the steps.

    Examples
    --------
    >>> x = gvae.random.normal(gvae.random.key(0), (50, 4), np.float32)
    >>> table, held_out = gvae.data.Table(x[:40]), gvae.data.Table(x[40:])
    >>> model = gvae.models.VAE(4, 2, "diagonal", "gaussian", hidden=(3,))
    >>> until = gvae.training.Until(every=5, patience=2, least=1, most=20)
    >>> trainer, history = gvae.training.train(model, table, validation=held_out, until=until, batch_size=10)
    >>> [row["step"] for row in history.rows]
    [8, 12, 16, 20]
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
        """The default rule for a number of training rows.

        Parameters
        ----------
        n_rows : int
        batch_size : int

        Returns
        -------
        Until
            An evaluation every 50 steps or every epoch, whichever is longer; a patience of 2,000 steps, and of at least 10
            evaluations; at least 2,000 steps; at most 10,000 steps or 20 epochs, whichever is longer.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> gvae.training.Until.of(1000, batch_size=100)
        Until(every=50, patience=40, least=2000, most=10000)
        >>> gvae.training.Until.of(60_000, batch_size=100)
        Until(every=50, patience=10, least=2000, most=12000)
        """
        check_whole(n_rows=n_rows, batch_size=batch_size)
        per_epoch = -(-n_rows // batch_size)
        between = max(EVERY, per_epoch)  # steps from one evaluation to the next
        patience = max(-(-PATIENCE // between), PATIENCE_EPOCHS)
        return cls(every=EVERY, patience=patience, least=LEAST, most=max(MOST, MOST_EPOCHS * per_epoch))
