"""The rules of the control plane, one manager per entity: the transaction and the order of effects."""
