"""A mod that defends what a client sends, whatever trains the client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flwr.app import Context, Message

from labelleak.core.seeding import stream
from labelleak.errors import BadInput, unknown_name
from labelleak.flower.defend import DefenseLike, defend, read_defense
from labelleak.flower.events import LOG
from labelleak.flower.forms import Returns
from labelleak.flower.messages import (
    Sent,
    client_of,
    is_train,
    round_of,
)
from labelleak.flower.sealing import keep_metadata, withhold

CallNext = Callable[[Message, Context], Message]


@dataclass(frozen=True, eq=False)
class DefenseMod:
    """See `defense_mod`."""

    defense: DefenseLike
    head: str = ""
    seed: int | None = None
    returns: str | None = None

    def __call__(self, message: Message, context: Context, call_next: CallNext) -> Message:
        """Defend the reply to a training message."""
        before = Sent.of(message, "").arrays
        with keep_metadata(message):
            reply = call_next(message, context)
        if not is_train(message) or reply.has_error():
            return reply
        try:
            if before is None:
                raise BadInput("the message of the server holds no single array record")
            rng = generator_of(self.seed, context, round_of(message))
            defend(
                before,
                reply,
                self.defense,
                rng,
                context=context,
                head=self.head,
                returns=self.returns,
            )
        except Exception:  # noqa: BLE001
            # An update that could not be defended must not leave bare, whatever the reason.
            LOG.exception("the defense failed; the update is withheld")
            return withhold(message)
        return reply


def defense_mod(
    defense: DefenseLike,
    *,
    head: str = "",
    seed: int | None = None,
    returns: str | None = None,
) -> DefenseMod:
    """Make a mod of a defense: it changes the update (after - before), then sends before + update.

    Floating-point parameters are defended; integer buffers and running statistics are not. If
    the defense fails, the update is withheld and the server gets an error.

    Args:
        defense: a defense or chain of labelleak, its text (``"clip:1|gaussian:0.1"``), or a
            function from name -> tensor (one leading dimension of size 1) to the same.
        head: module name of the head, for defenses that treat it apart.
        seed: of its randomness, for experiments. In production leave it None: noise that others
            can draw again protects nothing.
        returns: what the client sends back: ``weights``, a ``difference`` or a ``gradient``; None
            takes weights, and withholds what does not look like them.

    Raises:
        BadInput: for what is no defense, or an unknown form.
    """
    if returns is not None and returns not in set(Returns):
        raise unknown_name("form of reply", returns, [str(one) for one in Returns])
    return DefenseMod(read_defense(defense), head, seed, returns)


def generator_of(seed: int | None, context: Context, server_round: int) -> np.random.Generator:
    """Return the source of a defense's randomness: the system's, or of a client's round."""
    if seed is None:
        return np.random.default_rng()
    return stream(seed, "defense", client_of(context), server_round)


__all__ = ["DefenseMod", "defense_mod", "generator_of"]
