"""What is known of the shipped models before torch is loaded."""

from labelleak.simulation import networks
from labelleak.simulation.designs import DESIGNS, MODELS, own_activation


def test_every_design_has_its_network_and_a_known_activation():
    for name, design in DESIGNS.items():
        if not design.takes_tokens:
            assert callable(getattr(networks, f"make_{name}"))
            assert own_activation(name) in networks.ACTIVATIONS
    assert set(DESIGNS) < set(MODELS)
