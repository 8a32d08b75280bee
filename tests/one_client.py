"""One client's update with the truth behind it, for tests."""

from labelleak.simulation.client import Update, consumed_labels, train_locally


def run_client(model, data, steps, training, *, seed=0):
    """Train locally and give the update and, aside, the labels of each step."""
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    after = train_locally(model, data, steps, training, seed=seed)
    return Update(before, after), consumed_labels(data, steps)
