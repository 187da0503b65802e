"""The engine: graph, states and observations in; transitions and commands out.

It does no IO, knows no clock and no event loop.  Whoever drives it (`aerodrome.propeller.execution`) feeds it
observations, appends the transitions it gets to the journal, and carries out the commands: at once those that only
prepare, after the append is durable those that have an effect which the append permits.
Source: spec/data-plane.md, section 1.
"""
