"""The graph of a model: capture, coupled channels, costs, topology and its embedding by a GNN."""
