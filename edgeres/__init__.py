"""edgeres: compile a ResNet for an edge device, with proof that it is still right and inside its budgets."""

__version__ = "0.1.0"
